"""Arithmetic of shapes, costs, columns, limits and conditions.

One grammar serves ops files and catalogue entries: whole numbers and floats, names, + - * / // % **, comparisons,
and/or/not, and min(), max(), ceildiv(a, b), round_up(a, b). Text from a file is parsed, never executed as Python.
Length, depth, exponents and magnitudes are bounded, so every expression ends in a number, a truth value or a
GrammarError, and soon. Values follow Python: / gives a float, // and % round down.
"""

import keyword
import math
import operator
from dataclasses import dataclass
from functools import lru_cache

from lark import Lark, Transformer, UnexpectedInput, v_args
from lark.exceptions import VisitError

MAX_LENGTH = 600
MAX_DEPTH = 60
MAX_DIGITS = 18
MAX_MAGNITUDE = 10**24

_GRAMMAR = r"""
?start: disjunction
?disjunction: conjunction | disjunction "or" conjunction -> or_
?conjunction: negation | conjunction "and" negation -> and_
?negation: comparison | "not" negation -> not_
?comparison: sum | sum (COMPARE sum)+ -> compare
?sum: term | sum SUM_OP term -> binary
?term: unary | term TERM_OP unary -> binary
?unary: power | SUM_OP unary -> unary
?power: atom | atom POWER unary -> binary
?atom: FLOAT -> float | INT -> int | NAME -> name | NAME "(" [disjunction ("," disjunction)*] ")" -> call
     | "(" disjunction ")"

SUM_OP: "+" | "-"
POWER.2: "**"
TERM_OP: "//" | "/" | "%" | "*"
COMPARE: "<=" | ">=" | "==" | "!=" | "<" | ">"
INT: /\d[\d_]*/
FLOAT: /\d+\.\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|\d+[eE][+-]?\d+/
NAME: /[A-Za-z_][A-Za-z0-9_]*/
%ignore /[ \t]+/
"""

_SPELLINGS = str.maketrans({"≤": "<=", "≥": ">=", "≠": "!=", "×": "*", "·": "*", "−": "-", "\u00a0": " "})


class GrammarError(ValueError):
    """An expression that cannot be parsed or has no value. The message says what is wrong with it."""


@dataclass(frozen=True)
class Number:
    value: int | float


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Unary:
    op: str
    arg: object


@dataclass(frozen=True)
class Binary:
    op: str
    left: object
    right: object


@dataclass(frozen=True)
class Compare:
    first: object
    rest: tuple


@dataclass(frozen=True)
class Call:
    function: str
    args: tuple


def ceildiv(a, b):
    """a / b, rounded up."""
    return -(-a // b)


def round_up(a, b):
    """The smallest multiple of b that is at least a."""
    return ceildiv(a, b) * b


FUNCTIONS = {"min": min, "max": max, "ceildiv": ceildiv, "round_up": round_up}
_ARITHMETIC = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_COMPARE = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


@v_args(inline=True)
class _Build(Transformer):
    def int(self, token):
        digits = token.replace("_", "")
        if len(digits) > MAX_DIGITS:
            raise GrammarError(f"the number {token[:24]}… is too long (at most {MAX_DIGITS} digits)")
        return Number(int(digits))

    def float(self, token):
        value = float(token)
        if len(token) > 40 or not abs(value) <= MAX_MAGNITUDE:
            raise GrammarError(f"the number {token[:24]} is out of range")
        return Number(value)

    def name(self, token):
        if keyword.iskeyword(token) or token.startswith("__") or token in FUNCTIONS:
            raise GrammarError(f"{token} is not usable as a name")
        if len(token) > 64:
            raise GrammarError(f"the name {token[:24]}… is too long")
        return Name(str(token))

    def call(self, token, *args):
        args = tuple(a for a in args if a is not None)
        if token not in FUNCTIONS:
            raise GrammarError(f"there is no function {token[:24]} (known: {', '.join(FUNCTIONS)})")
        if token in ("ceildiv", "round_up") and len(args) != 2:
            raise GrammarError(f"{token} takes 2 arguments, found {len(args)}")
        if len(args) < 2:
            raise GrammarError(f"{token} takes at least 2 arguments, found {len(args)}")
        return Call(str(token), args)

    def unary(self, op, arg):
        return Unary(str(op), arg)

    def binary(self, left, op, right):
        return Binary(str(op), left, right)

    def compare(self, first, *rest):
        return Compare(first, tuple((str(rest[i]), rest[i + 1]) for i in range(0, len(rest), 2)))

    def not_(self, arg):
        return Unary("not", arg)

    def and_(self, left, right):
        return Binary("and", left, right)

    def or_(self, left, right):
        return Binary("or", left, right)


@lru_cache(maxsize=1)
def _parser():
    return Lark(_GRAMMAR, parser="lalr", transformer=_Build(), maybe_placeholders=False)


def _children(node):
    if isinstance(node, Unary):
        return (node.arg,)
    if isinstance(node, Binary):
        return (node.left, node.right)
    if isinstance(node, Compare):
        return (node.first, *(arg for _, arg in node.rest))
    return node.args if isinstance(node, Call) else ()


def _depth(root):
    deepest, level = 0, [root]
    while level:
        deepest += 1
        level = [child for node in level for child in _children(node)]
    return deepest


@lru_cache(maxsize=8192)
def _parse_text(text):
    if len(text) > MAX_LENGTH:
        raise GrammarError(f"the expression is too long ({len(text)} characters, at most {MAX_LENGTH})")
    if not text.strip():
        raise GrammarError("the expression is empty")
    try:
        tree = _parser().parse(text.translate(_SPELLINGS))
    except GrammarError:
        raise
    except VisitError as error:
        raise GrammarError(str(error.orig_exc)) from None
    except UnexpectedInput as error:
        at_end = getattr(getattr(error, "token", None), "type", "") == "$END"
        rest = "" if at_end else text.translate(_SPELLINGS)[error.pos_in_stream :].strip()
        found = repr(rest[:20]) if rest else "its end"
        raise GrammarError(f"{text.strip()[:80]!r} is not an expression: unexpected {found}") from None
    if _depth(tree) > MAX_DEPTH:
        raise GrammarError(f"the expression is nested too deeply (at most {MAX_DEPTH} levels)")
    return tree


def parse(text):
    """Parse an expression (a string, a number, or an already parsed one). Raises GrammarError."""
    if isinstance(text, bool):
        raise GrammarError(f"{text} is not an expression")
    if isinstance(text, int | float):
        _check_value(text)
        return Number(text) if text >= 0 else Unary("-", Number(-text))
    if isinstance(text, str):
        return _parse_text(text)
    return text


def _check_value(value):
    if isinstance(value, complex):
        raise GrammarError("the result is not a real number")
    if not abs(value) <= MAX_MAGNITUDE:
        raise GrammarError("the result is out of range")
    return True


def _power(base, exponent):
    if isinstance(base, bool) or isinstance(exponent, bool):
        raise GrammarError("a truth value cannot be a power")
    if base == 0 and exponent < 0:
        raise GrammarError("division by zero")
    if base != 0 and abs(exponent * math.log10(abs(base))) > 30:
        raise GrammarError("the power is out of range")
    return base**exponent


def _number(value, what):
    if isinstance(value, bool):
        raise GrammarError(f"{what} needs a number, found a comparison")
    return value


def _truth(value, what):
    if not isinstance(value, bool):
        raise GrammarError(f"{what} needs a comparison, found the number {value}")
    return value


def evaluate(expr, env):
    """The value of an expression with names looked up in `env` (a mapping of name to number).

    A comparison gives a bool. Raises GrammarError for an unknown name, a division by zero, or a value out of range.
    """
    node = parse(expr)
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Name):
        if node.name not in env:
            raise GrammarError(f"{node.name} is not defined")
        return env[node.name]
    if isinstance(node, Unary):
        if node.op == "not":
            return not _truth(evaluate(node.arg, env), "not")
        value = _number(evaluate(node.arg, env), node.op)
        return -value if node.op == "-" else value
    if isinstance(node, Compare):
        left, result = _number(evaluate(node.first, env), "a comparison"), True
        for op, arg in node.rest:
            right = _number(evaluate(arg, env), "a comparison")
            result, left = result and _COMPARE[op](left, right), right
        return result
    if isinstance(node, Binary) and node.op in ("and", "or"):
        left, right = _truth(evaluate(node.left, env), node.op), _truth(evaluate(node.right, env), node.op)
        return (left and right) if node.op == "and" else (left or right)
    try:
        if isinstance(node, Call):
            value = FUNCTIONS[node.function](*(_number(evaluate(a, env), node.function) for a in node.args))
        else:
            left, right = (_number(evaluate(side, env), node.op) for side in (node.left, node.right))
            value = _power(left, right) if node.op == "**" else _ARITHMETIC[node.op](left, right)
    except ZeroDivisionError:
        raise GrammarError(f"division by zero in {to_python(node)}") from None
    except (OverflowError, ValueError) as error:
        if isinstance(error, GrammarError):
            raise
        raise GrammarError(f"{to_python(node)} is out of range") from None
    _check_value(value)
    return value


def free_names(expr):
    """Names in the order of their first appearance."""
    return list(_free_names(parse(expr)))


@lru_cache(maxsize=8192)
def _free_names(node):
    if isinstance(node, Name):
        return (node.name,)
    return tuple(dict.fromkeys(name for child in _children(node) for name in _free_names(child)))


def functions_used(expr):
    """Functions that the expression calls, in the order of their first appearance."""
    node = parse(expr)
    own = [node.function] if isinstance(node, Call) else []
    return list(dict.fromkeys(own + [f for child in _children(node) for f in functions_used(child)]))


_PRECEDENCE = {"or": 1, "and": 2, "not": 3, "compare": 4, "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "**": 8}


def _precedence(node):
    if isinstance(node, Compare):
        return _PRECEDENCE["compare"]
    if isinstance(node, Unary):
        return _PRECEDENCE["not"] if node.op == "not" else 7
    return _PRECEDENCE[node.op] if isinstance(node, Binary) else 9


def to_python(expr, rename=None):
    """The expression as Python source with as few parentheses as keep its meaning.

    `rename` maps names to what is written for them: a mapping (missing names stay) or a function. Functions keep
    their names, so ceildiv and round_up must be defined where the code runs (functions_used tells).
    """
    if rename is None:
        write = str
    elif callable(rename):
        write = rename
    else:
        write = lambda name: rename.get(name, name)  # noqa: E731
    return _render(parse(expr), write)


def _render(node, write):
    def side(child, least):
        text = _render(child, write)
        return f"({text})" if _precedence(child) < least else text

    if isinstance(node, Number):
        return repr(node.value)
    if isinstance(node, Name):
        return write(node.name)
    if isinstance(node, Call):
        return f"{node.function}({', '.join(_render(a, write) for a in node.args)})"
    level = _precedence(node)
    if isinstance(node, Unary):
        return f"not {side(node.arg, level)}" if node.op == "not" else f"{node.op}{side(node.arg, level)}"
    if isinstance(node, Compare):
        return side(node.first, level + 1) + "".join(f" {op} {side(arg, level + 1)}" for op, arg in node.rest)
    if node.op == "**":
        return f"{side(node.left, 9)}**{side(node.right, 7)}"
    return f"{side(node.left, level)} {node.op} {side(node.right, level + 1)}"


def whole(value, what="the value"):
    """`value` as an int. Raises GrammarError unless it is a whole number."""
    if isinstance(value, bool) or not math.isfinite(value) or value != int(value):
        raise GrammarError(f"{what} is {value}, not a whole number")
    return int(value)
