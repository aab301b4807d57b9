"""From the tables of an ops file to symbols, op rows and the kernel summary."""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from .. import grammar
from ..documents import read_text
from ..errors import did_you_mean, plural
from ..grammar import GrammarError
from . import cells
from .cells import CellError
from .markdown import read_blocks

PREFILL, DECODE = "prefill", "decode"
SWEEP_SYMBOLS = ("B", "S")
"""Symbols that the sweep sets: requests and sequence length."""

_OP_COLUMNS = {"op": "Op", "input": "Input Shape", "output": "Output Shape", "kernel": "Kernel"}
_SUMMARY_COLUMNS = {"kernel": "Kernel", "source": "Source", "op": "Ops Using It"}
_CONFIG_COLUMNS = {"parameter": "Parameter", "value": "Value", "symbol": "Symbol"}
_STRUCTURE = ("missing-section", "missing-table", "missing-phase", "missing-column", "double-column", "no-phase",
              "broken-table", "broken-row")  # fmt: skip
MAX_ROWS = 5000
MAX_SYMBOLS = 500
_SAMPLES = ({"B": 3, "S": 5}, {"B": 7, "S": 11})


@dataclass(frozen=True)
class Symbol:
    """A symbol of the model configuration: a number, or an expression over other symbols."""

    name: str
    expr: str
    line: int
    written: int | float | None = None
    """The number in the value cell of a derived symbol, which must agree with the expression."""


@dataclass(frozen=True)
class OpRow:
    """A row of an op table. `phases` has two entries for tables that stand for both phases."""

    line: int
    section: str
    phases: tuple
    op: cells.OpName
    inputs: cells.Shapes
    outputs: cells.Shapes
    kernels: tuple
    kernel_text: str

    @property
    def per_token(self):
        """Whether the row stands for both phases and is written with B alone: B then means the tokens."""
        return len(self.phases) > 1 and "S" not in self.inputs.names() + self.outputs.names()


@dataclass(frozen=True)
class SummaryRow:
    """One kernel of the summary (a table row may list several)."""

    kernel: str
    source: str
    ops: tuple
    line: int


@dataclass
class OpsFile:
    """What the tables say.

    `unread` are symbols whose definition is a problem of its own; None where the whole model configuration is: what
    uses them is not told again. `incomplete`: a section, table or row could not be read, so what seems to be missing
    may stand there.
    """

    path: str
    symbols: dict = field(default_factory=dict)
    rows: list = field(default_factory=list)
    summary: list = field(default_factory=list)
    unread: set | None = field(default_factory=set)
    incomplete: bool = False

    def is_unread(self, name):
        """Whether a symbol has no value because of a problem that was told at its definition."""
        return self.unread is None or name in self.unread

    def values(self, problems, overrides=None):
        """Values of all symbols, some overridden. What cannot be computed is a problem and left out."""
        values, overrides = dict(overrides or {}), overrides or {}
        pending = {name: symbol for name, symbol in self.symbols.items() if name not in values}
        progress = True
        while pending and progress:
            progress = False
            for name, symbol in list(pending.items()):
                if all(used in values for used in grammar.free_names(symbol.expr)):
                    self._evaluate(symbol, values, problems, bool(overrides))
                    del pending[name]
                    progress = True
        self._without_value(pending, values, problems)
        return values

    def _without_value(self, pending, values, problems):
        """Tell why symbols have no value: once for each name that is not there and for each circle."""
        missing = {
            name: [used for used in grammar.free_names(symbol.expr) if used not in values]
            for name, symbol in pending.items()
        }
        told = {name for name in self.symbols if name not in values and name not in pending}
        for name, used in missing.items():
            unknown = [other for other in used if other not in self.symbols]
            if not unknown:
                continue
            told.add(name)
            if not any(map(self.is_unread, unknown)):
                symbol = self.symbols[name]
                message = f"{name} = {symbol.expr} uses {' and '.join(unknown)}, which is not defined"
                hint = undefined_hint(unknown[0], self)
                problems.error(self.path, symbol.line, "undefined-symbol", message, hint, cause=unknown[0])
        while waiting := [name for name in missing if name not in told]:
            consequence = [name for name in waiting if told.intersection(missing[name])]
            if consequence:
                told.update(consequence)
                continue
            circle = [waiting[0]]
            while (following := missing[circle[-1]][0]) not in circle:
                circle.append(following)
            circle = circle[circle.index(following) :]
            line = min(self.symbols[name].line for name in circle)
            path = " → ".join([*circle, circle[0]])
            message = f"the definition of {circle[0]} goes round in a circle: {path}"
            problems.error(self.path, line, "undefined-symbol", message, "One of them has to be a number.")
            told.update(circle)

    def _evaluate(self, symbol, values, problems, overridden):
        try:
            value = grammar.evaluate(symbol.expr, values)
            if isinstance(value, bool):
                raise GrammarError("it is a comparison")
        except GrammarError as error:
            problems.error(self.path, symbol.line, "symbol", f"{symbol.name} = {symbol.expr} has no value: {error}")
            return
        if symbol.written not in (None, value) and not overridden:
            message = f"{symbol.name} = {symbol.expr} is {value}, but the value column says {symbol.written}"
            problems.error(self.path, symbol.line, "contradiction", message)
        values[symbol.name] = value


def read_ops_file(path, problems):
    """Read and parse an ops file. Returns None when it cannot be read."""
    text = read_text(path, problems)
    return None if text is None else parse_ops_file(text, path, problems)


def parse_ops_file(text, path, problems):
    """Parse the text of an ops file; `path` is for messages. Every problem is recorded, none is raised."""
    return _Reader(str(path), problems).read(text)


def _words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def _own_kind(heading):
    """What a heading says about its tables by itself: summary, config, phases, speculative, backends or None."""
    words = set(_words(heading.text))
    if {"kernel", "summary"} <= words or {"kernels", "summary"} <= words:
        return "summary"
    if "model" in words and words & {"configuration", "config"}:
        return "config"
    if words & {"speculative", "nextn", "eagle", "mtp"}:
        return "speculative"
    phases = tuple(p for p, names in ((PREFILL, {"prefill"}), (DECODE, {"decode", "decoding"})) if words & names)
    if phases:
        return phases
    return "backends" if words & {"backend", "backends"} else None


def _kind(headings):
    """The kind of the nearest heading that has one; backends count only where no heading names a phase."""
    kinds = [kind for kind in (_own_kind(heading) for heading in headings) if kind]
    decided = [kind for kind in kinds if kind != "backends"]
    return (decided or kinds or [None])[-1]


def _phases(kind):
    """Phases of the op tables under a heading of this kind."""
    named = {"backends": (PREFILL, DECODE), "speculative": (DECODE,)}
    return named.get(kind, kind if isinstance(kind, tuple) else ())


class _Reader:
    def __init__(self, path, problems):
        self.path, self.problems = path, problems
        self.ops = OpsFile(path)
        self.seen = set()

    def error(self, line, code, message, hint="", cause=None):
        self.ops.incomplete |= code in _STRUCTURE
        self.problems.error(self.path, line, code, message, hint, cause)

    def warning(self, line, code, message, hint=""):
        self.problems.warning(self.path, line, code, message, hint)

    def read(self, text):
        self.blocks = read_blocks(text)
        for broken in self.blocks.broken:
            note = self.error if _kind(broken.headings) else self.warning
            hint = "A table is a header line, a line |---|---| with as many cells, and rows without a gap."
            note(broken.line, "broken-table", f"this looks like a table, but {broken.reason}", hint)
        count = 0
        for table in self.blocks.tables:
            count += len(table.rows)
            if count > MAX_ROWS:
                self.error(table.line, "too-large", f"the file has more than {MAX_ROWS} table rows")
                break
            self.table(table)
        self.missing()
        if not self.ops.symbols and not self.ops.unread:
            self.ops.unread = None
        return self.ops

    def table(self, table):
        kind = _kind(table.headings)
        titles = [" ".join(_words(cell.text)) for cell in table.header.cells]
        is_ops = sum(any(t.split(" ")[0].rstrip("s") == key for t in titles) for key in _OP_COLUMNS) >= 3
        if kind == "config":
            self.rows(table, titles, _CONFIG_COLUMNS, self.symbol_row, "config")
        elif kind == "summary":
            self.rows(table, titles, _SUMMARY_COLUMNS, self.summary_row, "summary")
        elif is_ops and not _phases(kind):
            where = f"under {table.headings[-1].text!r}" if table.headings else "before the first heading"
            hint = "A heading above it has to say prefill, decode, backends or speculative."
            message = f"the phase of this op table is unknown: it stands {where}"
            self.error(table.line, "no-phase", message, hint, cause="no-phase")
        elif is_ops:
            self.rows(table, titles, _OP_COLUMNS, lambda row, get: self.op_row(table, _phases(kind), row, get), kind)
        elif kind is not None:
            found = ", ".join(cell.text or "(empty)" for cell in table.header.cells)
            hint = "An op table has the columns Op, Input Shape, Output Shape and Kernel."
            self.warning(table.line, "other-table", f"this table is not read: its columns are {found[:100]}", hint)

    def rows(self, table, titles, columns, handle, kind):
        """Check the columns of a table and hand each good row on."""
        places = {}
        for key, title in columns.items():
            found = [i for i, t in enumerate(titles) if t.split(" ")[0].removesuffix("s") == key]
            if not found:
                hint = did_you_mean(title, [cell.text for cell in table.header.cells if cell.text])
                self.error(table.line, "missing-column", f"the table has no column {title!r}", hint)
            elif len(found) > 1:
                self.error(table.line, "double-column", f"the table has {len(found)} columns {title!r}")
            else:
                places[key] = found[0]
        self.seen.update([kind] if isinstance(kind, str) else kind)
        if len(places) < len(columns):
            return
        width = len(table.header.cells)
        if not table.rows:
            self.warning(table.line, "empty-table", "the table has no rows")
        for row in table.rows:
            if row.width != width:
                message = f"the row has {plural(row.width, 'cell')}, the header {width}"
                more = row.width > width
                hint = (
                    "A | inside a cell is written \\|." if more else "Text under a table needs a blank line before it."
                )
                self.error(row.line, "broken-row", message, hint)
                continue
            try:
                handle(row, lambda key, row=row: row.cells[places[key]])
            except CellError as error:
                self.error(row.line, "cell", str(error))

    def symbol_row(self, row, get):
        """Parameter, value, symbol. The symbol is `-`, a name, or `name = expression`."""
        text, value_text = get("symbol").text.strip("* "), get("value").text
        if text in ("", "-", "–", "—"):
            return
        name, equals, expr = (part.strip() for part in text.partition("="))
        parameter = get("parameter").text or name
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", name):
            raise CellError(f"{name[:40]!r} is not a symbol: letters, digits and _ only, - for none")
        if name in SWEEP_SYMBOLS:
            raise CellError(f"{name} is the sweep's (B requests, S sequence length) and cannot be a model parameter")
        if name not in self.ops.symbols:
            self.ops.unread.add(name)  # until it is read
        value = cells.parse_value(value_text)
        if equals:
            try:
                expr = grammar.to_python(expr)
            except GrammarError as error:
                raise CellError(f"{name} = {expr[:60]}: {error}") from None
            if value is None and value_text.strip("- "):
                self.warning(row.line, "symbol", f"{parameter}: the value {value_text[:40]!r} is not a number")
        elif value is None:
            raise CellError(f"{parameter}: the value of {name} is not a number: {value_text[:40]!r}")
        else:
            try:
                grammar.parse(name)
            except GrammarError as error:
                raise CellError(str(error)) from None
            expr = grammar.to_python(grammar.parse(value))
        known = self.ops.symbols.get(name)
        if not known and len(self.ops.symbols) >= MAX_SYMBOLS:
            raise CellError(f"there are more than {MAX_SYMBOLS} symbols")
        if known:
            if known.expr != expr:
                raise CellError(f"{name} is {expr} here and {known.expr} in line {known.line}")
            self.warning(row.line, "double-symbol", f"{name} is also defined in line {known.line}")
            return
        self.ops.symbols[name] = Symbol(name, expr, row.line, value if equals else None)
        self.ops.unread.discard(name)

    def summary_row(self, row, get):
        terms = [term for alternative in cells.parse_kernels(get("kernel")) for term in alternative]
        if not terms:
            raise CellError("the kernel is missing")
        ops, source = cells.parse_op_list(get("op").text), get("source").text
        if not source:
            raise CellError("the source is missing")
        for term in terms:
            cells.check_kernel_name(term.text)
            known = next((s for s in self.ops.summary if s.kernel == term.text), None)
            if known:
                same = (known.source, known.ops) == (source, ops)
                note = self.warning if same else self.error
                note(row.line, "double-kernel", f"the summary lists {term.text} twice (line {known.line})")
                continue
            self.ops.summary.append(SummaryRow(term.text, source, ops, row.line))

    def op_row(self, table, phases, row, get):
        try:
            kernels, fault = cells.parse_kernels(get("kernel")), None
        except CellError as error:
            kernels, fault = (), error
        if fault:
            self.error(row.line, "cell", str(fault))
        op = cells.parse_op(get("op"))
        shapes = []
        marked = any(term.marked for alternative in kernels for term in alternative)
        for key in ("input", "output"):
            try:
                shapes.append(cells.parse_shapes(get(key).text))
            except CellError as error:
                note = self.error if marked else self.warning
                note(row.line, "shape", f"{op.raw}: {_OP_COLUMNS[key]}: {error}")
                shapes.append(None)
        if None in shapes:
            return
        if shapes[0].same:
            self.error(row.line, "shape", f"{op.raw}: the input shape cannot be 'same'")
            return
        section = " > ".join(h.text for h in table.headings if h.level > 1 or len(table.headings) == 1)
        self.ops.rows.append(OpRow(row.line, section, phases, op, *shapes, kernels, get("kernel").text))

    def missing(self):
        """Sections and phases that must be there."""
        titles = [heading.text for heading in self.blocks.headings]
        for kind, title, columns in (
            ("config", "Model Configuration", _CONFIG_COLUMNS),
            ("summary", "Kernel Summary", _SUMMARY_COLUMNS),
        ):
            header = " | ".join(columns.values())
            heading = next((h for h in self.blocks.headings if _own_kind(h) == kind), None)
            if heading is None:
                hint = did_you_mean(title, titles, f"It is a heading '## {title}' with a table | {header} |.")
                hint = self.where_hidden(kind) or hint
                self.error(0, "missing-section", f"the section {title!r} is missing", hint)
            elif kind not in self.seen:
                message = f"the section {heading.text!r} has no table"
                self.error(heading.line, "missing-table", message, f"Expected is a table | {header} |.")
            elif kind == "summary" and not self.ops.summary:
                self.error(heading.line, "missing-table", "the kernel summary lists no kernel that can be read")
        for phase in (PREFILL, DECODE):
            if phase in self.seen:
                continue
            named = [h for h in self.blocks.headings if isinstance(_own_kind(h), tuple) and phase in _own_kind(h)]
            hint = "An op table is | Op | Input Shape | Output Shape | Kernel | under a heading that names the phase."
            if named:
                self.error(named[-1].line, "missing-table", f"the {phase} phase has no op table", hint)
            else:
                near = self.where_hidden(phase) or did_you_mean(f"{phase} phase", titles)
                self.error(0, "missing-phase", f"the {phase} phase is missing", f"{near} {hint}".strip())

    def where_hidden(self, kind):
        """A sentence about a heading of this kind inside a comment or a code block, or None."""
        for heading, what, start in self.blocks.hidden:
            own = _own_kind(heading)
            if kind == own or isinstance(own, tuple) and kind in own:
                return f"Its heading in line {heading.line} is inside the {what} that begins in line {start}."
        return None


def check_shapes(row, ops, values, problems, severe):
    """Symbols of a row's shapes are defined and equal sides are equal, by the file's own values.

    Returns whether the row can be used. With `severe` false (no kernel uses the row) problems are warnings.
    """
    note = problems.error if severe else problems.warning
    good = True
    known = {**values, **dict.fromkeys(SWEEP_SYMBOLS, 1)}
    for title, shapes in (("input", row.inputs), ("output", row.outputs)):
        for name in shapes.names():
            if name in known:
                continue
            good = False
            if name not in ops.symbols and not ops.is_unread(name):
                message = f"{row.op.raw}: the {title} shape {shapes.text} uses {name}, which is not defined"
                note(ops.path, row.line, "undefined-symbol", message, undefined_hint(name, ops), cause=name)
        if not good:
            continue
        for tensor in shapes.tensors:
            good &= _check_tensor(row, ops, values, note, title, tensor)
    return good


def undefined_hint(name, ops):
    """How to put right a symbol that is not defined."""
    return did_you_mean(name, [*ops.symbols, *SWEEP_SYMBOLS], "Add it to the model configuration.")


def _check_tensor(row, ops, values, note, title, tensor):
    for sample in _SAMPLES:
        env = {**values, **sample}
        try:
            sides = [[grammar.evaluate(dim, env) for dim in side] for side in tensor.sides]
            for side, numbers in zip(tensor.sides, sides, strict=True):
                for dim, number in zip(side, numbers, strict=True):
                    if grammar.whole(number, dim) < 1:
                        raise GrammarError(f"{dim} is {number}, not a size")
        except GrammarError as error:
            note(ops.path, row.line, "shape", f"{row.op.raw}: {title} shape: {error}", cause=str(error))
            return False
        for side, numbers in zip(tensor.sides[1:], sides[1:], strict=True):
            for left, right, a, b in zip(tensor.sides[0], side, sides[0], numbers, strict=True):
                if a != b:
                    swept = set(SWEEP_SYMBOLS) & {*grammar.free_names(left), *grammar.free_names(right)}
                    at = f" at B={sample['B']}, S={sample['S']}" if swept else ""
                    message = f"{row.op.raw}: {title} shape: {left} is {a}{at}, but the other side says {right}"
                    message += "" if str(b) == right else f" = {b}"
                    note(ops.path, row.line, "contradiction", message, cause=(left, a, right, b))
                    return False
    return True


@lru_cache(maxsize=4096)
def symbolic_side(tensor):
    """The side of `[..] = [..]` that holds most of the symbols, so that overridden symbols take effect."""
    return max(tensor.sides, key=lambda side: sum(len(grammar.free_names(dim)) for dim in side))
