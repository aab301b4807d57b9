"""How long a kernel's benchmark will take: as long as the last time. Long ones begin first."""

import json
from pathlib import Path

from benchlib import journal

# Imports only, to find that the kernel cannot run here.
UNAVAILABLE = 5.0


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


def longest_first(entries, output, journal_dir):
    """Kernels ({"kernel": name, "seconds": expected}) in the order in which they should begin."""
    return sorted(
        entries, key=lambda entry: -seconds(entry["kernel"], output, journal_dir, entry.get("seconds") or 0.0)
    )
