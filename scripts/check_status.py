"""Fail if a kernel was not measured although it could have been.

Reads   sidecars (deepseek_kernel_benchmarks/results/{kernel}.jsonl)
Writes  nothing; one line for each kernel whose status is partial, incorrect, failed or timeout

    python scripts/check_status.py [--allow-failures] deepseek_kernel_benchmarks/results/*.jsonl
"""

import argparse
import sys
from pathlib import Path

from _bootstrap import ROOT  # noqa: F401
from roofbench.state import FAILURES, run_record


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allow-failures", action="store_true", help="list them and succeed")
    parser.add_argument("sidecars", type=Path, nargs="+")
    options = parser.parse_args()
    bad = []
    for sidecar in options.sidecars:
        record = run_record(sidecar) or {"status": "failed", "reason": "the sidecar has no run record"}
        if record.get("status") in FAILURES:
            bad.append(f"{sidecar.stem}: {record['status']}: {record.get('reason') or 'no reason recorded'}")
    if bad:
        print(f"{len(bad)} of {len(options.sidecars)} kernels were not measured as they should have been:")
        print("\n".join(f"  {line}" for line in bad))
    if bad and not options.allow_failures:
        print("The next `snakemake all` tries them again; --config allow_failures=true accepts them.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
