"""The measuring library behind bench_utils: standard library only, plus torch and triton where a kernel is timed."""

import sys

OLDEST_PYTHON = (3, 10)

if sys.version_info < OLDEST_PYTHON:  # here, because every program of the bundle comes by before it fails elsewhere
    sys.exit(
        "needs Python {}.{} or newer, this is {}.{} ({})".format(*OLDEST_PYTHON, *sys.version_info[:2], sys.executable)
    )
