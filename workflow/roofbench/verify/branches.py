"""Which branches of a script ran: what never ran was not verified, whatever a GPU would do there.

A script may ask for the device, the environment or the weather and behave in another way on the GPU machine than here.
Rather than to recognise such questions, this notices the answer that was not given: a branch of the code that makes
inputs or calls the kernel, which no point of the sweep took.
"""

import ast
import contextlib
import copy
from dataclasses import dataclass

MARK = "__roofbench_mark__"


@dataclass(frozen=True)
class Branch:
    """One way through a script. function: index of the Branch of the function around it, None at the top level."""

    kind: str  # "function", "branch" or "handler"
    line: int
    function: int | None
    name: str
    text: str


class Marks:
    """A copy of a script's syntax tree with a mark in every branch, and which marks were passed.

    hits: branches that ran. built, called: functions that were entered while inputs were made, or in the timed call.
    """

    def __init__(self, tree):
        self.branches = []
        self.hits, self.built, self.called = set(), set(), set()
        self.phase = None  # "build", "call", None elsewhere, "off" where nothing counts
        self.tree = ast.fix_missing_locations(_Marker(self.branches, tree).visit(copy.deepcopy(tree)))

    def mark(self, index):
        if self.phase == "off":
            return
        self.hits.add(index)
        if self.phase == "build":
            self.built.add(index)
        elif self.phase == "call":
            self.called.add(index)

    def seen(self):
        """What a child process sends back."""
        return {"hits": self.hits, "built": self.built, "called": self.called}


def unseen(branches, seen):
    """(Branch, check) of every branch that matters and that none of the runs in `seen` took."""
    hits, built, called = (set().union(*(s[name] for s in seen)) for name in ("hits", "built", "called"))
    for index, branch in enumerate(branches):
        if branch.kind == "function" or index in hits:
            continue
        if branch.function is None or branch.function in built | called:
            yield branch, "kernel-call.branch" if branch.function in called else "shapes.branch"


class _Marker(ast.NodeTransformer):
    def __init__(self, branches, tree):
        self.branches = branches
        self.literals = _literals(tree)
        self.functions = []

    def _new(self, kind, node, text=None):
        function = self.functions[-1] if self.functions else (None, "the top level")
        first = ast.unparse(node).splitlines()[0]
        self.branches.append(Branch(kind, node.lineno, function[0], function[1], (text or first)[:100]))
        return len(self.branches) - 1

    @staticmethod
    def _call(index, node):
        call = ast.Call(ast.Name(MARK, ast.Load()), [ast.Constant(index)], [])
        return ast.copy_location(call, node)

    def _statement(self, index, node):
        return ast.copy_location(ast.Expr(self._call(index, node)), node)

    def _marked(self, body, kind="branch"):
        """A list of statements with a mark before them, unless running or not running it makes no difference."""
        if not body or _idle(body, kind):
            return self._all(body)
        index = self._new(kind, body[0])
        return [self._statement(index, body[0]), *self._all(body)]

    def _all(self, body):
        found = []
        for node in body:
            visited = self.visit(node)
            found += visited if isinstance(visited, list) else [visited]
        return found

    def _function(self, node):
        index = self._new("function", node, node.name)
        self.functions.append((index, node.name))
        docstring = ast.get_docstring(node, clean=False) is not None
        head, body = node.body[: int(docstring)], node.body[int(docstring) :]
        node.body = [*head, self._statement(index, node), *self._all(body)]
        self.functions.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_Lambda(self, node):
        index = self._new("function", node, "a lambda")
        self.functions.append((index, "a lambda"))
        node.body = self._value(index, self.visit(node.body))
        self.functions.pop()
        return node

    def visit_If(self, node):
        skipped = self._decided(node.test) or (not self.functions and _asks_for_main(node.test))
        condition = ast.unparse(node.test)
        node.test = self.visit(node.test)
        if skipped:
            node.body, node.orelse = self._all(node.body), self._all(node.orelse)
            return node
        leaves = isinstance(node.body[-1], ast.Return | ast.Continue | ast.Break)
        node.body = self._marked(node.body)
        if node.orelse or not leaves:
            node.orelse = self._marked(node.orelse)
        else:  # what comes after it is the other branch
            text = f"what follows unless {condition}"
            node.orelse = [self._statement(self._new("branch", node, text), node)]
        return node

    def _loop(self, node):
        node.body = self._marked(node.body)
        if isinstance(node, ast.While):
            node.test = self.visit(node.test)
        else:
            node.iter = self.visit(node.iter)
        node.orelse = self._all(node.orelse)
        return node

    visit_For = visit_AsyncFor = visit_While = _loop

    def visit_ExceptHandler(self, node):
        # At the top level it says what to do without a package; here all that a stack has is there.
        node.body = self._marked(node.body, "handler") if self.functions else self._all(node.body)
        return node

    def visit_match_case(self, node):
        node.body = self._marked(node.body)
        return node

    def visit_IfExp(self, node):
        whole, decided = ast.unparse(node), self._decided(node.test)
        node.test = self.visit(node.test)
        for name in ("body", "orelse"):
            arm = getattr(node, name)
            text = f"{ast.unparse(arm)}, in {whole}"
            index = None if _is_none(arm) or decided else self._new("branch", arm, text)
            arm = self.visit(arm)
            setattr(node, name, arm if index is None else self._value(index, arm))
        return node

    def visit_BoolOp(self, node):
        first, *rest = node.values
        node.values = [self.visit(first)]
        for value in rest:
            calls = any(isinstance(part, ast.Call) for part in ast.walk(value))
            index = self._new("branch", value) if calls and self.functions else None
            value = self.visit(value)
            node.values.append(value if index is None else self._value(index, value))
        return node

    def _decided(self, test):
        """Whether the text of the script says how a test ends: it names nothing but literals."""
        parts = list(ast.walk(test))
        names = {part.id for part in parts if isinstance(part, ast.Name)}
        return names <= self.literals and not any(isinstance(part, ast.Call | ast.Attribute) for part in parts)

    def _value(self, index, node):
        """`node`, with the mark passed on the way: (mark(index), node)[1]."""
        pair = ast.Tuple([self._call(index, node), node], ast.Load())
        return ast.copy_location(ast.Subscript(pair, ast.Constant(1), ast.Load()), node)


def _idle(body, kind):
    """Whether a branch only refuses, or (but for handlers, which then hide an error) does nothing."""
    if isinstance(body[-1], ast.Raise):
        return True
    nothing = all(
        isinstance(n, ast.Pass) or (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)) for n in body
    )
    return nothing and kind != "handler"


def _literals(tree):
    """Names at the top level that are assigned once, to a literal."""
    counts, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            counts[node.id] = counts.get(node.id, 0) + 1
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with contextlib.suppress(ValueError, TypeError):
                ast.literal_eval(node.value)
                found.add(node.targets[0].id)
    return {name for name in found if counts[name] == 1}


def _asks_for_main(test):
    return any(isinstance(n, ast.Name) and n.id in ("__name__", "TYPE_CHECKING") for n in ast.walk(test))


def _is_none(node):
    return isinstance(node, ast.Constant) and node.value is None
