"""Puts the package and the bundle's scripts on the path, as they are on theirs when they run."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

for folder in (
    ROOT / "workflow",
    ROOT / "workflow" / "bundle",
    ROOT / "workflow" / "bundle" / "scripts",
    ROOT / "scripts",
):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def pytest_terminal_summary(terminalreporter):
    """Tables that tests recorded as their result, in every log."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "table" and getattr(report, "when", "") == "call":
                    terminalreporter.section(report.nodeid.rpartition("::")[2])
                    terminalreporter.write_line(value)
