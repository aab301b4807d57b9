"""How long a kernel's benchmark will take where nobody has measured it, from its spec: for the order of the jobs only.

A point makes its inputs, warms up and is timed in graphs of some milliseconds; on a H200 that took 0.3 s where the
kernel itself is short. To this comes the kernel's own time, in a few hundred calls.
"""

import functools
import json
from pathlib import Path

import yaml

from roofbench import grammar

POINT_SECONDS = 0.32
CALLS = 250
# A roofline near that of the GPUs in use; the order of kernels hardly depends on it.
BYTES_PER_SECOND = 4e12
FLOPS_PER_SECOND = {"bf16": 0.8e15, "fp8": 1.6e15, "fp4": 4e15}
# Imports, checks and compilation: flashinfer and Triton compile at the first call.
START_SECONDS = {"sgl-kernel": 6.0, "flashinfer": 20.0, "triton": 26.0}
SHORTEST_START = 6.0


@functools.cache
def expected_seconds_of(kernel, specs, catalogue):
    """`expected_seconds` of a kernel from the folders of specs and of the catalogue; 0.0 where there is no spec yet."""
    try:
        spec = json.loads(Path(specs, f"{kernel}.json").read_text())
        text = Path(catalogue, f"{spec['catalogue']}.yaml").read_text()
    except (OSError, ValueError, KeyError):
        return 0.0
    return expected_seconds(spec, yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def expected_seconds(spec, entry):
    """Seconds of a kernel's benchmark alone on a GPU, from its spec and its catalogue entry (two mappings)."""
    start = START_SECONDS.get(spec["source"], SHORTEST_START)
    return round(start + sum(_point(spec, entry, op, point) for op in spec["ops"] for point in op["points"]), 1)


def _point(spec, entry, op, point):
    known = {**op["dims"], **{name: point[name] for name in "TBSL"}}
    if {"E", "topk"} <= known.keys():
        known["active_experts"] = known["E"] * (1.0 - (1.0 - known["topk"] / known["E"]) ** known["T"])
    flops, moved = (grammar.evaluate(str(entry["cost"][what]), known) for what in ("flops", "bytes"))
    return POINT_SECONDS + CALLS * max(flops / FLOPS_PER_SECOND[spec["compute_dtype"]], moved / BYTES_PER_SECOND)
