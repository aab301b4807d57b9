"""Turn an ops file into one spec for each kernel of its summary.

Reads   the ops file (Markdown), config/config.yaml, config/kernels/*.yaml, config/model_steps.yaml
Writes  results/specs/{kernel}.json, results/specs.json (the list of kernels), results/spec_origins.json (lines),
        results/model_steps.json (how often a step of the model runs each op)

A file that would not change is not touched, and specs of kernels that are gone are removed. Every problem of the file
goes to standard error; with an error, nothing is written and the exit status is 1.

    python scripts/parse_ops.py
    python scripts/parse_ops.py --ops-file my_model.md --set symbols.Nh=16 --out-dir /tmp/specs
"""

import argparse
import os
import sys

from _bootstrap import ROOT
from roofbench.catalogue import load_catalogue
from roofbench.config import config_from_json, load_config, parse_overrides
from roofbench.documents import read_text
from roofbench.errors import Problems, run_cli
from roofbench.join import build_specs, write_specs
from roofbench.opsfile import parse_ops_file
from roofbench.results import steps_or_reason


def _near(path):
    """A path of the repository, written from the current directory where that is shorter."""
    return min(os.path.relpath(ROOT / path), str(ROOT / path), key=len)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops-file", help="instead of the configuration's ops_file")
    parser.add_argument("--config", help="configuration file (default: config/config.yaml)")
    parser.add_argument("--settings", metavar="JSON", help="a whole configuration as JSON, instead of a file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one setting")
    parser.add_argument("--catalogue-dir", default=_near("config/kernels"), help="default: config/kernels")
    parser.add_argument("--out-dir", "--output", default="results", help="default: results")
    parser.add_argument("--check", action="store_true", help="report problems, write nothing")
    arguments = parser.parse_args(argv)

    overrides = parse_overrides(arguments.set)
    if arguments.settings is not None:
        config = config_from_json(arguments.settings, overrides=overrides)
    else:
        config = load_config(arguments.config or _near("config/config.yaml"), overrides)
    path = arguments.ops_file or config.ops_file

    problems = Problems()
    catalogue = load_catalogue(arguments.catalogue_dir, problems)
    text = read_text(path, problems)
    result = steps = None
    if text is not None:
        ops = parse_ops_file(text, path, problems)
        result = build_specs(ops, catalogue, config, problems)
        if not problems.errors:
            changes = {name: value for name, value in config.symbols.items() if name in ops.symbols}
            values = ops.values(Problems(), changes)
            steps = steps_or_reason(_near("config/model_steps.yaml"), ops, problems, values)
    if len(problems):
        print(problems.report(), file=sys.stderr)
    if problems.errors:
        return 1
    if not arguments.check:
        written = write_specs(result, arguments.out_dir, text, steps)
        changed = sum(1 for p in written if p.parent.name == "specs")
        count = len(result.specs)
        points = sum(len(op["points"]) for spec in result.specs.values() for op in spec["ops"])
        print(f"{path}: {count} kernels, {points} points, {changed} specs changed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
