#!/usr/bin/env python3
"""Add the measured kernels up to steps of the model, and rank what to fix first.

Needs results, and the steps of the model as data (scripts/benchlib/model_steps.json). Writes model_time.md,
model_time.csv, model_time_ops.csv, headroom.csv, model_time.png and model_time.svg. Needs matplotlib for the
pictures, no GPU.

    python model_time.py --results results --output results
    python model_time.py --path experts=cutlass --path topk=topk_sigmoid
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "scripts"))

from benchlib import model_time, model_time_report, resultset, roofs  # noqa: E402

STEPS = HERE / "scripts" / "benchlib" / "model_steps.json"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="PATH", help="directory or CSV")
    parser.add_argument("--steps", type=Path, default=STEPS, metavar="FILE", help="the steps of the model")
    parser.add_argument("--points", type=Path, metavar="FILE", help="JSON list of all points, for what is not measured")
    parser.add_argument("--hardware", default="auto", metavar="NAME", help="peaks to hold the points against")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the files go (default: the results)")
    parser.add_argument(
        "--path", action="append", default=[], metavar="OP=PATH", help="path of an op: fastest, first or its name; *=…"
    )
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="these kernels only")
    options = parser.parse_args(arguments)
    try:
        for path in run(options):
            print(path)
    except resultset.ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or options.output}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def run(options):
    """Add up and write; returns the paths."""
    steps = model_time.load_steps(options.steps)
    results = resultset.load(options.results, options.kernels)
    points = resultset.load_points(options.points) if options.points else []
    points = [point for point in points if not options.kernels or point.kernel in options.kernels]
    rows = resultset.annotate(results.rows, points)
    rows += resultset.unlisted(points, rows)
    chosen = roofs.choose(results, options.hardware)
    found = model_time.step_times(steps, rows, chosen, model_time.choices(options.path))
    reason = steps.get("reason") or ("" if steps["steps"] else "the ops file has no op tables of a phase")
    devices = " and ".join(results.devices())
    title = f"Model time on {devices}" if devices else f"Model time at the roof of {chosen.name}"
    output = options.output or (options.results if options.results.is_dir() else options.results.parent)
    return model_time_report.write(found, output, title, steps.get("outside", ()), reason, roof=chosen)


if __name__ == "__main__":
    sys.exit(main())
