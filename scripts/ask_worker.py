"""Run a script with its arguments in the worker that Snakemake keeps, or in this process where there is none.

Reads   the environment variable ROOFBENCH_WORKER (see roofbench.worker)
Writes  what the script writes; the exit status is the script's

    python scripts/ask_worker.py scripts/verify.py --script FILE --spec FILE --stamp FILE
"""

import os
import sys

from _bootstrap import ROOT  # noqa: F401
from roofbench.worker import ask


def main():
    status = ask(sys.argv[1:])
    if status is None:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    sys.exit(status)


if __name__ == "__main__":
    main()
