"""How often each op runs in one step of the model, as data for the bundle's model_time.py.

Reads   the ops file (layers, sections, kernels) and config/model_steps.yaml (what the tables cannot say)
Writes  a JSON file, as parse_ops.py does as results/model_steps.json; in the bundle it is
        scripts/benchlib/model_steps.json

    python scripts/model_steps.py --ops-file results/deepseek_nvfp4_ops.md --output model_steps.json
"""

import argparse
import json
import sys
from pathlib import Path

from _bootstrap import ROOT
from roofbench.errors import Problems, run_cli
from roofbench.opsfile import read_ops_file
from roofbench.results import resolve_steps


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops-file", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=ROOT / "config" / "model_steps.yaml")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    problems = Problems()
    ops = read_ops_file(options.ops_file, problems)
    problems.raise_errors()
    steps = resolve_steps(options.config, ops, problems)
    problems.raise_errors()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(steps, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_cli(main))
