"""One table and one summary of all kernels' results.

Reads   deepseek_kernel_benchmarks/results/{kernel}.csv and .jsonl, and with --steps the steps of the model
Writes  all_kernels.csv and benchmark_summary.md beside them, and all_kernels.parquet where pyarrow is installed

    python scripts/aggregate.py --results deepseek_kernel_benchmarks/results --kernels rmsnorm silu_and_mul
"""

import argparse
import sys
from pathlib import Path

from _bootstrap import ROOT

sys.path.insert(0, str(ROOT / "workflow" / "bundle" / "scripts"))

from benchlib.aggregate import aggregate, export_parquet  # noqa: E402
from benchlib.model_time import choices  # noqa: E402
from benchlib.resultset import ResultError  # noqa: E402
from benchlib.summary import write_summary  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--kernels", nargs="+", required=True)
    parser.add_argument("--steps", type=Path, help="the steps of the model: the summary then says what to fix first")
    parser.add_argument("--path", action="append", default=[], metavar="OP=PATH", help="as for model_time.py")
    options = parser.parse_args()
    try:
        aggregate(options.results, options.kernels)
        write_summary(options.results, options.kernels, steps=options.steps, choices=choices(options.path))
    except ResultError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        export_parquet(options.results, options.kernels)
    except ResultError as error:
        print(f"all_kernels.parquet is not written: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
