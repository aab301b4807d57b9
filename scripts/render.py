"""Write one kernel's benchmark script, unless a person's own stands there.

Reads   a spec (results/specs/{kernel}.json), its catalogue entry (config/kernels/*.yaml), the templates
Writes  deepseek_kernel_benchmarks/scripts/bench_{kernel}.py

    python scripts/render.py --spec results/specs/rmsnorm.json --entry config/kernels/rmsnorm.yaml --output FILE
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

from _bootstrap import ROOT
from roofbench.errors import run_cli
from roofbench.generated import write_generated
from roofbench.render import render_kernel


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--entry", type=Path, required=True)
    parser.add_argument("--templates", type=Path, default=ROOT / "workflow" / "templates")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that was written or edited by hand")
    options = parser.parse_args(argv)
    entry = yaml.load(options.entry.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    text = render_kernel(json.loads(options.spec.read_text()), entry, options.templates)
    if write_generated(options.output, text, options.overwrite) == "kept":
        print(f"{options.output}: kept, because it was edited by hand; --config overwrite=true replaces it")


if __name__ == "__main__":
    sys.exit(run_cli(main))
