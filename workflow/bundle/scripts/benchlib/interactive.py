"""The roofline as one HTML page with hover, filters and a table; it needs no network. Needs plotly to be made."""

import json
import math
from pathlib import Path

from .results import write_whole
from .resultset import ResultError
from .roofline_plot import COLOURS, MEASURED_ROOF_COLOUR, ROOF_COLOUR, marks, roof_lines, roof_names, subtitle

TEMPLATE = Path(__file__).resolve().parent / "interactive.html"


def write_page(rows, roofs, path, title):
    """Write the page; returns its path. Rows as for ``roofline_plot.plot_roofline``."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ResultError("plotly is missing; the interactive page needs it: pip install plotly") from None
    data = json.dumps(page_data(rows, roofs, title), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8")
    before, rest = page.split("/*PLOTLY*/")
    between, after = rest.split("/*DATA*/")
    return write_whole(path, "".join([before, get_plotlyjs(), between, data, after]))


def page_data(rows, roofs, title):
    """What the page shows: rows with their place, roofs, filters and ranges (powers of ten)."""
    roofline, bandwidth = marks(rows, roofs)
    listed = [_row(mark, panel, roofs) for panel, found in (("x", roofline), ("x2", bandwidth)) for mark in found]
    order = {id(row): number for number, row in enumerate(rows)}
    places = [*roofline, *bandwidth]
    listed = [
        row for _, row in sorted(zip([order[id(m.row)] for m in places], listed, strict=True), key=lambda x: x[0])
    ]
    categories = {mark.row.kernel: mark.row.category for mark in places}
    dtypes = sorted({mark.row.compute_dtype for mark in roofline} & set(roofs.compute), key=roofs.compute.get)
    ranges = _ranges(roofline, bandwidth, roofs)
    names = []
    for dtype in dtypes:
        y, below = _name_place(roofs, dtype, dtypes)
        names.append(_name(roof_names(roofs, dtype), ranges["x"][1], y, below) | {"xref": "x", "yref": "y"})
    name = _name(roof_names(roofs), ranges["x2"][1], roofs.bandwidth)
    names.append(name | {"xref": "x2", "yref": "y2"})
    return {
        "title": title,
        "subtitle": subtitle(roofs, sum(row.measured for row in rows), len(rows), len(rows) - len(places)),
        "rows": listed,
        "kernels": [{"name": k, "colour": COLOURS.get(c, COLOURS[""])} for k, c in categories.items()],
        "phases": [phase for phase in ("decode", "prefill") if any(row["phase"] == phase for row in listed)],
        "batches": sorted({row["B"] for row in listed}),
        "roofs": _roofs(roofs, dtypes, ranges),
        "ranges": ranges,
        "names": names,
    }


def _name_place(roofs, dtype, dtypes):
    """(FLOP/s, below?): above the roof of a dtype, or below its roofs where another one runs through that place."""
    own = [roofs.compute[dtype], roofs.measured_compute.get(dtype) or roofs.compute[dtype]]
    others = [
        peaks[d] for peaks in (roofs.compute, roofs.measured_compute) for d in dtypes if d != dtype and d in peaks
    ]
    crossed = any(max(own) < other < 1.8 * max(own) for other in others)
    return (min(own), True) if crossed else (max(own), False)


def _name(words, x, y, below=False):
    """The name of a roof, at its right end; ``x`` is a power of ten."""
    return {
        "text": words,
        "x": x,
        "y": math.log10(y),
        "xanchor": "right",
        "yanchor": "top" if below else "bottom",
        "yshift": -3 if below else 3,
        "bgcolor": "rgba(255, 255, 255, 0.8)",
    }


def _row(mark, panel, roofs):
    row = mark.row
    share = roofs.share(row)
    if share is None and row.measured and row.peak_pct is not None:
        share = row.peak_pct / 100
    return {
        "kernel": row.kernel,
        "op": row.op,
        "phase": row.phase,
        "B": row.B,
        "where": row.where(),
        "latency_us": row.latency_ms * 1e3 if row.measured else None,
        "tflops": row.gflops / 1e3 if row.measured else None,
        "gbs": row.bandwidth_gbs,
        "share": None if share is None else share * 100,
        "bound": row.bound or roofs.bound(row) or "",
        "flags": ", ".join(row.flags),
        "x": mark.x,
        "y": mark.y,
        "panel": panel,
    }


def _ranges(roofline, bandwidth, roofs):
    top = max(roofs.compute.values(), default=1e15)

    def span(values, below, above):
        return [math.log10(min(values) / below), math.log10(max(values) * above)]

    return {
        "x": span([mark.x for mark in roofline] + [top / roofs.bandwidth], 2, 6),
        "y": span([mark.y for mark in roofline] + [top], 2, 3),
        "x2": span([mark.x for mark in bandwidth] or [1e3, 1e9], 3, 3),
        "y2": span([mark.y for mark in bandwidth] + [roofs.bandwidth], 2, 3),
    }


def _roofs(roofs, dtypes, ranges):
    low, high = (10**value for value in ranges["x"])
    lines = []
    for measured, dtype, line in roof_lines(roofs, dtypes, low, high):
        lines.append((measured, dtype.upper() if dtype else "memory", "x", line))
    low, high = (10**value for value in ranges["x2"])
    for measured, bandwidth in ((False, roofs.bandwidth), (True, roofs.measured_bandwidth)):
        if bandwidth:
            lines.append((measured, "memory", "x2", [(low, bandwidth), (high, bandwidth)]))
    return [
        {
            "name": f"{name}, {'measured' if measured else 'datasheet'}",
            "measured": measured,
            "colour": MEASURED_ROOF_COLOUR if measured else ROOF_COLOUR,
            "panel": panel,
            "x": [x for x, _ in line],
            "y": [y for _, y in line],
        }
        for measured, name, panel, line in lines
    ]
