"""Run one verified benchmark under its supervisor, and leave what its outcome depended on.

Reads   a benchmark script and the bundle beside it, results/environment.json (settings, and what
        Snakemake saw)
Writes  deepseek_kernel_benchmarks/results/{kernel}.csv and .jsonl, results/attempts/{kernel}.json

Succeeds whenever a status is on record; a benchmark that could not be measured says so in its sidecar.

    python scripts/run_benchmark.py --script deepseek_kernel_benchmarks/scripts/bench_rmsnorm.py \\
        --output deepseek_kernel_benchmarks/results --environment results/environment.json --attempt FILE
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from _bootstrap import ROOT  # noqa: F401
from roofbench.state import run_record


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
    status = subprocess.run(command, check=False).returncode
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
