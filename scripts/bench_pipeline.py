"""What the pipeline costs beside the work itself. Prints three ratios and what they may be.

Reads   the project
Writes  nothing in it: everything happens in copies under the temporary folder

    python scripts/bench_pipeline.py [--repeats 3] [--skip-many]

1. `snakemake generate verify` of all kernels from nothing, against one process that does the same work in a loop.
2. The same when there is nothing to do, against a Snakefile with as many trivial rules and files.
3. `snakemake generate verify` of ten times as many kernels (copies of one), against as many as there are.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _bootstrap import ROOT

PARTS = ("Snakefile", "config", "envs", "profiles", "scripts", "workflow", "requirements.lock", "results")
OPS_FILE = Path("results", "deepseek_nvfp4_ops.md")
MODEL_KERNEL = "rmsnorm"
SNAKEMAKE = [str(Path(sys.executable).with_name("snakemake"))]

LOOP = """
import json, os, subprocess, sys, time
sys.path[:0] = ["scripts", "workflow"]
import parse_ops, index, verify, bundle, render
from roofbench.state import read_manifest
from pathlib import Path
if parse_ops.main([]): sys.exit(1)
for source in sorted(Path("workflow/bundle").rglob("*")) + [Path("config/hardware.json")]:
    if source.is_file() and "__pycache__" not in source.parts: bundle.main([str(source)])
failed = 0
for kernel, entry in read_manifest("results/specs.json").items():
    script = f"deepseek_kernel_benchmarks/scripts/bench_{kernel}.py"
    spec = f"results/specs/{kernel}.json"
    render.main(["--spec", spec, "--entry", f"config/kernels/{entry['catalogue']}.yaml", "--output", script])
    Path("results/verified").mkdir(exist_ok=True)
    failed += bool(verify.main(["--script", script, "--spec", spec, "--stamp", f"results/verified/{kernel}.json"]))
sys.exit(failed)
"""

TRIVIAL = """
NAMES = [line.strip() for line in open("names")]
rule all:
    input: expand("out/{{name}}.{{part}}", name=NAMES, part=range({parts}))
{rules}
"""
RULE = """
rule part{part}:
    output: "out/{{name}}.{part}"
    shell: "touch {{output}}"
"""


def seconds(command, folder):
    """Wall time of a command that must succeed."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return time.perf_counter() - start


def copy_project(folder):
    """The sources of the project in a new folder."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if part == "results":
            (folder / OPS_FILE).parent.mkdir()
            shutil.copy2(ROOT / OPS_FILE, folder / OPS_FILE)
        elif source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)
    return folder


def copies_of_one_kernel(folder, count):
    """Make a project's ops file and catalogue hold `count` copies of one kernel under names of their own."""
    names = [f"{MODEL_KERNEL}_{number}" for number in range(count)]
    for place in ("config/kernels/{}.yaml", "workflow/roofbench/contracts/{}.py",
                  "workflow/templates/kernels/{}.py.j2", "workflow/bundle/scripts/references/{}.py"):  # fmt: skip
        text = (folder / place.format(MODEL_KERNEL)).read_text()
        for name in names:
            (folder / place.format(name)).write_text(text.replace(f"name: {MODEL_KERNEL}\n", f"name: {name}\n"))
    head = "| Op | Input Shape | Output Shape | Kernel |\n|---|---|---|---|\n"
    parts = [
        "# Operators\n\n## Model Configuration\n\n| Parameter | Value | Symbol |\n|---|---|---|\n| `h` | 7168 | H |\n"
    ]
    for phase, tokens in (("Prefill", "B*S"), ("Decode", "B")):
        rows = "".join(f"| `{name}_op` | [{tokens}, H] | same | `{name}` |\n" for name in names)
        parts.append(f"## {phase} Phase\n\n{head}{rows}")
    rows = "".join(f"| `{name}` | sgl-kernel | {name}_op |\n" for name in names)
    parts.append(f"## Kernel Summary\n\n| Kernel | Source | Ops Using It |\n|---|---|---|\n{rows}")
    (folder / OPS_FILE).write_text("\n".join(parts))
    return folder


def median(measure, repeats):
    """Median seconds of several calls."""
    return statistics.median(measure() for _ in range(repeats))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement; the median counts")
    parser.add_argument("--skip-many", action="store_true", help="leave out ten times the kernels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="roofbench-cost-") as folder:
        folder = Path(folder)
        number = iter(range(1000))

        def fresh():
            return copy_project(folder / str(next(number)))

        fresh_loop = median(lambda: seconds([sys.executable, "-c", LOOP], fresh()), options.repeats)
        full = [fresh() for _ in range(options.repeats)]
        fresh_pipeline = statistics.median(seconds([*SNAKEMAKE, "generate", "verify"], project) for project in full)
        report("from nothing, against one process", fresh_pipeline, fresh_loop, 3.0)

        idle = median(lambda: seconds([*SNAKEMAKE, "generate", "verify"], full[0]), options.repeats)
        kernels = [entry["kernel"] for entry in json.loads((full[0] / "results/specs.json").read_text())["kernels"]]
        trivial = folder / "trivial"
        trivial.mkdir()
        (trivial / "names").write_text("\n".join(kernels))
        rules = "".join(RULE.format(part=part) for part in range(3))
        (trivial / "Snakefile").write_text(TRIVIAL.format(parts=3, rules=rules))
        seconds([*SNAKEMAKE, "--cores", "2"], trivial)
        nothing = median(lambda: seconds([*SNAKEMAKE, "--cores", "2"], trivial), options.repeats)
        report("nothing to do, against trivial rules", idle, nothing, 1.5)

        if not options.skip_many:
            count = len(kernels)
            few = [copies_of_one_kernel(fresh(), count) for _ in range(options.repeats)]
            once = statistics.median(seconds([*SNAKEMAKE, "generate", "verify"], project) for project in few)
            many = seconds([*SNAKEMAKE, "generate", "verify"], copies_of_one_kernel(fresh(), 10 * count))
            report(f"{10 * count} kernels, against {count}", many, once, 10.0)


def report(what, pipeline, other, limit):
    """One line of the table; a ratio over its limit is marked."""
    ratio = pipeline / other
    verdict = "" if ratio <= limit else "  TOO MUCH"
    print(f"{what:<40} {pipeline:7.1f} s {other:7.1f} s   ratio {ratio:5.2f}, at most {limit}{verdict}", flush=True)


if __name__ == "__main__":
    main()
