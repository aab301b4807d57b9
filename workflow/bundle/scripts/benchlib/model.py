"""What a benchmark script says about its kernel: ops, points, costs, providers. Plain data, no torch."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class Op:
    """One use of the kernel in one phase, and its dimensions that no point changes: Op("gate", "decode", N=256)."""

    def __init__(self, name, phase, **dims):
        self.name, self.phase, self.dims = name, phase, dims

    def __getattr__(self, dim):
        try:
            return self.__dict__["dims"][dim]
        except KeyError:
            known = ", ".join(self.__dict__.get("dims", ())) or "none"
            raise AttributeError(f"op {self.__dict__.get('name')!r} has no dimension {dim} (it has: {known})") from None

    def __repr__(self):
        return f"Op({self.name!r}, {self.phase!r}, {', '.join(f'{k}={v}' for k, v in self.dims.items())})"


class Point(NamedTuple):
    """Batch size B, sequence length S (1 in decode), KV length L (S where it is not swept), tokens T of one call."""

    B: int
    S: int
    L: int
    T: int

    @classmethod
    def of(cls, op, B, S, L=None):
        """The point of an op: T is B in decode and B*S in prefill."""
        return cls(B, S, S if L is None else L, B if op.phase == "decode" else B * S)


class Cost(NamedTuple):
    """FLOPs of one call, and the bytes that it must move once."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may be from the reference.

    |actual - expected| <= atol + rtol * |expected| for each element, or for match_fraction of them; where cosine is
    given, the cosine similarity of the whole tensors must reach it as well.
    """

    rtol: float
    atol: float
    cosine: float | None = None
    match_fraction: float | None = None


@dataclass(frozen=True)
class Provider:
    """A function that may serve the kernel: target is "module:attribute", requires a module to import before it."""

    target: str
    package: str | None = None
    requires: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """One kernel: who provides it, what is measured, and the functions of its script.

    sweep is "tokens" (batch sizes, and sequence lengths in prefill) or "kv" (batch sizes times KV lengths, S=1).
    min_compute_capability is a minimum ("9.0"); compute_capabilities, where given, is the exact list.
    warm_up(kernel, x) is called once for each point before the kernel is called on x, untimed: for autotuning.
    """

    kernel: str
    source: str
    catalogue: str
    category: str
    compute_dtype: str
    providers: tuple
    ops: tuple
    make_inputs: Callable
    call_kernel: Callable
    cost: Callable
    columns: Callable
    tolerance: Tolerance | None = None
    not_applicable: Callable = lambda op, point: None
    min_compute_capability: str | None = None
    compute_capabilities: tuple | list = ()
    sweep: str = "tokens"
    options: dict = field(default_factory=dict)
    routing: str | None = None
    warm_up: Callable | None = None

    @property
    def script(self):
        """The file that defines this benchmark, or None where that cannot be told."""
        code = getattr(inspect.unwrap(self.make_inputs), "__code__", None)
        return code.co_filename if code else None


def ceildiv(a, b):
    """Smallest integer that is at least a / b."""
    return -(-a // b)


def round_up(a, b):
    """a rounded up to a multiple of b."""
    return -(-a // b) * b
