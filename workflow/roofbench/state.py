"""What is finished, what is worth another try, and what to take away: decided from files, without Snakemake.

A kernel's benchmark is finished when every point is measured (status ok). Anything else is tried again when the
result could be another one: see `wants_run`.
"""

import functools
import importlib.metadata
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from roofbench.errors import UserError, did_you_mean
from roofbench.generated import is_ours

FAILURES = ("partial", "incorrect", "failed", "timeout")
PACKAGES = ("torch", "triton", "sgl-kernel", "sglang-kernel", "sglang", "flashinfer-python", "flashinfer-cubin")
# What is made of all kernels' results; comparisons are with results that somebody named, and stay.
DERIVED = ("all_kernels.*", "benchmark_summary.*", "headroom.*", "model_time*.*", "roofline.*")
NO_KERNELS = ("utils", "all_kernels")  # bench_utils.py and all_kernels.csv are no kernel's


def read_manifest(path):
    """The manifest's kernels by name, in the order of the ops file: {kernel: {"kernel", "catalogue", "source"}}."""
    return {entry["kernel"]: entry for entry in json.loads(Path(path).read_text())["kernels"]}


def check_files(settings, hardware_table):
    """Raise UserError where a setting names an ops file that is not there, or a device that the table does not have."""
    ops_file = Path(settings["ops_file"])
    if not ops_file.is_file():
        found = "does not exist"
        if ops_file.exists():
            found = "is a directory" if ops_file.is_dir() else "is a pipe or a device, no file"
        beside = [str(path) for path in sorted(ops_file.parent.glob("*.md"))] if ops_file.parent.is_dir() else []
        raise UserError(f"{ops_file}: the ops file {found}. {did_you_mean(str(ops_file), beside)}".rstrip())
    names = ["auto", *(device["name"] for device in json.loads(Path(hardware_table).read_text())["devices"])]
    wanted = settings["hardware"]
    if wanted.lower() not in [name.lower() for name in names]:
        known = f"found {wanted!r}, expected one of {', '.join(names)}."
        raise UserError(f"hardware: {known} {did_you_mean(wanted, names)}".rstrip())


def check_writable(folders):
    """Raise UserError where a folder is there and cannot be written to."""
    for folder in folders:
        if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{os.path.abspath(folder)}: this folder is read-only. Work in a copy of your own")


def is_newer(path, other):
    """Whether a file exists and is not older than another one."""
    try:
        return os.stat(path).st_mtime_ns >= os.stat(other).st_mtime_ns
    except OSError:
        return False


def select_from(path, settings):
    """The kernels of a manifest file that the settings' `kernels` (empty: all) and `exclude` leave, in its order.

    The name of a kernel's catalogue entry will do as well. Raises UserError for a name that is not there, and where
    nothing is left. No manifest: no kernels.
    """
    try:
        manifest = read_manifest(path)
    except (OSError, ValueError, KeyError):
        return []
    return select(manifest, settings["kernels"], settings["exclude"], settings["ops_file"])


def select(manifest, kernels, exclude, ops_file):
    """`select_from` for kernels that are known: {kernel: {"catalogue": name}}."""
    names = {entry["catalogue"]: kernel for kernel, entry in manifest.items()} | {kernel: kernel for kernel in manifest}
    for key, asked in (("kernels", kernels), ("exclude", exclude)):
        for name in asked:
            if name not in names:
                hint = did_you_mean(name, manifest, f"It has {', '.join(manifest)}.")
                raise UserError(f"{key}: {name} is not in the Kernel Summary of {ops_file}. {hint}")
    wanted, unwanted = {names[name] for name in kernels}, {names[name] for name in exclude}
    chosen = [name for name in manifest if (not wanted or name in wanted) and name not in unwanted]
    if not chosen:
        raise UserError(f"`kernels` and `exclude` leave none of the kernels of {ops_file}")
    return chosen


PARTS = {
    "template": "workflow/templates/kernels/{}.py.j2",
    "contract": "workflow/roofbench/contracts/{}.py",
    "reference": "workflow/bundle/scripts/references/{}.py",
}


def check_parts(kernels, root="."):
    """Raise UserError where a catalogue entry lacks one of its other three files."""
    lines = []
    for name in dict.fromkeys(kernel["catalogue"] for kernel in kernels):
        for part, pattern in PARTS.items():
            path = Path(root, pattern.format(name))
            if not path.is_file():
                near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
                lines.append(f"{pattern.format(name)}: the {part} of {name} is missing. {near}".rstrip())
    if lines:
        raise UserError("\n".join([*lines, "CONTRIBUTING.md, 'Add a kernel', says what is in it."]))


def for_jobs(settings):
    """Environment variables for the jobs: settings that must not count as a change of a job's inputs, and a PATH on
    which `python` is the one that runs this."""
    variables = {
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
        "ROOFBENCH_OVERWRITE": "--overwrite" if settings["overwrite"] else "",
        "ROOFBENCH_ALLOW_FAILURES": "--allow-failures" if settings["allow_failures"] else "",
    }
    if settings["gpus"] != "all":
        variables["ROOFBENCH_GPUS"] = ",".join(map(str, settings["gpus"]))
    return variables


def is_edited(path):
    """Whether a Python file stands there that is not as it was generated. Other files have no hash in them."""
    path = Path(path)
    return path.suffix == ".py" and path.is_file() and not is_ours(path.read_text(errors="replace"))


def is_edited_copy(path, source):
    """Whether a file that is a copy of a source was changed after it was made."""
    try:
        changed = os.stat(path).st_mtime_ns > os.stat(source).st_mtime_ns
        return changed and Path(path).read_bytes() != Path(source).read_bytes()
    except OSError:
        return False


def holds(path, value):
    """Whether the JSON file holds exactly this value."""
    try:
        return json.loads(Path(path).read_text()) == value
    except (OSError, ValueError):
        return False


def lists(path, entries):
    """Whether a JSON list names exactly these kernels of a manifest in this order, by name or in full."""
    try:
        found = json.loads(Path(path).read_text())
        return len(found) == len(entries) and all(
            item == entry["kernel"] if isinstance(item, str) else entry.items() <= item.items()
            for item, entry in zip(found, entries, strict=True)
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def missing_specs(manifest, specs):
    """Whether the manifest lists a kernel whose spec is gone. No manifest: nothing is missing yet."""
    try:
        kernels = read_manifest(manifest)
    except (OSError, ValueError, KeyError):
        return Path(manifest).exists()
    return any(not Path(specs, f"{kernel}.json").is_file() for kernel in kernels)


def read_steps(path):
    """The steps of the model from their JSON file, or None where there are none."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return None


def check_paths(steps, choices):
    """Raise UserError where `paths` of the configuration names an op or a path that no step of the model has.

    steps: the steps as data. Where there are none, nothing can be checked.
    """
    slots = [slot for step in (steps or {}).get("steps", ()) for slot in step["slots"]]
    known = {}
    for slot in slots:
        known.setdefault(slot["op"], set()).update(path["name"] for path in slot["paths"])
    for op, name in choices.items() if known else ():
        several = ", ".join(sorted(op for op, names in known.items() if len(names) > 1))
        if op != "*" and op not in known:
            raise UserError(f"paths: no step of the model has the op {op}. {did_you_mean(op, known)}".strip()
                            + f" Ops with several paths: {several or 'none'}.")  # fmt: skip
        names = ["fastest", "first", *sorted(known.get(op, ()))]
        if op != "*" and name not in names:
            raise UserError(f"paths: {op} has no path {name}. It has {', '.join(names)}.")


def comparable(baseline, results):
    """The baseline's path. Raises UserError where there is nothing to compare, or nothing to compare with."""
    if not baseline:
        raise UserError("`snakemake compare` needs something to compare with: --config baseline=PATH")
    if not Path(baseline).exists():
        raise UserError(f"baseline: {baseline}: there is no such file or directory")
    if not any(Path(results).glob("*.csv")):
        raise UserError(f"{results}: there are no results to compare; `snakemake all` makes them")
    return baseline


def run_record(sidecar):
    """The run record of a kernel's sidecar, or None where there is none that can be read."""
    try:
        with Path(sidecar).open() as lines:
            for line in lines:
                record = json.loads(line)
                if record.get("type") == "run":
                    return record
    except (OSError, ValueError, AttributeError):
        pass
    return None


def environment(path, executor, settings, write):
    """The fingerprint of this process, taken once; with `write`, left at a path for the jobs to record."""
    now = fingerprint(executor, json.dumps(settings, sort_keys=True))
    if write and not holds(path, now):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(now, indent=1) + "\n")
    return now


@functools.cache
def fingerprint(executor, settings):
    """What the outcome of a run depends on beside its files: devices, driver, packages, executor, settings.

    Taken where Snakemake runs, in a few milliseconds: nothing heavy is imported. On a cluster that is the head node,
    and a change of the node's software is not seen: `--config retry=true` is for that.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "executor": executor,
        "devices": _devices(),
        "packages": versions,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "settings": json.loads(settings),
    }


def _devices():
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    command = [tool, "--query-gpu=uuid,name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.splitlines() if line.strip()]


def wants_run(sidecar, attempt, now, retry=False, allow_failures=False):
    """Whether a kernel whose result files all exist should be run again.

    `attempt` is the file in which the last run left its fingerprint, `now` the fingerprint of this run. ok is
    final until the settings change. unavailable waits for any change; a failure is tried by every run unless
    failures are allowed.
    """
    status = (run_record(sidecar) or {}).get("status")
    try:
        before = json.loads(Path(attempt).read_text())
    except (OSError, ValueError):
        return True
    if status == "ok":
        return before.get("settings") != now["settings"]
    return retry or before != now or status is None or (status in FAILURES and not allow_failures)


def explain(job, log, first, most=6):
    """Lines that say why a job failed: the first message of its log with what is indented under it, or the last
    line, and where to read on. `log` is a path, None or a file that need not be there."""
    try:
        text = Path(log).read_text(errors="replace") if log else ""
    except OSError:
        text = ""
    said = [line.rstrip() for line in text.splitlines() if line.strip()]
    if first:
        rest = itertools.takewhile(lambda line: line.startswith(" "), said[1:most])
        shown = [*said[:1], *rest]
    else:
        shown = said[-1:]
    return [f"{job} failed: see {log}" if log else f"{job} failed", *(f"  {line}" for line in shown)]


def prune(manifest, root):
    """Take out what belongs to kernels that the ops file does not have; returns one line for each thing done.

    Specs, stamps, records of attempts and unedited scripts are deleted: they can be made again. Results are moved to
    results/removed/ of the bundle where the kernel was taken out of this very ops file (`taken_out` of the manifest),
    and the tables and pictures that hold them go, so that nothing shows what is no longer there. Results of another
    ops file's kernels and edited scripts stay.
    """
    root = Path(root)
    manifest = json.loads(Path(manifest).read_text())
    kept = {entry["kernel"] for entry in manifest["kernels"]}
    results, bundle = root / "results", root / "deepseek_kernel_benchmarks"
    measured = bundle / "results"
    done = []

    def gone(paths, prefix=""):
        return [path for path in sorted(paths) if path.stem.removeprefix(prefix) not in (*kept, *NO_KERNELS)]

    for folder in ("specs", "verified", "attempts"):
        for path in gone((results / folder).glob("*.json")):
            path.unlink()
            done.append(f"removed {path.relative_to(root)}")
    for path in gone((bundle / "scripts").glob("bench_*.py"), "bench_"):
        if is_edited(path):
            done.append(f"kept {path.relative_to(root)}: it was edited, and its kernel is not in the ops file")
        else:
            path.unlink()
            done.append(f"removed {path.relative_to(root)}")
    unlisted = gone(measured.glob("*.jsonl"))
    taken_out = [path for path in unlisted if path.stem in manifest.get("taken_out", ())]
    others = [path.stem for path in unlisted if path not in taken_out]
    if others:
        where = measured.relative_to(root)
        done.append(f"kept in {where}, not in {manifest['ops_file']} (of another ops file?): {', '.join(others)}")
    if taken_out:
        aside = measured / "removed"
        aside.mkdir(exist_ok=True)
        for sidecar in taken_out:
            name = free_name(aside / sidecar.stem, ".jsonl", ".csv").name
            for path in (sidecar, sidecar.with_suffix(".csv")):
                if path.exists():
                    target = aside / f"{name}{path.suffix}"
                    os.replace(path, target)
                    done.append(f"moved {path.relative_to(root)} to {target.relative_to(root)}")
        for path in [*itertools.chain(*map(measured.glob, DERIVED)), results / "status.ok"]:
            path.unlink(missing_ok=True)
    return done


def free_name(path, *suffixes):
    """The path, with -2, -3, ... at its end where it, or it with one of the suffixes, is taken."""
    number, free = 1, path
    while any(free.with_name(f"{free.name}{suffix}").exists() for suffix in suffixes or ("",)):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
