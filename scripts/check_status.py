"""Fail if a kernel was not measured although it could have been.

Reads   sidecars (deepseek_kernel_benchmarks/results/{kernel}.jsonl)
Writes  nothing; says how many kernels were measured, why others cannot be measured here, and which ones went wrong

    python scripts/check_status.py [--allow-failures] deepseek_kernel_benchmarks/results/*.jsonl
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from _bootstrap import ROOT  # noqa: F401
from roofbench.errors import plural, run_cli
from roofbench.state import FAILURES, run_record

NO_RECORD = {"status": "failed", "reason": "the sidecar has no run record"}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allow-failures", action="store_true", help="list them and succeed")
    parser.add_argument("sidecars", type=Path, nargs="+")
    options = parser.parse_args(argv)
    records = {path.stem: run_record(path) or NO_RECORD for path in options.sidecars}
    for line in account(records):
        print(line)
    bad = [kernel for kernel, record in records.items() if record.get("status") in FAILURES]
    if bad and not options.allow_failures:
        print("The next `snakemake all` tries them again; --config allow_failures=true accepts them.")
        return 1
    return 0


def account(records):
    """Lines that say how the kernels' runs ended, by their run records; what went wrong stands last."""
    by_status = {}
    for kernel, record in records.items():
        by_status.setdefault(record.get("status"), {})[kernel] = record.get("reason") or "no reason recorded"
    lines = []
    if measured := len(by_status.get("ok", ())):
        lines.append(f"{measured} of {plural(len(records), 'kernel')} measured")
    if unavailable := by_status.get("unavailable"):
        lines.append(f"{'not possible' if measured else 'nothing could be measured'} on this machine:")
        reasons = Counter(unavailable.values()).most_common()
        lines += [f"  {plural(count, 'kernel')}: {reason}" for reason, count in reasons]
    bad = [
        f"  {kernel}: {status}: {by_status[status][kernel]}"
        for status in FAILURES
        for kernel in by_status.get(status, ())
    ]
    if bad:
        lines += [f"{len(bad)} of {plural(len(records), 'kernel')} not measured as they should have been:", *bad]
    return lines


if __name__ == "__main__":
    sys.exit(run_cli(main))
