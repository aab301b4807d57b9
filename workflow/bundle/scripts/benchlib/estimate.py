"""How long a kernel's benchmark will take: as long as the last time. Long ones begin first."""

import json
import math
import statistics
from pathlib import Path

from benchlib import journal

# Imports only, to find that the kernel cannot run here.
UNAVAILABLE = 5.0
# Up to this size a point takes as long as its inputs, warm-up and graphs do.
SHORT = 64


def seconds(kernel, output, journal_dir, expected=0.0):
    """Seconds of a kernel's benchmark alone on a GPU: from its journal, else `expected`."""
    try:
        with open(Path(output) / f"{kernel}.jsonl", encoding="utf-8") as stream:
            if json.loads(stream.readline()).get("status") == "unavailable":
                return UNAVAILABLE
    except (OSError, ValueError, AttributeError):
        pass
    points, start = last_time(journal.path_of(journal_dir, kernel))
    return sum(points.values()) + start if points else float(expected)


def last_time(path):
    """({point identity: seconds of its last measurement}, seconds from a supervisor's start to its first point)."""
    points, start, begun = {}, 0.0, set()
    for record in journal.read(path):
        try:
            if record["type"] == "start" and record["attempt"] not in begun:
                begun.add(record["attempt"])
                start = max(0.0, record["time"] - float(record["attempt"].partition("-")[0]))
            elif record["type"] == "point" and record["status"] == "ok":
                points[journal.identity_of(record)] = float(record["seconds"])
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return points, start


def of_points(points, known):
    """Seconds that points ((op, phase, B, S, L) each) will take, from {point: seconds} of those that are known.

    A point that is not among them takes as long as those of its op that are nearest in size; beyond the largest size,
    what it takes longer than the shortest one grows with its size: long points come last.
    """
    by_op = {}
    for one, seconds in known.items():
        by_op.setdefault(one[:2], {}).setdefault(size(*one[2:]), []).append(seconds)
    mean = statistics.fmean(known.values()) if known else 0.0
    return math.fsum(known[one] if one in known else _like(by_op.get(one[:2]), size(*one[2:]), mean) for one in points)


def size(B, S, L):
    """What a point's time grows with: tokens, in decode times the KV length (1 where the kernel has none)."""
    return B * max(S, L)


def _like(measured, wanted, otherwise):
    """Seconds of a point of a size from {size: [seconds]} of its op."""
    if not measured:
        return otherwise
    nearest = min(measured, key=lambda other: (abs(other - wanted), other))
    seconds = statistics.fmean(measured[nearest])
    if wanted <= max(measured):
        return seconds
    shortest = min(min(values) for values in measured.values())
    return shortest + (seconds - shortest) * max(1.0, wanted / max(nearest, SHORT))


def longest_first(entries, output, journal_dir):
    """Kernels ({"kernel": name, "seconds": expected}) in the order in which they should begin."""
    return sorted(
        entries, key=lambda entry: -seconds(entry["kernel"], output, journal_dir, entry.get("seconds") or 0.0)
    )
