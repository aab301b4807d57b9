"""Write the bundle's list of kernels.

Reads   results/specs.json, results/specs/*.json, config/kernels/*.yaml
Writes  deepseek_kernel_benchmarks/scripts/kernels.json: [{kernel, catalogue, source, category, script, points,
        seconds}]; seconds is a rough estimate of the time that the benchmark takes
        results/selected.json: the manifest of the selected kernels alone

    python scripts/index.py --manifest results/specs.json --output FILE --kernels rmsnorm silu_and_mul
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

from _bootstrap import ROOT
from roofbench.errors import run_cli
from roofbench.estimate import expected_seconds
from roofbench.state import read_manifest

CATALOGUE = ROOT / "config" / "kernels"


def facts(kernel, catalogue, specs):
    """What follows from a kernel's spec and its catalogue entry."""
    spec = json.loads((specs / f"{kernel}.json").read_text())
    text = (CATALOGUE / f"{catalogue}.yaml").read_text()
    entry = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {
        "category": entry["category"],
        "script": f"bench_{kernel}.py",
        "points": sum(len(op["points"]) for op in spec["ops"]),
        "seconds": expected_seconds(spec, entry),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--selected", type=Path)
    parser.add_argument("--kernels", nargs="+", required=True)
    options = parser.parse_args(argv)
    known, specs = read_manifest(options.manifest), options.manifest.with_suffix("")
    rows = []
    for kernel in options.kernels:
        row = {key: known[kernel][key] for key in ("kernel", "catalogue", "source")}
        rows.append(row | facts(kernel, row["catalogue"], specs))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1) + "\n")
    if options.selected:
        options.selected.write_text(json.dumps({"kernels": [known[kernel] for kernel in options.kernels]}) + "\n")


if __name__ == "__main__":
    sys.exit(run_cli(main))
