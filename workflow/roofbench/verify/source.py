"""The script as text: whether it compiles, what it defines, and which line a finding belongs to."""

import ast
import re

from roofbench.verify.findings import Place

REQUIRED = (
    "KERNEL", "SOURCE", "COMPUTE_DTYPE", "OPS", "BATCH_SIZES", "PROVIDERS", "make_inputs", "call_kernel", "cost",
    "columns", "not_applicable", "BENCHMARK", "run_benchmarks",
)  # fmt: skip

TEMPLATE_MARK = re.compile(r"\{%.*?%\}|\{#.*?#\}|\{\{ .*? \}\}")


class Source:
    """A script's text and syntax tree. `error` is the SyntaxError that keeps it from being parsed, or None."""

    def __init__(self, path, text, shown=None):
        self.path = str(path)
        self.shown = shown or str(path)
        self.text = text
        self.error = None
        self.tree = None
        try:
            self.tree = ast.parse(text, filename=self.path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            self.error = error
        self.functions = {}
        self.assigned = {}
        for node in self.tree.body if self.tree else ():
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
                self.assigned[node.name] = node.lineno
            elif isinstance(node, ast.ClassDef):
                self.assigned[node.name] = node.lineno
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            self.assigned[name.id] = node.lineno
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    self.assigned[alias.asname or alias.name.split(".")[0]] = node.lineno

    def place(self, line=None):
        return Place(self.shown, line)

    def of(self, name):
        """Where a top-level name is defined."""
        return self.place(self.assigned.get(name))

    def check(self, report):
        """The family "syntax". False where nothing more can be checked."""
        report.passed("syntax.compile")
        if self.error is not None:
            line = getattr(self.error, "lineno", None)
            found = getattr(self.error, "msg", None) or str(self.error)
            text = (getattr(self.error, "text", None) or "").strip()
            report.fail(
                "syntax.compile",
                self.place(line),
                "the script does not compile",
                f"{found}: {text[:80]}" if text else found,
                "a Python file",
            )
            return False
        report.passed("syntax.template")
        for number, line in enumerate(self.text.splitlines(), 1):
            mark = TEMPLATE_MARK.search(line)
            if mark:
                report.fail(
                    "syntax.template",
                    self.place(number),
                    "a template mark was left in the script",
                    mark.group()[:80],
                    "text or code in its place",
                )
        report.passed("syntax.names", len(REQUIRED))
        missing = [name for name in REQUIRED if name not in self.assigned]
        if not {"SEQ_LENS", "KV_LENS"} & set(self.assigned):
            missing.append("SEQ_LENS or KV_LENS")
        for name in missing:
            report.fail(
                "syntax.names",
                self.place(1),
                f"{name} is not defined",
                "nothing",
                f"{name} at the top level of the script",
                f"docs/verification.md, syntax.names ({name})",
            )
        return not missing and not any(f.check == "syntax.template" for f in report.findings.values())

    def text_of(self, line):
        """A line of the script, as it stands there."""
        lines = self.text.splitlines()
        return lines[line - 1].strip() if line and line <= len(lines) else "somewhere"

    def attribute(self, owner, name):
        """First line that has owner.name, or None."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and node.attr == name and getattr(node.value, "id", "") == owner:
                return node.lineno
        return None

    def changed(self, name):
        """First line that assigns to an attribute of this name, or to something in it; None where it is not seen."""
        for node in ast.walk(self.tree):
            targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
            for target in targets if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) else ():
                if any(isinstance(part, ast.Attribute) and part.attr == name for part in ast.walk(target)):
                    return node.lineno
            named = isinstance(node, ast.Call) and any(
                isinstance(a, ast.Constant) and a.value == name for a in node.args
            )
            if named and getattr(node.func, "id", "") == "setattr":
                return node.lineno
        return None

    def function_at(self, line):
        """Name of the function around a line, or None."""
        found = [f for f in self.functions.values() if line and f.lineno <= line <= f.end_lineno]
        return found[0].name if found else None

    def imported(self, module):
        """First line that imports a module or something of it, or None."""
        top = module.split(".")[0]
        for node in ast.walk(self.tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == top for name in names):
                return node.lineno
        return None

    def called(self, name, function):
        """Where a function of the script (None: any of it) calls `name`, else where that function is defined."""
        root = self.functions.get(function) if function else self.tree
        for node in ast.walk(root) if root else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == name:
                return self.place(node.lineno)
        return self.of(function)

    # Which line belongs to an argument of the kernel.

    def kernel_calls(self):
        """Calls of the kernel in call_kernel: those of its first parameter."""
        function = self.functions.get("call_kernel")
        if function is None or not function.args.args:
            return []
        name = function.args.args[0].arg
        return [
            node
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
        ]

    def call_line(self):
        calls = self.kernel_calls()
        function = self.functions.get("call_kernel")
        return calls[0].lineno if calls else function.lineno if function else None

    def argument(self, name, order=()):
        """(line of the argument in the call, line where its value is made) for a parameter; either may be None.

        order: parameter names of the function, to find positional arguments.
        """
        head = name.split(".")[0]
        for call in self.kernel_calls():
            value = next((k.value for k in call.keywords if k.arg == head), None)
            if value is None and head in order:
                index = list(order).index(head)
                if index < len(call.args) and not any(isinstance(a, ast.Starred) for a in call.args[: index + 1]):
                    value = call.args[index]
            if value is not None:
                return value.lineno, self._made(value, name.rpartition(".")[2])
        return None, self._key_line(name.rpartition(".")[2])

    def subject(self, name, order=(), made_there=True):
        """(line, "argument NAME ...") to show for an argument: where its value is made, else where it is passed."""
        in_call, made = self.argument(name, order)
        if not (made_there and made):
            return in_call or self.call_line(), f"argument {name}"
        via = f" (passed in line {in_call})" if in_call and in_call != made else ""
        return made, f"argument {name}{via}"

    def _made(self, value, leaf):
        for node in ast.walk(value):
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.slice, ast.Constant)
                and isinstance(node.slice.value, str)
            ):
                own = self._key_line(leaf) if leaf != node.slice.value else None
                return own or self._key_line(node.slice.value)
        return None

    def _key_line(self, key):
        """Line of make_inputs that makes the value of a key of the inputs."""
        function = self.functions.get("make_inputs")
        if function is None:
            return None
        for node in ast.walk(function):
            if isinstance(node, ast.Dict):
                for k, v in zip(node.keys, node.values, strict=True):
                    if isinstance(k, ast.Constant) and k.value == key:
                        return self._follow(function, v)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if (
                        isinstance(target, ast.Subscript)
                        and isinstance(target.slice, ast.Constant)
                        and target.slice.value == key
                    ):
                        return self._follow(function, node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
                for keyword in node.keywords:
                    if keyword.arg == key:
                        return self._follow(function, keyword.value)
        return None

    def cost_place(self, name):
        """Where cost() says its `name`, flops or bytes, else where it is defined."""
        function = self.functions.get("cost")
        for node in ast.walk(function) if function else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Cost":
                for keyword in node.keywords:
                    if keyword.arg == name:
                        return self.place(keyword.value.lineno)
        return self.of("cost")

    @staticmethod
    def _follow(function, value):
        moved = isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "index"
        if moved and value.args and isinstance(value.args[0], ast.Name):
            value = value.args[0]
        if not isinstance(value, ast.Name):
            return value.lineno
        line = None
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                names = [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
                if value.id in names and node.lineno <= value.lineno:
                    line = max(line or 0, node.lineno)
        return line or value.lineno

    def line_of(self, error):
        """The innermost line of the script in a traceback, or None."""
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.path:
                line = trace.tb_lineno
            trace = trace.tb_next
        return line
