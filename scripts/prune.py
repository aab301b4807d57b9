"""Take out the files of kernels that the ops file no longer has. Measurements are moved aside, edited scripts stay.

Reads   results/specs.json (the manifest of the last parse)
Writes  nothing new; see `roofbench.state.prune` for what is removed and where results go

    python scripts/prune.py --manifest results/specs.json
"""

import argparse
import sys
from pathlib import Path

from _bootstrap import ROOT
from roofbench.errors import run_cli
from roofbench.state import prune


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    for line in prune(parser.parse_args(argv).manifest, ROOT):
        print(line)


if __name__ == "__main__":
    sys.exit(run_cli(main))
