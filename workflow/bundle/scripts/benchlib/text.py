"""Small pieces of Markdown, and numbers as people read them."""


def table(header, rows, align=None):
    """A Markdown table; ``align`` holds l or r for each column. Pipes in cells are escaped."""
    align = align or "l" * len(header)
    lines = [_line(header), _line("---:" if side == "r" else "---" for side in align)]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def latency(ms):
    """``1.70 µs`` below a tenth of a millisecond, ``0.137 ms`` above; ``–`` for None."""
    if ms is None:
        return "–"
    if ms < 0.1:
        return f"{ms * 1e3:.2f} µs"
    return f"{ms:.3f} ms" if ms < 10 else f"{ms:.1f} ms"


def percent(share, digits=1):
    """A share of 1 as percent: ``12.3 %``; ``<0.1 %`` for what would read as nothing; ``–`` for None."""
    return "–" if share is None else f"{points(share * 100, digits)} %"


def points(value, digits=1):
    """A number of percent without its sign: ``12.3``, ``<0.1``, ``0``; ``–`` for None."""
    if value is None:
        return "–"
    least = 10.0**-digits
    if value != 0 and abs(value) < least / 2:
        return f"<{least:.{digits}f}"
    return "0" if value == 0 else f"{value:.{digits}f}"


def rate(value, unit):
    """A quantity with three significant digits and a prefix: ``3.02 TB/s`` from 3.02e12 and ``B/s``."""
    if value is None:
        return "–"
    steps = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    factor, prefix = next((step for step in steps if abs(value) >= step[0] * 0.9995), (1, ""))
    scaled = value / factor
    return f"{scaled:.0f} {prefix}{unit}" if abs(scaled) >= 99.95 else f"{scaled:.3g} {prefix}{unit}"


def plural(count, noun):
    """``1 point``, ``2 points``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
