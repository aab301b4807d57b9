"""What stands in the cells of an ops file: shapes, kernels, op names."""

import re
from dataclasses import dataclass

from .. import grammar
from ..grammar import GrammarError

KERNEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# Files of the bundle have these names: bench_utils.py and all_kernels.csv.
RESERVED = ("utils", "all_kernels")
MAX_LABEL = 100
_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)\s*:(?!:)")
_COMPARISON = re.compile(r"[<>=≤≥≠]")
_CONDITION_WORDS = re.compile(r"^(if|for|when|where|only)\s+(?![<>=])", re.IGNORECASE)


class CellError(ValueError):
    """A cell that cannot be read; the message says what is wrong with it."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a shape cell. `sides` are the equal shapes `[..] = [..]`, none for a bare name."""

    name: str | None
    sides: tuple = ()

    @property
    def bare(self):
        return not self.sides


@dataclass(frozen=True)
class Shapes:
    """A shape cell: tensors in order; `same` when it repeats the other cell."""

    text: str
    tensors: tuple = ()
    same: bool = False

    def names(self):
        """Symbols that the cell uses."""
        dims = [dim for tensor in self.tensors for side in tensor.sides for dim in side]
        return list(dict.fromkeys(name for dim in dims for name in grammar.free_names(dim)))


@dataclass(frozen=True)
class Term:
    """One kernel of a kernel cell, or free text (name None). `condition` is an expression or None."""

    name: str | None
    text: str
    marked: bool = False
    condition: str | None = None


@dataclass(frozen=True)
class OpName:
    """An op cell: the text as written without backticks, the bare name, the annotation in parentheses."""

    raw: str
    name: str
    annotation: str | None = None


def split_top(text, separator=","):
    """Split at separators that stand outside parentheses and brackets. Raises CellError when these do not match."""
    parts, start = [], 0
    for index, char in _outside(text):
        if char == separator:
            parts.append(text[start:index])
            start = index + 1
    return [part.strip() for part in [*parts, text[start:]]]


def _outside(text):
    """(index, character) outside all brackets, including the brackets of the first level themselves."""
    pairs, open_ = {")": "(", "]": "["}, []
    for index, char in enumerate(text):
        if char in "([":
            if not open_:
                yield index, char
            open_.append(char)
        elif char in ")]":
            if not open_ or open_.pop() != pairs[char]:
                raise CellError(f"{char} has no counterpart in {_short(text)}")
            if not open_:
                yield index, char
        elif not open_:
            yield index, char
    if open_:
        raise CellError(f"{open_[-1]} is not closed in {_short(text)}")


def _short(text):
    return repr(text if len(text) <= 60 else text[:57] + "…")


def _closing(text, start):
    """Index of the bracket that closes the one at `start`."""
    return start + next(index for index, char in _outside(text[start:]) if char in ")]")


def parse_shapes(text):
    """Read a shape cell: named or unnamed tensors, `[..] = [..]`, `same`, bare names, (annotations).

    Raises CellError.
    """
    text = " ".join(text.split())
    items = [item for item in split_top(text) if item and item != "-"]
    if len(items) == 1 and _without_annotations(items[0]).lower() in ("same", "same as input", "same as inputs"):
        return Shapes(text, (), True)
    return Shapes(text, tuple(_tensor(item) for item in items))


def _without_annotations(text):
    kept, start = [], 0
    for index, char in _outside(text):
        if char == "(":
            kept.append(text[start:index])
        elif char == ")":
            start = index + 1
    return " ".join([*kept, text[start:]][0:]).strip() if kept else text.strip()


def _tensor(item):
    named = _NAMED.match(item)
    name, rest = (named[1], item[named.end() :].strip()) if named else (None, item)
    if "[" not in rest:
        if "=" in rest or named:
            raise CellError(f"expected a shape in brackets in {_short(item)}")
        return Tensor(_without_annotations(rest))
    sides, expect = [], True
    while rest:
        if rest[0] == "[" and expect:
            end = _closing(rest, 0)
            sides.append(_dims(rest[1:end]))
            expect = False
        elif rest[0] == "(":
            end = _closing(rest, 0)
        elif rest[0] == "=" and not expect:
            end, expect = 0, True
        else:
            raise CellError(f"unexpected {_short(rest[:20])} in {_short(item)}")
        rest = rest[end + 1 :].strip()
    if expect:
        raise CellError(f"a shape is missing at the end of {_short(item)}")
    if len({len(side) for side in sides}) > 1:
        counts = " and ".join(str(len(side)) for side in sides)
        raise CellError(f"the two sides have {counts} dimensions in {_short(item)}")
    return Tensor(name, tuple(sides))


def _dims(text):
    if not text.strip():
        return ()
    try:
        return tuple(grammar.to_python(grammar.parse(part)) for part in split_top(text))
    except GrammarError as error:
        raise CellError(f"in [{text[:60].strip()}]: {error}") from None


def parse_kernels(cell):
    """Read a kernel cell: a tuple of alternatives (`/`), each a tuple of Terms that add up (`+`).

    Names in backticks are kernels and must be plain names; other words are free text until somebody knows them.
    Raises CellError.
    """
    alternatives, terms, parts = [], [], []

    def end_term():
        if parts:
            terms.append(_term(parts))
        elif terms or alternatives:
            raise CellError(f"a kernel is missing beside / or + in {_short(cell.text)}")
        parts.clear()

    for kind, text in _kernel_tokens(cell):
        if kind not in ("/", "+"):
            parts.append((kind, text))
            continue
        if not parts:
            raise CellError(f"a kernel is missing before {kind} in {_short(cell.text)}")
        end_term()
        if kind == "/":
            alternatives.append(tuple(terms))
            terms.clear()
    end_term()
    if terms:
        alternatives.append(tuple(terms))
    return tuple(alternatives)


def _kernel_tokens(cell):
    note, depth = [], 0
    for text, code in cell.pieces:
        if code and not depth:
            yield "name", text.strip()
            continue
        word = []
        for char in text:
            if depth:
                depth += (char == "(") - (char == ")")
                if depth:
                    note.append(char)
                else:
                    yield "note", "".join(note).strip()
                    note.clear()
            elif char == "(":
                yield from _word(word)
                depth = 1
            elif char in "/+":
                yield from _word(word)
                yield char, char
            else:
                word.append(char)
        yield from _word(word)
    if depth:
        raise CellError(f"( is not closed in {_short(cell.text)}")


def _word(chars):
    text = "".join(chars).strip()
    chars.clear()
    if text:
        yield "word", text


def _term(parts):
    names = [text for kind, text in parts if kind == "name"]
    words = [text for kind, text in parts if kind == "word"]
    if len(names) > 1:
        raise CellError(f"{names[0][:40]!r} and {names[1][:40]!r} stand side by side: write / or + between them")
    conditions = [c for kind, text in parts if kind == "note" for c in _conditions(text)] if names else []
    condition = " and ".join(f"({c})" for c in conditions) if len(conditions) > 1 else (conditions or [None])[0]
    if names:
        check_kernel_name(names[0])
        return Term(names[0], names[0], True, condition)
    text = " ".join(words)
    if KERNEL_NAME.fullmatch(text):
        conditions = [c for kind, note in parts if kind == "note" for c in _conditions(note, strict=False)]
        return Term(None, text, False, " and ".join(f"({c})" for c in conditions) or None)
    return Term(None, text)


def _conditions(note, strict=True):
    """Comparisons among the comma-separated parts of an annotation, as expressions."""
    found = []
    for part in split_top(note):
        if not _COMPARISON.search(part):
            continue
        part = _CONDITION_WORDS.sub("", part.strip())
        try:
            found.append(grammar.to_python(part))
        except GrammarError as error:
            if strict:
                raise CellError(f"the condition ({note[:60]}) is not understood: {error}") from None
    return found


def check_kernel_name(name):
    """Raise CellError unless the name is plain letters, digits and underscores."""
    if not KERNEL_NAME.fullmatch(name):
        raise CellError(f"{name[:60]!r} is not a kernel name: letters, digits and _ only")
    if name in RESERVED:
        raise CellError(f"{name!r} cannot be a kernel's name: the benchmarks have a file of that name")


def parse_op(cell):
    """Read an op cell. `self.` and `()` are no part of the name; text in parentheses after it is an annotation."""
    raw = cell.text.strip("* ").strip()
    name, annotation = raw, None
    if name.endswith(")"):
        depth = 0
        for index in range(len(name) - 1, -1, -1):
            depth += (name[index] == ")") - (name[index] == "(")
            if not depth:
                annotation = name[index + 1 : -1].strip() or None
                name = name[:index].strip()
                break
    name = bare_op(name)
    if not name and annotation:
        name, annotation = annotation, None
    if not name:
        raise CellError("the op has no name")
    if len(raw) > MAX_LABEL:
        raise CellError(f"the op's name is longer than {MAX_LABEL} characters: {raw[:40]!r}…")
    if not raw.isprintable():
        raise CellError(f"the op's name holds characters that cannot be printed: {raw!r}")
    return OpName(raw, name, annotation)


def bare_op(name):
    """An op's name without `self.`, `()` and annotations."""
    name = name.replace("`", "").strip()
    if name.endswith(")") and "(" in name:
        name = name[: name.index("(")].strip()
    return name.removeprefix("self.").removesuffix("()").strip()


def parse_op_list(text):
    """Ops of the summary's last column, without annotations. Raises CellError."""
    return tuple(op for op in (bare_op(part) for part in split_top(text)) if op and op != "-")


def parse_value(text):
    """A number as written in a value cell (thousands separators allowed), or None when it is not a number."""
    plain = text.replace("`", "").strip()
    if re.fullmatch(r"[+-]?\d{1,3}([ ,_']\d{3})+", plain):
        plain = re.sub(r"[ ,_']", "", plain)
    try:
        value = grammar.evaluate(plain, {})
    except GrammarError:
        return None
    return None if isinstance(value, bool) else value
