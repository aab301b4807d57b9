"""Verify one script against its spec: from files to a report, and to a stamp where nothing failed."""

import ast
import hashlib
import importlib
import json
import time
from pathlib import Path

from roofbench.catalogue import load_entry
from roofbench.errors import UserError, did_you_mean
from roofbench.verify import sandbox
from roofbench.verify.branches import unseen
from roofbench.verify.findings import FAMILIES, Report
from roofbench.verify.job import Job
from roofbench.verify.metrics import Roof
from roofbench.verify.source import Source

ROOT = Path(__file__).resolve().parents[3]
SCHEMA_VERSION = 1
LIMIT_SECONDS = 60
REFERENCE = ("POISON", "expected", "actual")  # what the benchmark uses of a reference

PROBLEMS = {
    "time": ("output.time", f"an end within {LIMIT_SECONDS} s"),
    "memory": ("output.memory", f"at most {sandbox.MEMORY >> 30} GiB of memory"),
    "flood": ("output.flood", f"at most {sandbox.OUTPUT >> 20} MiB of output"),
    "files": ("output.files", f"files of at most {sandbox.FILE_SIZE >> 20} MiB"),
    "exit": ("output.exit", "a run that returns"),
}


def _contract(spec):
    """The contract of a spec's kernel. Raises UserError where it is missing or broken."""
    name = f"roofbench.contracts.{spec['catalogue']}"
    path = f"workflow/roofbench/contracts/{spec['catalogue']}.py"
    try:
        contract = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise UserError(f"{path}: the contract of {spec['kernel']} is missing") from None
        raise UserError(f"{path}: cannot be imported: {error}") from None
    except SyntaxError as error:
        raise UserError(f"{error.filename or path}:{error.lineno}: is no Python: {error.msg}") from None
    except Exception as error:  # whatever a person's module does when it is imported
        raise UserError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(getattr(contract, "flops", None)):
        raise UserError(f"{path}: found no function flops(d), expected one that gives FLOPs from the dimensions")
    return contract


def _check_reference(path):
    """Raise UserError where the benchmark could not compare with the reference: it is only run where there is a GPU."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: the reference is missing") from None
    except (SyntaxError, ValueError) as error:
        where = f"{shown(path)}:{getattr(error, 'lineno', None) or 1}"
        raise UserError(f"{where}: is no Python: {getattr(error, 'msg', error)}") from None
    names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
             if isinstance(target, ast.Name)}  # fmt: skip
    names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    missing = [name for name in REFERENCE if name not in names]
    if missing:
        hint = did_you_mean(missing[0], sorted(names))
        raise UserError(f"{shown(path)}: found no {' and no '.join(missing)}. {hint}".rstrip())


class Verifier:
    """What is the same for all scripts: stack snapshots, hardware, the folders of catalogue and bundle.

    stop_early: stop at the first finding, for those who only ask whether a script is good.
    """

    def __init__(self, root=ROOT, stacks=None, bundle=None, seconds=LIMIT_SECONDS, stop_early=False):
        self.root = Path(root)
        self.stop_early = stop_early
        self.seconds = seconds
        self.bundle = Path(bundle) if bundle else None
        folder = self.root / "config" / "stacks"
        paths = sorted(folder.glob("*.json"))
        if stacks:
            paths = [folder / f"{name}.json" for name in stacks]
            for path in paths:
                if not path.is_file():
                    raise UserError(f"{path}: there is no snapshot of this stack")
        if not paths:
            raise UserError(f"{folder}: holds no stack snapshot; scripts/snapshot_stack.py makes one")
        self.snapshots = {path.stem: json.loads(path.read_text()) for path in paths}
        self.roof = Roof(self.root / "config" / "hardware.json")
        self._code = {}

    def job(self, source, spec, origins=None):
        """What the child processes need, made before they are forked."""
        entry = load_entry(self.root / "config" / "kernels" / f"{spec['catalogue']}.yaml")
        contract = _contract(spec)
        providers = [p for p in entry.data["providers"] if p["source"] == spec["source"]]
        used = {name for p in providers for name in p["stacks"]}
        snapshots = {name: s for name, s in self.snapshots.items() if name in used}
        if not snapshots:
            raise UserError(f"{entry.path}: no provider of source {spec['source']} is in a known stack")
        bundle = self.bundle_of(source.path)
        _check_reference(bundle / "references" / f"{spec['catalogue']}.py")
        code = self.code_of(bundle)
        return Job(source, spec, entry, contract, snapshots, self.roof, bundle, origins, code, self.stop_early)

    def bundle_of(self, script):
        """The folder with bench_utils.py: the script's own, else the project's."""
        if self.bundle:
            return self.bundle
        own = Path(script).resolve().parent
        if (own / "bench_utils.py").is_file():
            return own
        return self.root / "workflow" / "bundle" / "scripts"

    def code_of(self, bundle):
        """{(path, content): code} of the bundle's modules, compiled once for all runs."""
        if bundle not in self._code:
            found = self._code[bundle] = {}
            for path in (bundle / "bench_utils.py", *sorted((bundle / "benchlib").glob("*.py"))):
                try:
                    content = path.read_bytes()
                    found[str(path), content] = compile(content, str(path), "exec", dont_inherit=True)
                except (OSError, SyntaxError, ValueError):
                    continue  # importing it says so where a person sees it
        return self._code[bundle]

    def verify(self, script, spec, origins=None, text=None):
        """Report of one script. text stands for the file's content where it is given."""
        script = Path(script)
        if text is None:
            try:
                text = script.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{script}: is not UTF-8 text (byte {error.start})") from None
        report = Report()
        source = Source(script.resolve(), text, shown(script))
        if not source.check(report):
            return report, {}
        # Before the fork, so that the runs share what it imports, torch above all.
        run_stack = importlib.import_module("roofbench.verify.run").run_stack
        job = self.job(source, spec, origins)
        names = list(job.snapshots)
        runs = [lambda folder, n=name: run_stack(job, n, folder) for name in names]
        points, seen = {}, []
        if self.stop_early:
            for name, run in zip(names, runs, strict=True):
                if report.ok:
                    self._collect(report, source, name, sandbox.run([run], self.seconds)[0], points, seen)
        else:
            for name, outcome in zip(names, sandbox.run(runs, self.seconds), strict=True):
                self._collect(report, source, name, outcome, points, seen)
        expected = sum(len(op["points"]) for op in spec["ops"])
        if all(points.get(name) == expected for name in names):
            self._check_branches(report, source, job.marks.branches, seen)
        for name in names:
            if report.ok and points.get(name) != expected:
                report.fail(
                    "loops.missing",
                    source.place(None),
                    f"points that were checked on the stack {name}",
                    points.get(name, 0),
                    expected,
                    "the spec",
                )
        return report, points

    @staticmethod
    def _check_branches(report, source, branches, seen):
        """Each branch that makes inputs or calls the kernel ran at some point, on some stack."""
        report.passed("shapes.branch", len(branches))
        report.passed("kernel-call.branch", len(branches))
        for branch, check in unseen(branches, seen):
            report.fail(
                check,
                source.place(branch.line),
                f"a branch of {branch.name}",
                f"`{branch.text}` never ran",
                "code that runs at some point of the sweep: what else a GPU machine would do here is not verified",
                "docs/verification.md, Branches",
            )

    @staticmethod
    def _collect(report, source, name, outcome, points, seen):
        if outcome.problem or "memory" in outcome.value:
            check, wanted = PROBLEMS[outcome.problem or "memory"]
            detail = outcome.detail or "it ran out of memory"
            said = outcome.output.strip().splitlines()[-1:] if outcome.problem == "exit" else []
            report.fail(
                check,
                source.place(None),
                f"the script, run on the stack {name}",
                f"{detail}{f'; its last words: {said[0][:200]}' if said else ''}",
                wanted,
                stack=name,
            )
            return
        if "error" in outcome.value:
            report.fail(
                "output.run",
                source.place(None),
                f"the run on the stack {name} ended unexpectedly",
                " | ".join(outcome.value["error"].strip().splitlines()[-3:]),
                "a run that ends",
                stack=name,
            )
            return
        report.merge(outcome.value["report"])
        points[name] = outcome.value["points"]
        seen.append(outcome.value["seen"])


def shown(path):
    """A path relative to the working directory where that is shorter."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def find_spec(script, folder):
    """The spec of a script by its KERNEL. Raises UserError with what there is."""
    import ast

    if not Path(script).is_file():
        raise UserError(f"{script}: no such file")
    known = {path.stem: path for path in sorted(Path(folder).glob("*.json"))}
    if not known:
        raise UserError(f"{folder}: there are no specs yet; `snakemake generate` makes them")
    name = Path(script).stem.removeprefix("bench_")
    try:
        for node in ast.parse(Path(script).read_text()).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "KERNEL" for t in node.targets):
                name = str(ast.literal_eval(node.value))
    except (SyntaxError, ValueError):
        pass
    if name not in known:
        hint = did_you_mean(name, known, f"There are: {', '.join(known)}.")
        raise UserError(f"{script}: the ops file has no kernel {name}. {hint}")
    return known[name]


def load_spec(path):
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the spec cannot be read: {error}") from None


def load_origins(spec_path, kernel):
    """Line numbers of the last parse, where they are known."""
    path = Path(spec_path).resolve().parent.parent / "spec_origins.json"
    try:
        data = json.loads(path.read_text())
        return {"ops_file": data.get("ops_file"), **data["kernels"].get(kernel, {})}
    except (OSError, ValueError, KeyError):
        return {}


def stamp(report, points, script, spec_path, spec):
    """The stamp: what was checked, how often, against what."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kernel": spec["kernel"],
        "catalogue": spec["catalogue"],
        "script": {"file": shown(script), "sha256": sha256(script)},
        "spec": {"file": shown(spec_path), "sha256": sha256(spec_path)},
        "stacks": sorted(points),
        "points": sum(len(op["points"]) for op in spec["ops"]),
        "not_applicable": sum(len(op.get("not_applicable", [])) for op in spec["ops"]),
        "checks": [
            {"id": check, "family": check.split(".")[0], "passed": True, "times": times}
            for check, times in sorted(
                report.checked.items(), key=lambda c: (list(FAMILIES).index(c[0].split(".")[0]), c[0])
            )
        ],
        "families": list(FAMILIES),
    }


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def verify_file(verifier, script, spec_path, stamp_path=None):
    """Verify one script. Returns (report, seconds); the stamp is written only where nothing failed, else removed."""
    start = time.perf_counter()
    script = Path(script)
    if not script.is_file():
        raise UserError(f"{script}: no such file")
    if stamp_path:
        Path(stamp_path).unlink(missing_ok=True)
    spec = load_spec(spec_path)
    report, points = verifier.verify(script, spec, load_origins(spec_path, spec["kernel"]))
    seconds = time.perf_counter() - start
    if report.ok and stamp_path:
        content = stamp(report, points, script, spec_path, spec)
        path = Path(stamp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(path)
    return report, seconds
