"""The steps of a model: which ops run how often, from the ops file's sections and config/model_steps.yaml.

The result is plain data for benchlib.model_time, which does the sums:

    {"schema_version": 1, "layers": 61, "outside": [...], "steps": [
        {"name": "decode", "phase": "decode", "slots": [
            {"op": "topk", "count": 58, "choose": "moe_fused_gate", "paths": [
                {"name": "moe_fused_gate", "max_tokens": null, "parts": [["moe_fused_gate", "topk"]]}]}]}]}

An op without a path has no kernel that is measured; it counts as not measured.
"""

import re

from .. import documents
from ..errors import WARNING, Problems, did_you_mean
from ..opsfile import model

_LAYERS = re.compile(r"\blayers?\s+(\d{1,4})(?:\s*(?:[-–]|to)\s*(\d{1,4}))?", re.IGNORECASE)
_LIMIT = re.compile(r"^\s*(?:B\s*\*\s*S|[BT])\s*(<=|<)\s*(\d{1,9})\s*$")
_SPECULATIVE = re.compile(r"speculative|nextn|eagle|mtp", re.IGNORECASE)
SCHEMA = "model_steps.schema.json"
MOST_LAYERS = 10_000


def resolve_steps(path, ops, problems, values=None):
    """The steps as data, or None with the problems recorded.

    ``path`` is config/model_steps.yaml, ``ops`` an OpsFile, ``values`` its symbols (computed where None).
    """
    document = documents.load_yaml(path, problems)
    if document is None or not documents.validate(document, SCHEMA, problems):
        return None
    values = ops.values(problems) if values is None else values
    total = values.get(document.data["layers"])
    if not isinstance(total, int) or not 1 <= total <= MOST_LAYERS:
        message = f"layers: the ops file {ops.path} has no symbol {document.data['layers']!r} with a number of layers"
        hint = did_you_mean(document.data["layers"], values)
        problems.error(document.path, document.line("layers"), "steps", message, hint)
        return None
    return _Resolver(document, ops, total, problems).resolve()


def steps_or_reason(path, ops, problems, values=None):
    """`resolve_steps` for any ops file: one that is no whole model gives no steps and the ``reason``, not an error.

    A mistake in the configuration is an error as ever. Ops of it that this file lacks are worth a word only where
    the file has one of nearly that name.
    """
    own = Problems()
    found = resolve_steps(path, ops, own, values)
    problems.add(own, lambda problem: problem.code != "steps" or problem.severity == WARNING and problem.hint)
    # Without the path: the same content in another file is the same steps.
    reasons = [problem.message.replace(f" {ops.path}", "") for problem in own.errors if problem.code == "steps"]
    if reasons or found is None:
        return {"schema_version": 1, "layers": None, "outside": [], "steps": [], "reason": "; ".join(reasons)}
    return found


class _Resolver:
    def __init__(self, document, ops, total, problems):
        self.document, self.ops, self.total, self.problems = document, ops, total, problems
        self.declared = document.data["ops"]
        self.labels = {label(row.op) for row in ops.rows}

    def resolve(self):
        main = {phase: self._phase(phase) for phase in (model.DECODE, model.PREFILL)}
        steps = [{"name": phase, "phase": phase, "slots": _plain(slots)} for phase, slots in main.items() if slots]
        speculative = self._speculative(main[model.DECODE])
        if speculative:
            steps.append({"name": "speculative", "phase": model.DECODE, "slots": _plain(speculative)})
        self._unused()
        return {
            "schema_version": 1,
            "layers": self.total,
            "outside": self.document.data.get("outside", []),
            "steps": steps,
        }

    def _rows(self, phase, speculative=False):
        rows = {}
        for row in self.ops.rows:
            if row.phases == (phase,) and bool(_SPECULATIVE.search(row.section)) == speculative:
                rows.setdefault(label(row.op), []).append(row)
        return rows

    def _phase(self, phase):
        slots = []
        for op, rows in self._rows(phase).items():
            layers = sorted({number for row in rows for number in self._layers(row)})
            slots += self._slots(op, phase, rows, layers)
        return slots

    def _layers(self, row):
        found = _LAYERS.search(row.section)
        if not found:
            return range(self.total)
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < self.total:
            message = f"the section says layers {first} to {last}, but there are {self.total} layers, counted from 0"
            self.problems.error(self.ops.path, row.line, "steps", message)
            return range(0)
        return range(first, last + 1)

    def _slots(self, op, phase, rows, layers):
        """Slots of one op; the declared ones, or one with the alternatives of its kernel cell."""
        declared = [entry for entry in self.declared.get(op, []) if entry.get("phase") in (None, phase)]
        if any("within" in entry for entry in declared):
            return []
        slots, left = [], list(layers)
        for entry in declared or [{}]:
            wanted = entry.get("layers", "rest")
            mine = left if wanted == "rest" else left[:wanted]
            left = left[len(mine) :]
            if mine:
                slots.append(self._slot(op, rows, mine, entry))
        return slots

    def _slot(self, op, rows, layers, entry):
        paths = []
        for name, parts in entry.get("paths", {}).items():
            calls = [call for part in parts if (call := self._call(part, op))]
            paths.append({"name": name, "max_tokens": None, "parts": calls})
        choose = entry.get("choose", self.document.data["choose"])
        return {"op": op, "count": len(layers), "choose": choose, "paths": paths or _paths(op, rows), "layers": layers}

    def _call(self, part, op):
        """[kernel, op] of a declared part; None for an optional one (``?``) whose op no table has."""
        kernel, _, own = part.removesuffix("?").partition(" ")
        if part.endswith("?") and own not in self.labels:
            return None
        return [kernel, own or op]

    def _speculative(self, decode):
        """Ops of the speculative section once, and one layer like the last one of the model."""
        own = []
        for op, rows in self._rows(model.DECODE, speculative=True).items():
            own += self._slots(op, model.DECODE, rows, [self.total - 1])
        layer = [{**slot, "count": 1} for slot in decode if self.total - 1 in slot["layers"]] if own else []
        return own + layer

    def _unused(self):
        """Warn of declared ops that the file lacks; it may have their parts instead (``shared_experts.act``)."""
        known = self.labels | {name.partition(".")[0] for name in self.labels}
        for op, entries in self.declared.items():
            if op not in known and not any("within" in entry for entry in entries):
                message = f"ops.{op}: no op table of {self.ops.path} has this op"
                line = self.document.line("ops", op)
                self.problems.warning(self.document.path, line, "steps", message, did_you_mean(op, self.labels))


def label(op):
    """The op's label: the annotation where one kernel serves several ops of its own name (``q_nope * w_kc``)."""
    return op.annotation or op.name


def _paths(op, rows):
    """Paths from the kernel cells: every named alternative; a sum is one path with several parts."""
    paths = {}
    for row in rows:
        for terms in row.kernels:
            names = [term.name for term in terms]
            if not all(names):
                continue
            limits = [limit for term in terms if (limit := _limit(term.condition)) is not None]
            path = {"name": "_".join(names), "max_tokens": min(limits, default=None)}
            paths.setdefault(path["name"], path | {"parts": [[name, op] for name in names]})
    return list(paths.values())


def _limit(condition):
    found = _LIMIT.match(condition or "")
    return int(found[2]) - (found[1] == "<") if found else None


def _plain(slots):
    return [{name: value for name, value in slot.items() if name != "layers"} for slot in slots]
