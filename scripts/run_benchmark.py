"""Run one verified benchmark under its supervisor, and leave what its outcome depended on.

Reads   a benchmark script and the bundle beside it, results/environment.json (settings, and what
        Snakemake saw); for the record the settings of the last parse, the spec and the ops file
Writes  deepseek_kernel_benchmarks/results/{kernel}.csv and .jsonl, results/attempts/{kernel}.json

Succeeds whenever a status is on record; a benchmark that could not be measured says so in its sidecar.

    python scripts/run_benchmark.py --script deepseek_kernel_benchmarks/scripts/bench_rmsnorm.py \\
        --output deepseek_kernel_benchmarks/results --environment results/environment.json --attempt FILE
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _bootstrap import ROOT  # noqa: F401
from roofbench.state import run_record


def facts(results, kernel, settings):
    """What is put on record with the results: the settings, and hashes of the ops file and of the kernel's spec.

    results is the folder of the parse's files; what is not there has no hash.
    """
    try:
        parsed = json.loads((results / "parse_settings.json").read_text())
    except (OSError, ValueError):
        parsed = {}
    config = {**parsed, **settings, "timing": {**parsed.get("timing", {}), **settings["timing"]}}
    ops_file = config.get("ops_file")
    return {
        "config": config,
        "ops_file_sha256": _sha256(Path(ops_file)) if ops_file else None,
        "spec_sha256": _sha256(results / "specs" / f"{kernel}.json"),
    }


def _sha256(path):
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--attempt", type=Path, required=True)
    options = parser.parse_args()
    before = options.environment.read_text()
    settings = json.loads(before)["settings"]
    kernel = options.script.stem.removeprefix("bench_")
    supervisor = options.script.parent / "benchlib" / "supervise.py"
    command = [sys.executable, supervisor, "--script", options.script, "--output", options.output]
    command += ["--hardware", settings["hardware"], "--cache", settings["timing"]["cache"]]
    command += ["--point-timeout", str(settings["timing"]["point_timeout_s"])]
    with tempfile.TemporaryDirectory(prefix="roofbench-") as folder:
        known = Path(folder, "record.json")
        known.write_text(json.dumps(facts(options.environment.parent, kernel, settings)))
        status = subprocess.run([*command, "--record", known], check=False).returncode
    if status:
        return status if status > 0 else 1
    record = run_record(options.output / f"{kernel}.jsonl")
    if record is None:
        print(f"{kernel}: the benchmark ended without putting a status on record", file=sys.stderr)
        return 1
    print(f"{kernel}: {record['status']}{': ' + record['reason'] if record.get('reason') else ''}")
    options.attempt.parent.mkdir(parents=True, exist_ok=True)
    options.attempt.write_text(before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
