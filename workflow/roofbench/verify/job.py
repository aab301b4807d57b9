"""What a run is compared with: spec, catalogue entry, contract, stacks and hardware, as plain data."""

from pathlib import Path

from roofbench.verify.branches import Marks


class Job:
    """What a run is compared with. All plain data, so that it can be made before the fork.

    code: modules of the bundle that are compiled already. stop_early: the first finding ends the run.
    """

    def __init__(
        self, source, spec, entry, contract, snapshots, roof, bundle, origins=None, code=None, stop_early=False
    ):
        self.source = source
        self.spec = spec
        self.entry = entry.data
        self.lines = entry.line
        self.catalogue_path = relative(entry.path)
        self.contract = contract
        self.contract_path = f"workflow/roofbench/contracts/{spec['catalogue']}.py"
        self.snapshots = snapshots
        self.roof = roof
        self.bundle = bundle
        self.origins = origins or {}
        self.code = code or {}
        self.stop_early = stop_early
        self.marks = Marks(source.tree)

    def op(self, name, phase):
        return next((op for op in self.spec["ops"] if op["op"] == name and op["phase"] == phase), None)

    def from_ops_file(self, op):
        """Where the shapes of an op come from, in words."""
        origin = op.get("origin") or {}
        line = (self.origins.get("ops") or {}).get(f"{op['op']}|{op['phase']}")
        file = self.origins.get("ops_file") or "the ops file"
        parts = []
        if origin.get("row"):
            parts.append(f"{file}{f':{line}' if line else ''}, row {origin['row']}")
        if origin.get("key"):
            parts.append(f"{self.catalogue_path}, {origin['key']}")
        return "; ".join(parts) or file

    def from_catalogue(self, key):
        """File, line and key of a catalogue key such as "arguments[2] (mat_b).strides"."""
        path, _, rest = key.partition("[")
        keys = [path]
        if rest:
            index, _, tail = rest.partition("]")
            keys.append(int(index))
            keys += [part for part in tail.rpartition(")")[2].split(".") if part]
        line = self.lines(*keys)
        return f"{self.catalogue_path}{f':{line}' if line else ''}, {key}"


def relative(path):
    """A path as a person in the repository would write it."""
    try:
        return str(Path(path).resolve().relative_to(Path(__file__).resolve().parents[3]))
    except ValueError:
        return str(path)


def spec_points(spec):
    """{(op, phase, B, S, L): (op, point)} of every point of a spec, and the same of those that are not applicable."""
    points, excluded = {}, {}
    for op in spec["ops"]:
        for target, items in ((points, op["points"]), (excluded, op.get("not_applicable", []))):
            for point in items:
                target[op["op"], op["phase"], point["B"], point["S"], point.get("L", point["S"])] = (op, point)
    return points, excluded
