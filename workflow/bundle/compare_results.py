#!/usr/bin/env python3
"""Compare two result sets: is the current one faster or slower than the baseline, and where?

Each set is a results directory or one CSV with the 14 columns (an older one may use older conventions). Writes
comparison.md, comparison.csv, comparison.png and comparison.svg. Needs matplotlib for the pictures, no GPU.

    python compare_results.py --baseline yesterday/results --current results --output comparison
    python compare_results.py --baseline old.csv --current results --threshold 0.05

Exit status: 0 no regression above the threshold, 1 at least one, 2 the sets cannot be compared. Between different
GPUs slower points are reported and do not fail, unless --strict.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "scripts"))

from benchlib import compare, compare_report, resultset, roofs, summary  # noqa: E402


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--baseline", type=Path, required=True, metavar="PATH", help="results directory or CSV")
    parser.add_argument(
        "--current", type=Path, default=HERE / "results", metavar="PATH", help="results directory or CSV"
    )
    parser.add_argument("--output", type=Path, default=Path("comparison"), metavar="DIR")
    parser.add_argument("--points", type=Path, metavar="FILE", help="JSON list of today's points, measured or not")
    parser.add_argument(
        "--threshold", type=float, default=compare.THRESHOLD, help="what counts as a regression: 0.1 is 10 %%"
    )
    parser.add_argument("--baseline-hardware", default="auto", metavar="NAME", help="peaks of the baseline's GPU")
    parser.add_argument("--hardware", default="auto", metavar="NAME", help="peaks of the current set's GPU")
    parser.add_argument("--strict", action="store_true", help="fail on regressions between different GPUs, too")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except resultset.ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or options.output}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2


def run(options):
    """Compare and write; returns the exit status."""
    if not options.threshold >= 0:  # NaN, too
        raise resultset.ResultError(f"--threshold is {options.threshold}, expected a number of at least 0")
    sets = [load(path) for path in (options.baseline, options.current)]
    if not sets[0].measured:
        raise resultset.ResultError(
            f"{options.baseline}: nothing in it is measured ({len(sets[0].rows)} points listed)"
        )
    points = resultset.load_points(options.points) if options.points else []
    sets[1].rows = resultset.annotate(sets[1].rows, points)
    chosen = [roofs.choose(sets[0], options.baseline_hardware), roofs.choose(sets[1], options.hardware)]
    result = compare.compare(*sets, points, *chosen)
    if not result.pairs:
        kernels = [", ".join(sorted({row.kernel for row in part.rows})) for part in sets]
        raise resultset.ResultError(
            f"no row of {options.baseline} stands for a point of {options.current}: "
            f"kernels {kernels[0]} against {kernels[1]}"
        )
    paths = options.baseline, options.current
    devices = [" and ".join(part.devices()) for part in sets]
    names = [device or path.name for device, path in zip(devices, paths, strict=True)]
    if names[0] == names[1]:
        names = [f"{name} ({path})" for name, path in zip(names, paths, strict=True)]
    facts = [summary.facts(part) for part in sets]
    for path in compare_report.write(result, options.output, names, options.threshold, chosen, facts=facts):
        print(path)
    return report(result, options, chosen)


def load(path):
    """The results there; raises ResultError where there are none."""
    found = resultset.load(path)
    if not found.rows and not found.runs:
        what = "has a header and no row" if path.is_file() else "has no CSV and no sidecar of a kernel"
        raise resultset.ResultError(f"{path}: holds no results: it {what}")
    return found


def report(result, options, chosen):
    """Print the verdict; returns 1 where it should fail."""
    regressions = result.regressions(options.threshold)
    print(f"{result.joined_rows} of {result.baseline_rows} rows joined, {len(result.compared)} points compared")
    if not result.compared:
        print("error: the current set has no measurement of the baseline's points", file=sys.stderr)
        return 2
    if result.lost:
        print(f"{len(result.lost)} points of the baseline are not measured in the current set")
    for pair in regressions[:10]:
        row = pair.current
        print(f"slower: {row.kernel} {row.op} {row.phase} {row.where()}: {pair.ratio:.2f} times the baseline")
    if len(regressions) > 10:
        print(f"… and {len(regressions) - 10} more")
    if not regressions:
        return 0
    if compare.between_gpus(*chosen) and not options.strict:
        print(f"not counted as regressions: {chosen[0].name} and {chosen[1].name} are different GPUs")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
