"""Verify the orchestrator and the plotter of a bundle: they list the right kernels, take their flags, and draw."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from roofbench.errors import UserError, plural
from roofbench.verify.check import SCHEMA_VERSION, sha256, shown
from roofbench.verify.findings import Place, Report
from roofbench.verify.metrics import COLUMNS
from roofbench.verify.source import TEMPLATE_MARK
from roofbench.verify.written import read_sidecar

ORCHESTRATOR = "run_all_benchmarks.py"
PLOTTER = "plot_roofline.py"
FLAGS = {
    ORCHESTRATOR: ("--list", "--kernels", "--batch-sizes", "--seq-lens", "--output"),
    PLOTTER: ("--results", "--hardware", "--output"),
}
SECONDS = 120

# Two points of two kernels, one with FLOPs and one without.
ROWS = (
    "{first},o_proj,decode,8,1,8,7168,16384,0.012000,156.59,61.12,4889.12,31.9000,memory",
    "{second},norm,decode,8,1,8,7168,0,0.002000,0.00,3.01,240.90,0.0000,memory",
)


def verify_bundle(folder, manifest, stamp=None):
    """Report on standard output or standard error; returns the exit status."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if stamp:
        Path(stamp).unlink(missing_ok=True)
    report = check_bundle(folder, kernels_of(manifest))
    if not report.ok:
        print(report.text(), file=sys.stderr)
        print(f"{folder}: {plural(len(report.findings), 'finding')}, not verified", file=sys.stderr)
        return 1
    if stamp:
        content = {
            "schema_version": SCHEMA_VERSION,
            "bundle": shown(folder),
            "files": {name: sha256(folder / name) for name in FLAGS},
            "checks": [{"id": name, "passed": True, "times": times} for name, times in sorted(report.checked.items())],
        }
        path = Path(stamp)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{folder}: passed {sum(report.checked.values())} checks")
    return 0


def kernels_of(manifest):
    try:
        return [entry["kernel"] for entry in json.loads(Path(manifest).read_text())["kernels"]]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{manifest}: the list of kernels cannot be read: {error}") from None


def check_bundle(folder, kernels):
    """Report on the two programs of a bundle. kernels: names of the ops file's summary."""
    report = Report()
    for name, flags in FLAGS.items():
        if _compiles(report, folder / name):
            _has_flags(report, folder / name, flags)
    if not report.ok:
        return report
    lists(report, folder / ORCHESTRATOR, kernels)
    with tempfile.TemporaryDirectory(prefix="roofbench-") as temporary:
        _runs(report, folder / ORCHESTRATOR, kernels, Path(temporary) / "run")
        _draws(report, folder / PLOTTER, kernels, Path(temporary) / "plot")
    return report


def _compiles(report, path):
    report.passed("syntax.compile")
    try:
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
    except OSError:
        report.fail("syntax.compile", Place(shown(path)), "the bundle is not complete", "no such file", path.name)
        return False
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        report.fail("syntax.compile", Place(shown(path), line), "does not compile", error, "a Python file")
        return False
    for number, line in enumerate(text.splitlines(), 1):
        if TEMPLATE_MARK.search(line):
            report.fail(
                "syntax.template", Place(shown(path), number), "a template mark was left", line.strip()[:80], "text"
            )
    return report.ok


def run_program(path, arguments, folder):
    """(exit status, output) of a program of the bundle, with no GPU in sight; status None where it was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        # without the GPUs that the configuration names for the benchmarks
        **{name: value for name, value in os.environ.items() if not name.startswith("ROOFBENCH_")},
        "CUDA_VISIBLE_DEVICES": "",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "MPLCONFIGDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",
    }
    try:
        done = subprocess.run(
            [sys.executable, str(path.resolve()), *arguments],
            cwd=folder, env=environment, timeout=SECONDS, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, f"not finished after {SECONDS} s"
    return done.returncode, done.stdout


def _has_flags(report, path, flags):
    with tempfile.TemporaryDirectory(prefix="roofbench-") as folder:
        status, text = run_program(path, ["--help"], Path(folder))
    report.passed("output.cli", len(flags))
    missing = [flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text)]
    if status != 0 or missing:
        found = f"without {', '.join(missing)}" if status == 0 else f"status {status}: {text.strip()[-200:]}"
        report.fail("output.cli", Place(shown(path)), "--help", found, f"the options {', '.join(flags)}")


def lists(report, path, kernels):
    with tempfile.TemporaryDirectory(prefix="roofbench-") as folder:
        status, text = run_program(path, ["--list"], Path(folder))
    report.passed("output.list", len(kernels))
    listed = [line.split()[0] for line in text.splitlines() if line.strip()]
    missing = [kernel for kernel in kernels if kernel not in listed]
    extra = [name for name in listed if name not in kernels]
    if status != 0 or missing or extra:
        found = f"without {', '.join(missing)}" if missing else f"with {', '.join(extra)}"
        found = found if status == 0 else f"status {status}: {text.strip()[-200:]}"
        report.fail(
            "output.list",
            Place(shown(path)),
            "--list",
            found,
            f"the {len(kernels)} kernels of the ops file",
            "results/specs.json",
        )
    elif len(listed) != len(set(listed)):
        report.fail("output.list", Place(shown(path)), "--list", "a kernel twice", "each kernel once")


def _runs(report, path, kernels, folder):
    """Without a GPU, a short run of one kernel ends well and says that nothing could be measured."""
    kernel = kernels[0]
    output = folder / "measured"
    sizes = ["--batch-sizes", "1", "--seq-lens", "128", "--kv-lens", "128"]
    arguments = ["--kernels", kernel, *sizes, "--cache", "warm", "--output", str(output)]
    status, text = run_program(path, arguments, folder)
    report.passed("output.orchestrator")
    place = Place(shown(path))
    if status != 0:
        report.fail(
            "output.orchestrator",
            place,
            " ".join(arguments[:-2]),
            f"status {status}: {text.strip()[-300:]}",
            "status 0 on a machine without a GPU",
        )
        return
    written = output / f"{kernel}.csv"
    header = written.read_text().splitlines()[:1] if written.is_file() else ["no file"]
    if header != [",".join(COLUMNS)]:
        report.fail(
            "output.header",
            place,
            f"the first line of {kernel}.csv",
            header[0] if header else "nothing",
            ",".join(COLUMNS),
        )
    for name in ("all_kernels.csv", "benchmark_summary.md"):
        report.passed("output.file")
        if not (output / name).is_file():
            report.fail("output.file", place, "what a run writes", f"no {name}", f"{name} beside the CSVs")
    _obeys(report, place, output, kernel, " ".join(arguments[:-2]))
    summary = output / "benchmark_summary.md"
    if summary.is_file() and kernel not in summary.read_text():
        report.fail("output.file", place, "benchmark_summary.md", f"no word of {kernel}", "each kernel with its status")


def _obeys(report, place, output, kernel, command):
    """The run did what its arguments say: one kernel, its points at B = 1 and a length of 128, with a warm cache."""
    report.passed("output.orchestrator", 3)
    others = sorted(path.stem for path in output.glob("*.jsonl") if path.stem != kernel)
    sidecar = read_sidecar(output / f"{kernel}.jsonl")
    points = [p for p in sidecar["points"] if p.get("status") != "not_applicable"]
    odd = [p for p in points if p["B"] != 1 or p["S"] not in (1, 128) or p.get("L", 1) not in (1, 128)]
    cache = sidecar["run"].get("cache")
    if others:
        report.fail("output.orchestrator", place, command, f"it runs {', '.join(others[:3])} too", f"{kernel} alone")
    if odd or not points:
        found = f"{odd[0]['op']}, B={odd[0]['B']}, S={odd[0]['S']} among the points" if odd else "no points"
        report.fail("output.orchestrator", place, command, found, "points at B = 1 and a length of 128")
    if cache != "warm":
        report.fail("output.orchestrator", place, command, f"a {cache} cache", "a warm one, as it was given")


def _draws(report, path, kernels, folder):
    """A picture of a small CSV, as PNG and SVG."""
    results = folder / "results"
    results.mkdir(parents=True)
    names = {"first": kernels[0], "second": kernels[-1]}
    rows = [row.format(**names) for row in ROWS]
    for row in rows:
        text = ",".join(COLUMNS) + "\n" + row + "\n"
        (results / f"{row.partition(',')[0]}.csv").write_text(text)
    (folder / "points.json").write_text("[]")
    arguments = ["--results", str(results), "--hardware", "GB200", "--output", str(folder / "out")]
    status, text = run_program(path, [*arguments, "--points", str(folder / "points.json")], folder)
    report.passed("output.plotter")
    place = Place(shown(path))
    if status != 0:
        report.fail(
            "output.plotter", place, "drawing a CSV of two rows", f"status {status}: {text.strip()[-300:]}", "status 0"
        )
        return
    for name, start in (("roofline.png", b"\x89PNG"), ("roofline.svg", b"<?xml")):
        report.passed("output.plotter")
        picture = folder / "out" / name
        if not picture.is_file() or not picture.read_bytes().startswith(start):
            found = "no such file" if not picture.is_file() else "something else"
            report.fail("output.plotter", place, name, found, f"a picture as {name.rpartition('.')[2].upper()}")
