#!/usr/bin/env python3
"""Plot the roofline of a results directory as PNG and SVG, and as an interactive page.

Points that were not measured are drawn hollow where the roof is. They come from the sidecars, from --points (a JSON
list of points), or from the benchmark scripts beside this file (--list-points). Needs matplotlib, for --html
plotly, and no GPU.

    python plot_roofline.py --results results --output results --html
    python plot_roofline.py --results results --hardware B200 --output pictures
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "scripts"))

from benchlib import interactive, resultset, roofline_plot, roofs  # noqa: E402


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, metavar="DIR", help="where the CSVs are (default: results/ here)")
    parser.add_argument("--hardware", default="auto", metavar="NAME", help="peaks to hold the points against")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the pictures go (default: the results)")
    parser.add_argument(
        "--points", type=Path, metavar="FILE", help="JSON list of all points; the scripts are not asked"
    )
    parser.add_argument("--scripts", type=Path, default=HERE / "scripts", metavar="DIR", help="where the scripts are")
    parser.add_argument("--html", action="store_true", help="write roofline.html, too: one file, needs no network")
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="these kernels only")
    options = parser.parse_args(arguments)
    try:
        if options.results and not options.points and not options.results.exists():
            raise resultset.ResultError(f"{options.results}: there is no such file or directory")
        options.results = options.results or HERE / "results"
        paths = plot(options)
    except resultset.ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or options.output}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    for path in paths:
        print(path)
    return 0


def plot(options):
    """Draw what the options ask for; returns the paths of the pictures."""
    results = resultset.ResultSet(options.results, [])
    if options.results.exists():
        results = resultset.load(options.results, options.kernels)
    if options.points:
        points = resultset.load_points(options.points)
    else:
        points = ask_scripts(options.scripts, {row.kernel for row in results.rows if row.flops is not None})
    if options.kernels:
        points = [point for point in points if point.kernel in options.kernels]
    rows = resultset.annotate(results.rows, points)
    rows += resultset.unlisted(points, rows)
    if not rows:
        raise resultset.ResultError(
            f"{options.results}: there is nothing to plot: no results, and no points were listed"
        )
    title = "Roofline of the kernels of DeepSeek-R1-NVFP4"
    devices = results.devices()
    if devices:
        title += f" on {' and '.join(devices)}"
    chosen = roofs.choose(results, options.hardware)
    output = options.output or options.results
    paths = roofline_plot.plot_roofline(rows, chosen, output, title)
    if options.html:
        paths.append(interactive.write_page(rows, chosen, output / "roofline.html", title))
    return paths


def ask_scripts(folder, known=()):
    """Points of every bench_*.py of a folder, by their --list-points; a script that cannot answer is left out.

    Kernels in ``known`` are not asked: their sidecars list all points.
    """
    points = []
    for script in sorted(folder.glob("bench_*.py")):
        if script.name == "bench_utils.py" or script.stem.removeprefix("bench_") in known:
            continue
        answer = subprocess.run(
            [sys.executable, script, "--list-points"], capture_output=True, text=True, timeout=120, check=False
        )
        try:
            points += resultset.points_from_list(json.loads(answer.stdout), str(script))
        except ValueError:
            print(f"warning: {script.name} does not list its points; they are not shown", file=sys.stderr)
    return points


if __name__ == "__main__":
    sys.exit(main())
