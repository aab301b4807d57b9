"""Joins an ops file with the kernel catalogue and the configuration: one spec for each kernel of the summary.

The catalogue names the logical dimensions of a kernel's tensors; a row of an op table gives their sizes in the ops
file's symbols. Unifying the two at every point of the sweep gives the dimensions, and from these the columns M, N
and K and the points that the kernel cannot run. Where the ops file leaves something open, the catalogue says what is
meant (`ops` of an entry); each use of it is a warning and stands in the spec's `origin`.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from . import grammar
from .catalogue import RESERVED
from .documents import validate_data
from .errors import UserError, did_you_mean, nearest
from .grammar import GrammarError
from .opsfile import CellError, OpsFile, Shapes, parse_shapes
from .opsfile.model import PREFILL, SWEEP_SYMBOLS, check_shapes, symbolic_side, undefined_hint

SCHEMA_VERSION = 1
ADD_A_KERNEL = "To add it, see 'Add a kernel' in CONTRIBUTING.md."
PREFILL_BATCHES = 4
"""Prefill runs this many of the first batch sizes."""


@dataclass(frozen=True)
class Point:
    B: int
    S: int
    L: int
    T: int

    def as_dict(self):
        return {"B": self.B, "S": self.S, "L": self.L, "T": self.T}


@dataclass
class Use:
    """One op of one kernel in one phase, before its dimensions are known."""

    op: str
    phase: str
    inputs: Shapes
    outputs: Shapes
    origin: dict
    line: int
    condition: str | None = None
    per_token: bool = False
    """B in shapes and condition stands for the tokens."""


@dataclass
class Specs:
    """Result of a parse: specs by kernel in summary order, the manifest, and the lines for messages."""

    specs: dict = field(default_factory=dict)
    manifest: dict = field(default_factory=dict)
    origins: dict = field(default_factory=dict)


def sweep_points(phase, sweep, batch_sizes, seq_lens, kv_lens):
    """Points of a phase in order. Decode: every B with S=1 (and every KV length); prefill: the first 4 B, every S."""
    if phase == PREFILL:
        return [Point(B, S, S, B * S) for B in batch_sizes[:PREFILL_BATCHES] for S in seq_lens]
    if sweep == "kv":
        return [Point(B, 1, L, B) for B in batch_sizes for L in kv_lens]
    return [Point(B, 1, 1, B) for B in batch_sizes]


def build_specs(ops, catalogue, config, problems):
    """Specs of every kernel of the ops file's summary (an OpsFile), for a Catalogue and a Config.

    Problems are recorded; kernels with an error are left out. Raises nothing for bad input.
    """
    return _Join(ops, catalogue, config, problems).run()


def limit_reason(limit, env, names):
    """Why a point fails a limit: "T = 32: the kernel takes at most 16 tokens"."""
    used = grammar.free_names(limit["require"])
    values = ", ".join(f"{name} = {env[name]}" for name in (*RESERVED, *names) if name in used)
    return f"{values}: {limit['reason']}"


def condition_reason(condition):
    """The reason that a spec gives for points outside the condition of a kernel cell."""
    return f"the ops file uses this kernel only where {condition}"


class _Conflict(Exception):
    """The shapes of a row do not fit the kernel's; the message says where."""


class _Join:
    def __init__(self, ops: OpsFile, catalogue, config, problems):
        self.ops, self.catalogue, self.config, self.problems = ops, catalogue, config, problems
        self.entries = {}
        self.uses = {}
        self.reported = set()

    def error(self, line, code, message, hint="", cause=None):
        self.problems.error(self.ops.path, line, code, message, hint, cause)

    def warning(self, line, code, message, hint="", cause=None):
        self.problems.warning(self.ops.path, line, code, message, hint, cause)

    def run(self):
        self.written = self.ops.values(self.problems)
        self.symbols = self.overridden()
        self.options = self.chosen_options()
        self.resolve_summary()
        written = {}
        for row in self.ops.rows:
            first = written.setdefault((row.section, row.phases, row.op, row.inputs, row.outputs, row.kernel_text), row)
            if first is not row:
                self.warning(row.line, "double-row", f"{row.op.raw} is the same as in line {first.line}")
            self.read_row(row)
        for summary in () if self.ops.incomplete else self.ops.summary:
            if summary.kernel in self.entries:
                self.declared(summary)
                self.compare_with_summary(summary)
        result = Specs()
        for summary in self.ops.summary:
            if summary.kernel in self.entries:
                spec = self.spec(summary)
                if spec:
                    result.specs[summary.kernel] = spec
        self.lists(result)
        return result

    def overridden(self):
        """The symbols' values with those of the configuration in place."""
        for name in self.config.symbols:
            if name not in self.ops.symbols:
                hint = did_you_mean(name, self.ops.symbols, f"It has {', '.join(self.ops.symbols)}.")
                message = f"symbols: the ops file {self.ops.path} has no symbol {name}"
                self.problems.error(*self.config.place("symbols", name), "unknown-symbol", message, hint)
        changes = {name: value for name, value in self.config.symbols.items() if name in self.ops.symbols}
        return self.ops.values(self.problems, changes) if changes else self.written

    def chosen_options(self):
        """The configuration's options by catalogue entry."""
        chosen = {}
        for name, options in self.config.options.items():
            entry = self.catalogue.get(name)
            if entry is None:
                hint = did_you_mean(name, self.catalogue.names())
                message = f"options: there is no kernel {name}"
                self.problems.error(*self.config.place("options", name), "option", message, hint)
            else:
                chosen[entry.name] = options
        return chosen

    def resolve_summary(self):
        """Find the catalogue entry behind every kernel of the summary."""
        owners = {}
        for summary in self.ops.summary:
            entry = self.catalogue.get(summary.kernel)
            if entry is None and summary.kernel in self.catalogue.broken:
                continue
            if entry is None:
                near = did_you_mean(summary.kernel, self.catalogue.names())
                message = f"the catalogue has no kernel {summary.kernel}"
                self.error(summary.line, "unknown-kernel", message, f"{near} {ADD_A_KERNEL}".strip())
                continue
            if entry.name in owners:
                message = f"{summary.kernel} and {owners[entry.name]} are the same kernel ({entry.name})"
                self.error(summary.line, "double-kernel", message, "List it once.")
                continue
            if summary.source not in entry.sources:
                hint = did_you_mean(summary.source, entry.sources, f"Known: {', '.join(entry.sources)}.")
                message = f"{summary.kernel}: no provider for the source {summary.source[:60]!r}"
                self.error(summary.line, "unknown-source", message, hint)
                continue
            owners[entry.name] = summary.kernel
            self.entries[summary.kernel] = entry
            self.uses[summary.kernel] = []
            if summary.kernel != entry.name:
                self.warning(summary.line, "alias", f"{summary.kernel} is the catalogue's {entry.name}")
        self.owners = owners
        self.listed = {summary.kernel for summary in self.ops.summary}

    def kernel_of(self, term, row):
        """The summary's kernel that a term of a kernel cell means, or None (free text, or a problem)."""
        text = term.text
        if text in self.listed:
            return text if text in self.entries else None
        if not self.listed:  # that is a problem by itself
            return None
        entry = self.catalogue.get(text)
        if entry and entry.name in self.owners:
            return self.owners[entry.name]
        if entry and not any(self.catalogue.get(name) is entry for name in self.listed):
            message = f"{row.op.raw}: the kernel summary does not list {text}; it is not benchmarked"
            self.warning(row.line, "unlisted-kernel", message, cause=text)
        elif not entry and term.marked:
            near = did_you_mean(text, [*self.listed, *self.catalogue.names()])
            message = f"{row.op.raw}: the kernel summary does not list {text}"
            hint = near or "Add it to the summary, or write it without backticks."
            self.error(row.line, "unlisted-kernel", message, hint, cause=text)
        elif not entry:
            near = nearest(text, [*self.listed, *self.catalogue.names()], cutoff=0.85)
            if near:
                message = f"{row.op.raw}: there is no kernel {text}"
                self.error(row.line, "unlisted-kernel", message, f"Did you mean {near}?", cause=text)
        return None

    def label(self, row, entry):
        """The op's label: the catalogue's, else its annotation where the op is named as a kernel is, else its name."""
        if row.op.raw in entry.labels:
            label = entry.labels[row.op.raw]
            if label not in (row.op.name, row.op.annotation):
                key = f"{entry.path}: ops.labels"
                self.warning(row.line, "label", f"{row.op.raw} of {entry.name} is called {label} ({key})")
            return label
        named_as_kernel = row.op.name in self.listed or row.op.name in self.catalogue
        return row.op.annotation if named_as_kernel and row.op.annotation else row.op.name

    def read_row(self, row):
        """Hand the row's uses to its kernels."""
        found = [[(term, self.kernel_of(term, row)) for term in alternative] for alternative in row.kernels]
        used = any(kernel for alternative in found for _, kernel in alternative)
        if not check_shapes(row, self.ops, self.written, self.problems, severe=used):
            for _, kernel in (pair for alternative in found for pair in alternative if pair[1]):
                self.reported.add(kernel)
            return
        seen = set()
        for alternative in found:
            for term, kernel in alternative:
                if kernel is None:
                    continue
                if kernel in seen and len(alternative) == 1:
                    self.warning(row.line, "double-kernel", f"{row.op.raw}: {kernel} is named twice")
                    continue
                seen.add(kernel)
                if term.condition and not self.good_condition(term, row):
                    self.reported.add(kernel)
                elif len(alternative) > 1:
                    self.composite(row, term, kernel)
                else:
                    origin = {"kind": "row", "section": row.section, "row": row.op.raw}
                    label = self.label(row, self.entries[kernel])
                    self.add(kernel, row, term, label, row.inputs, row.outputs, origin, row.per_token)

    def good_condition(self, term, row):
        """Whether a condition is a comparison over known names."""
        env = {**self.symbols, "B": 1, "S": 1, "T": 1}
        try:
            if isinstance(grammar.evaluate(term.condition, env), bool):
                return True
            reason = "it is not a comparison"
        except GrammarError as error:
            reason = str(error)
        unknown = [name for name in grammar.free_names(term.condition) if name not in env]
        hint = did_you_mean(unknown[0], env) if unknown else ""
        message = f"{row.op.raw}: the condition ({term.condition}) of {term.text}: {reason}"
        self.error(row.line, "condition", message, hint)
        return False

    def add(self, kernel, row, term, op, inputs, outputs, origin, per_token):
        for phase in row.phases:
            use = Use(op, phase, inputs, outputs, origin, row.line, term.condition, per_token)
            self.uses[kernel].append(use)

    def composite(self, row, term, kernel):
        """A kernel in a sum: the catalogue says which parts of the op are its own."""
        entry = self.entries[kernel]
        label = self.label(row, entry)
        parts = entry.composites.get(label)
        if not parts:
            near = did_you_mean(label, entry.composites, "")
            message = f"{row.op.raw} is a sum of kernels, and the catalogue does not say what {kernel} does in it"
            hint = f"Add ops.composites.{label} to {entry.path}, or give each part a row of its own. {near}".strip()
            self.error(row.line, "unknown-sum", message, hint)
            self.reported.add(kernel)
            return
        key = f"ops.composites.{label}"
        names = ", ".join(part["op"] for part in parts)
        self.warning(row.line, "sum", f"{row.op.raw}: {kernel} in this sum is {names} ({entry.path}: {key})")
        for index, part in enumerate(parts):
            shapes = self.catalogue_shapes(entry, part, ("ops", "composites", label, index), row.line)
            if shapes:
                where = {"section": row.section, "row": row.op.raw, "key": f"{key}[{index}]"}
                self.add(kernel, row, term, part["op"], *shapes, {"kind": "composite", **where}, False)

    def defined(self, names, line, user, where):
        """Whether all of these names have a value; those that the ops file lacks are told once for all users."""
        missing = [name for name in names if name not in self.symbols and name not in ("T", *SWEEP_SYMBOLS)]
        for name in missing:
            if name not in self.ops.symbols and not self.ops.is_unread(name):
                message, hint = f"{user} {name} {where}, which is not defined", undefined_hint(name, self.ops)
                self.error(line, "undefined-symbol", message, hint, cause=name)
        return not missing

    def catalogue_shapes(self, entry, part, keys, line):
        """Inputs and outputs of an op that the catalogue gives, or None with the problem recorded.

        `line` is that of the ops file for which they are read.
        """
        shapes = []
        for side in ("inputs", "outputs"):
            place = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in (*keys, side))[1:]
            where = f"{entry.path}:{entry.line(*keys, side)}"
            try:
                cell = parse_shapes(part[side])
            except CellError as error:
                self.problems.error(entry.path, entry.line(*keys, side), "catalogue", f"{place}: {error}")
                continue
            if self.defined(cell.names(), line, f"{entry.name} needs", f"({where}: {place})"):
                shapes.append(cell)
        return shapes if len(shapes) == 2 else None

    def declared(self, summary):
        """The ops that the catalogue declares for a kernel that no row names."""
        kernel, entry = summary.kernel, self.entries[summary.kernel]
        if self.uses[kernel] or kernel in self.reported:
            return
        if not entry.declares:
            message = f"no op table names {kernel}, and the catalogue does not declare its shapes"
            hint = f"Give it a row in an op table, or add ops.declares to {entry.path}."
            self.error(summary.line, "no-row", message, hint)
            self.reported.add(kernel)
            return
        for index, declared in enumerate(entry.declares):
            key = f"ops.declares[{index}]"
            phases = " and ".join(declared["phases"])
            message = f"no op table names {kernel}: {declared['op']} ({phases}) comes from {entry.path}: {key}"
            self.warning(summary.line, "declared", message)
            shapes = self.catalogue_shapes(entry, declared, ("ops", "declares", index), summary.line)
            for phase in declared["phases"] if shapes else ():
                origin = {"kind": "catalogue", "key": key}
                self.uses[kernel].append(Use(declared["op"], phase, *shapes, origin, 0))

    def compare_with_summary(self, summary):
        """The summary's last column and the op tables should name the same ops."""
        kernel, entry = summary.kernel, self.entries[summary.kernel]
        if kernel in self.reported:
            return
        labels = {use.op for use in self.uses[kernel]}
        expected = set()
        for op in summary.ops:
            name = entry.same_as.get(op, op)
            if name != op:
                where = f"{entry.path}: ops.same_as"
                self.warning(summary.line, "same-as", f"{kernel}: {op} is the op tables' {name} ({where})")
            declared = [d["op"] for d in entry.declares if op in d.get("summary", ())]
            matching = {o for o in labels if o == name or o.startswith(f"{name}.") or o in declared}
            if not matching:
                message = f"the summary says that {kernel} is used by {op}, but no op table does"
                self.warning(summary.line, "summary-op", message, did_you_mean(op, sorted(labels)))
            expected |= matching
        others = [label for label in dict.fromkeys(u.op for u in self.uses[kernel]) if label not in expected]
        if others and summary.ops:
            message = f"the op tables also use {kernel} for {', '.join(others)}, which the summary does not say"
            self.warning(summary.line, "summary-op", message)

    def spec(self, summary):
        """The spec of one kernel, or None with the problems recorded."""
        kernel, entry = summary.kernel, self.entries[summary.kernel]
        try:
            options = entry.chosen_options(self.options.get(entry.name))
        except UserError as error:
            self.problems.error(*self.config.place("options", entry.name), "option", f"options: {error}")
            return None
        texts = entry["shapes"].get("symbols", {}).values()
        needed = dict.fromkeys(name for text in texts for name in grammar.free_names(text))
        if not self.defined(needed, summary.line, f"{kernel} needs", f"({entry.path}: shapes.symbols)"):
            return None
        ops, failed = {}, kernel in self.reported
        for use in self.uses[kernel]:
            try:
                op = self.op(entry, options, use)
            except _Conflict as error:
                self.conflict(entry, use, kernel, error)
                failed = True
                continue
            known = ops.setdefault((use.op, use.phase), (op, use))
            if known[0] is op:
                continue
            if known[0]["dims"] != op["dims"]:
                lines = f" (line {known[1].line})" if known[1].line else ""
                message = f"{kernel}: {use.op} stands in the {use.phase} phase with two shapes{lines}"
                self.error(use.line or summary.line, "double-op", message, "Give one of the ops another name.")
                failed = True
            elif known[0].get("condition") != op.get("condition"):
                message = f"{kernel}: {use.op} stands in the {use.phase} phase with two conditions; the first counts"
                self.warning(use.line or summary.line, "double-op", message)
        if failed or not ops:
            return None
        spec = {
            "schema_version": SCHEMA_VERSION,
            "kernel": kernel,
            "catalogue": entry.name,
            "source": summary.source,
            "compute_dtype": entry.substitute(entry["compute_dtype"], options),
            "options": options,
            "sweep": {
                "kind": entry.sweep,
                "batch_sizes": list(self.config.batch_sizes),
                "seq_lens": list(self.config.seq_lens),
                "kv_lens": list(self.config.kv_lens),
            },
        }
        if entry.get("active_experts"):
            spec["routing"] = self.config.timing["routing"]
        spec["ops"] = [op for op, _ in ops.values()]
        return spec

    def conflict(self, entry, use, kernel, error):
        if use.origin["kind"] == "row":
            self.error(use.line, "shape", f"{use.origin['row']}: {kernel} ({use.phase}): {error}")
        else:
            keys = use.origin["key"].replace("[", ".").replace("]", "").split(".")
            keys = [int(k) if k.isdigit() else k for k in keys]
            message = f"{use.origin['key']} ({use.phase}): {error}"
            self.problems.error(entry.path, entry.line(*keys), "catalogue", message)

    def op(self, entry, options, use):
        """One op of a spec: dimensions, columns of each point, and points that the kernel cannot run."""
        if entry.sweep == "kv" and use.phase == PREFILL:
            raise _Conflict("this kernel sweeps KV lengths, which only decode has")
        names = [name for name in entry.dims if name not in RESERVED]
        config = self.config
        dims, points, outside = None, [], []
        for point in sweep_points(use.phase, entry.sweep, config.batch_sizes, config.seq_lens, config.kv_lens):
            bound = self.bind(entry, options, use, point)
            fixed = {name: bound[name] for name in names if name in bound}
            if dims is None:
                dims, first = fixed, point
            elif fixed != dims:
                name = next(n for n in names if fixed.get(n) != dims.get(n))
                at = f"{dims.get(name)} at B={first.B}, S={first.S} and {fixed.get(name)} at B={point.B}, S={point.S}"
                raise _Conflict(f"the dimension {name} should be the same at all points, but it is {at}")
            reason = self.outside(entry, use, point, bound, names)
            if reason:
                outside.append({**point.as_dict(), "reason": reason})
            else:
                points.append({**point.as_dict(), **self.columns(entry, bound)})
        op = {
            "op": use.op,
            "phase": use.phase,
            "dims": dims,
            "shapes": {"inputs": use.inputs.text, "outputs": use.outputs.text},
            "origin": use.origin,
            "points": points,
            "not_applicable": outside,
        }
        if use.condition:
            op["condition"] = self.condition(use)
        return op

    def environment(self, use, point):
        """Values of the ops file's symbols at a point."""
        if use.per_token:
            return {"T": point.T, **self.symbols, "B": point.T, "S": 1}
        return {"T": point.T, **self.symbols, "B": point.B, "S": point.S}

    def condition(self, use):
        """The condition with the model's symbols replaced by their values, over T, B and S alone."""
        sweep = {"B": "T" if use.per_token else "B", "S": "1" if use.per_token else "S"}
        values = {name: str(value) for name, value in self.symbols.items()}
        return grammar.to_python(use.condition, {"T": "T", **values, **sweep})

    def outside(self, entry, use, point, bound, names):
        """Why the kernel does not run at a point, or None."""
        for limit in entry.limits:
            try:
                holds = grammar.evaluate(limit["require"], bound)
            except GrammarError as error:
                raise _Conflict(f"limit {limit['require']!r}: {error}") from None
            if holds is not True:
                return limit_reason(limit, bound, names)
        if use.condition:
            condition = self.condition(use)
            try:
                if grammar.evaluate(condition, point.as_dict()) is not True:
                    return limit_reason({"require": condition, "reason": condition_reason(condition)}, bound, ())
            except GrammarError as error:
                raise _Conflict(f"condition {use.condition!r}: {error}") from None
        return None

    def columns(self, entry, bound):
        values = {}
        for name, text in entry["columns"].items():
            try:
                values[name] = grammar.whole(grammar.evaluate(text, bound), f"column {name}")
            except GrammarError as error:
                raise _Conflict(f"column {name} = {text}: {error}") from None
        return {name: values[name] for name in "MNK"}

    def bind(self, entry, options, use, point):
        """The kernel's dimensions at a point. Raises _Conflict where the row's shapes do not fit."""
        env = self.environment(use, point)
        bound = {**point.as_dict(), **entry.option_dims(options)}
        for name, text in entry["shapes"].get("symbols", {}).items():
            try:
                bound[name] = grammar.whole(grammar.evaluate(text, env), text)
            except GrammarError as error:
                raise _Conflict(f"{name} = {text} ({entry.path}: shapes.symbols): {error}") from None
        pending = []
        inputs = use.inputs.tensors
        outputs = inputs if use.outputs.same else use.outputs.tensors
        for side, tensors in (("inputs", inputs), ("outputs", outputs)):
            for wanted, tensor in _pair(entry["shapes"].get(side, []), tensors):
                pending += self.equations(side[:-1], wanted, tensor, env)
        for _ in range(len(pending) + 1):
            left = [equation for equation in pending if not self.settle(equation, bound, point)]
            if len(left) == len(pending):
                break
            pending = left
        missing = [name for name in entry.dims if name not in bound]
        if missing:
            raise _Conflict(f"the shapes do not give {', '.join(missing)} ({_describe(entry)})")
        return bound

    def equations(self, side, wanted, tensor, env):
        """(catalogue expression, value, text for messages) of every dimension of a tensor."""
        dims, cell = wanted["dims"], symbolic_side(tensor)
        name = tensor.name or wanted.get("name") or side
        if len(dims) != len(cell):
            found, shown = ", ".join(cell), ", ".join(map(str, dims))
            message = f"{side} {name}: found [{found}] with {len(cell)} dimensions, expected {len(dims)}: [{shown}]"
            raise _Conflict(message)
        for dim, text in zip(dims, cell, strict=True):
            try:
                value = grammar.whole(grammar.evaluate(text, env), text)
            except GrammarError as error:
                raise _Conflict(f"{side} {name}: {error}") from None
            if value < 1:
                raise _Conflict(f"{side} {name}: {text} is {value}, not a size")
            yield dim, value, f"{side} {name}: {text}"

    def settle(self, equation, bound, point):
        """Check an equation or bind its only unknown. False if it has to wait for others."""
        dim, value, where = equation
        unknown = [name for name in grammar.free_names(dim) if name not in bound]
        if len(unknown) > 1:
            return False
        try:
            if unknown:
                bound[unknown[0]] = _solve(dim, unknown[0], value, bound)
            elif grammar.evaluate(dim, bound) != value:
                expected = grammar.evaluate(dim, bound)
                at = f"at B={point.B}, S={point.S}"
                note = ""
                if str(dim).strip() == "T" and point.S > 1:
                    note = "; a prefill row has B*S tokens"
                raise _Conflict(f"{where} is {value} {at}, but {dim} is {expected}{note}")
        except GrammarError as error:
            raise _Conflict(f"{where} is {value}, and {dim} cannot be: {error}") from None
        return True

    def lists(self, result):
        """Manifest and origins of the specs that were made."""
        kept = [summary for summary in self.ops.summary if summary.kernel in result.specs]
        result.manifest = {
            "schema_version": SCHEMA_VERSION,
            "ops_file": self.ops.path,
            "kernels": [
                {"kernel": s.kernel, "catalogue": self.entries[s.kernel].name, "source": s.source} for s in kept
            ],
        }
        result.origins = {
            "ops_file": self.ops.path,
            "kernels": {
                s.kernel: {
                    "summary_line": s.line,
                    "ops": self.op_lines(s.kernel),
                }
                for s in kept
            },
        }

    def op_lines(self, kernel):
        lines = {}
        for use in self.uses[kernel]:
            lines.setdefault(f"{use.op}|{use.phase}", use.line or None)
        return lines


def _pair(wanted, tensors):
    """Catalogue tensors with the row's: by name where the names agree, the others in order. Bare names are skipped."""
    by_name = {w["name"]: index for index, w in enumerate(wanted) if w.get("name")}
    named = {by_name[t.name]: t for t in tensors if t.name in by_name}
    free = iter([index for index in range(len(wanted)) if index not in named])
    pairs = dict(named)
    for tensor in tensors:
        if tensor.name in by_name:
            continue
        index = next(free, None)
        if index is not None:
            pairs[index] = tensor
    return [(wanted[index], tensor) for index, tensor in sorted(pairs.items()) if not tensor.bare]


def _solve(expr, name, value, bound):
    """The whole number for which a linear expression has this value. Raises GrammarError."""
    at_1, at_2 = (grammar.evaluate(expr, {**bound, name: x}) for x in (1, 2))
    slope = at_2 - at_1
    if not slope:
        raise GrammarError(f"{name} cannot be found from it")
    x = grammar.whole((value - at_1) / slope + 1, name)
    if x < 1 or grammar.evaluate(expr, {**bound, name: x}) != value:
        raise GrammarError(f"no size {name} gives it")
    return x


def _describe(entry):
    sides = []
    for side in ("inputs", "outputs"):
        tensors = entry["shapes"].get(side, [])
        text = ", ".join(f"{t.get('name', '')}[{', '.join(map(str, t['dims']))}]" for t in tensors)
        sides.append(f"{side} {text}")
    return "expected " + "; ".join(sides)


def write_specs(result, out_dir, ops_text="", steps=None):
    """Write specs, manifest, origins and the steps of the model (a dict, or None) under a folder; files that would
    not change keep their modification time.

    Specs of kernels that are no longer there are removed. Returns the paths that were written. Raises UserError
    when a spec does not fit its schema.
    """
    out_dir = Path(out_dir)
    for kernel, spec in result.specs.items():
        found = validate_data(spec, "spec.schema.json", f"spec of {kernel}")
        found.raise_errors()
    digest = hashlib.sha256(ops_text.encode()).hexdigest()
    manifest = {**result.manifest, "ops_file_sha256": digest, "taken_out": _taken_out(out_dir, result.manifest)}
    written = []
    folder = out_dir / "specs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kernel, spec in result.specs.items():
            written += _write(folder / f"{kernel}.json", spec)
        for old in folder.glob("*.json"):
            if old.stem not in result.specs:
                old.unlink()
        written += _write(out_dir / "spec_origins.json", result.origins)
        if steps is not None:
            written += _write(out_dir / "model_steps.json", steps)
        written += _write(out_dir / "specs.json", manifest)
    except OSError as error:
        raise UserError(f"{error.filename or out_dir}: cannot be written: {error.strerror}") from None
    return written


def _taken_out(out_dir, manifest):
    """Kernels that the same ops file had at an earlier parse and no longer has."""
    try:
        before = json.loads((out_dir / "specs.json").read_text(encoding="utf-8"))
        if os.path.realpath(before["ops_file"]) != os.path.realpath(manifest["ops_file"]):
            return []
        names = {entry["kernel"] for entry in before["kernels"]} | set(before.get("taken_out", ()))
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return sorted(names - {entry["kernel"] for entry in manifest["kernels"]})


def dump(data):
    """JSON text with one line for each op's point, so that a change of a spec reads well as a difference."""
    return _dump(data, 0) + "\n"


def _dump(data, level):
    pad = "  " * (level + 1)
    flat = json.dumps(data, ensure_ascii=False)
    if not isinstance(data, dict | list) or not data or len(flat) + 2 * level <= 118:
        return flat
    if isinstance(data, dict):
        inner = [f"{pad}{json.dumps(str(k), ensure_ascii=False)}: {_dump(v, level + 1)}" for k, v in data.items()]
        return "{\n" + ",\n".join(inner) + "\n" + pad[2:] + "}"
    inner = [pad + _dump(item, level + 1) for item in data]
    return "[\n" + ",\n".join(inner) + "\n" + pad[2:] + "]"


def _write(path, data):
    """Write JSON in one step unless the file has it already. Returns the paths written."""
    text = dump(data)
    try:
        if path.read_text(encoding="utf-8") == text:
            return []
    except (OSError, UnicodeDecodeError):
        pass
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return [path]
