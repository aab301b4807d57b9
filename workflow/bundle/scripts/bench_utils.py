"""Everything that a benchmark script imports. The parts are in benchlib/; docs/measurement.md explains the method."""

from benchlib.cli import main
from benchlib.model import Benchmark, Cost, Op, Point, Provider, Tolerance, ceildiv, round_up
from benchlib.moe import expected_active_experts
from benchlib.random_inputs import Random
from benchlib.results import BenchmarkResult
from benchlib.run import BenchmarkRun
from benchlib.runtime import get_runtime, set_runtime
from benchlib.torch_or_none import torch

__all__ = [
    "Benchmark",
    "BenchmarkResult",
    "BenchmarkRun",
    "Cost",
    "Op",
    "Point",
    "Provider",
    "Random",
    "Tolerance",
    "ceildiv",
    "expected_active_experts",
    "get_runtime",
    "main",
    "round_up",
    "set_runtime",
    "torch",
]
