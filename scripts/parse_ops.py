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
from dataclasses import replace

from _bootstrap import ROOT
from roofbench.config import config_from_json, load_config, parse_overrides
from roofbench.errors import plural, run_cli
from roofbench.join import write_specs
from roofbench.parse import parse


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
    if arguments.ops_file:
        config = replace(config, ops_file=arguments.ops_file)

    parsed = parse(config, arguments.catalogue_dir, _near("config/model_steps.yaml"))
    if len(parsed.problems):
        print(parsed.problems.report(), file=sys.stderr)
    if parsed.problems.errors:
        return 1
    if not arguments.check:
        written = write_specs(parsed.specs, arguments.out_dir, parsed.text, parsed.steps)
        changed = sum(1 for path in written if path.parent.name == "specs")
        specs = parsed.specs.specs.values()
        points = sum(len(op["points"]) for spec in specs for op in spec["ops"])
        counts = f"{plural(len(specs), 'kernel')}, {plural(points, 'point')}, {plural(changed, 'spec')} changed"
        print(f"{config.ops_file}: {counts}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
