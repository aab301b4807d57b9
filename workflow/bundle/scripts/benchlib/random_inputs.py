"""Seeded random inputs on a CPU, on a GPU, or as shapes alone on torch's meta device.

Floating-point data are made on the device itself, because weights of several gigabytes would take minutes from the
host. Everything that a kernel uses as an index (routing, offsets, tables, lengths) is made on the CPU and then moved:
it is the same for every device, and the verifier can follow its values to the meta device.
"""

import math

from .torch_or_none import TORCH_ERROR, torch

ROUTING_KINDS = ("uniform", "balanced", "power_law")

# Exponent of the power law: the expert of rank r is chosen in proportion to 1 / r.
POWER_LAW_EXPONENT = 1.0

_E4M3_MAX = 448.0

# Streams of one seed that must not depend on each other.
_DEVICE_STREAM, _ROUTING_STREAM, _EXPERT_ORDER_STREAM = 1, 2, 3


def _round_up(value, multiple):
    return (value + multiple - 1) // multiple * multiple


class Random:
    """Source of one independent set of arguments.

    device: "cpu", "cuda", "cuda:1", "meta", or a torch.device. Equal seeds give equal values on the same device, and
    equal index tensors on all devices. `cpu` is the torch.Generator from which index tensors are to be drawn.
    """

    def __init__(self, device, seed=0):
        if torch is None:
            raise RuntimeError(f"{TORCH_ERROR}: inputs cannot be made, only --dry-run works")
        self.device = torch.device(device)
        self.seed = int(seed)
        self.cpu = torch.Generator("cpu").manual_seed(self.seed)
        self._on_device = None  # meta has no values, and no generator
        if self.device.type != "meta":
            self._on_device = torch.Generator(self.device).manual_seed(self._derived(_DEVICE_STREAM))

    def _derived(self, stream):
        """A seed for one stream, the same whatever was drawn before."""
        return (self.seed * 1_000_003 + stream * 7_919) % 2**63

    # Floating-point data, made on the device.

    def normal(self, shape, dtype=None, std=1.0):
        """Normal values of mean 0; dtype is bfloat16 unless given."""
        x = self.empty(shape, torch.bfloat16 if dtype is None else dtype)
        return x.normal_(0.0, std, generator=self._on_device)

    def uniform(self, shape, low=0.0, high=1.0, dtype=None):
        """Uniform values in [low, high); dtype is float32 unless given."""
        x = self.empty(shape, torch.float32 if dtype is None else dtype)
        return x.uniform_(low, high, generator=self._on_device)

    def fp8(self, shape, scale=1.0):
        """float8_e4m3fn of normal values with standard deviation `scale`, saturated at 448."""
        return self.normal(shape, torch.bfloat16, std=scale).clamp_(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn)

    def nvfp4(self, rows, cols):
        """A random NVFP4 matrix [rows, cols].

        Returns the packed values, uint8 [rows, cols/2], and their swizzled scales, float8_e4m3fn
        [round_up(rows, 128), round_up(cols/16, 4)]. All 16 codes are equally likely and scales lie in [0.5, 1.875],
        so with a global scale of 1 the elements have a standard deviation of about 3.39 (nvfp4.RANDOM_STD).
        """
        return self._nvfp4((), rows, cols)

    def nvfp4_scales(self, rows, cols):
        """Only the swizzled scales of such a matrix: float8_e4m3fn [round_up(rows, 128), round_up(cols/16, 4)]."""
        return self._nvfp4_scales((), rows, cols)

    def nvfp4_experts(self, E, rows, cols):
        """E independent matrices as from nvfp4(): uint8 [E, rows, cols/2] and scales with a leading E."""
        return self._nvfp4((E,), rows, cols)

    def _nvfp4(self, lead, rows, cols):
        if cols % 16:
            raise ValueError(f"an NVFP4 row has one scale for 16 elements: {cols} columns cannot be divided by 16")
        return self._bytes((*lead, rows, cols // 2), 0, 256), self._nvfp4_scales(lead, rows, cols)

    def _nvfp4_scales(self, lead, rows, cols):
        # 0x30 is 0.5 and 0x3f is 1.875 in e4m3: positive, finite and normal.
        shape = (*lead, _round_up(rows, 128), _round_up(cols // 16, 4))
        return self._bytes(shape, 0x30, 0x40).view(torch.float8_e4m3fn)

    def _bytes(self, shape, low, high):
        x = self.empty(shape, torch.uint8)
        return x.random_(low, high, generator=self._on_device)

    # Index data, made on the CPU.

    def index(self, cpu_tensor):
        """Move an integer tensor that was made on the CPU to the device."""
        return cpu_tensor.to(self.device)

    def integers(self, shape, low, high, dtype=None):
        """Uniform integers in [low, high) on the CPU, int32 unless given; move them with index()."""
        return torch.randint(
            low, high, tuple(shape), generator=self.cpu, dtype=torch.int32 if dtype is None else dtype, device="cpu"
        )

    def permutation(self, n):
        """A random order of 0 ... n-1: int64 [n] on the CPU; move it with index()."""
        return torch.randperm(n, generator=self.cpu, device="cpu")

    def routing(self, T, E, topk, kind="uniform"):
        """Experts of T tokens: int32 [T, topk] on the CPU, distinct within a row; move it with index().

        uniform    every set of topk experts is equally likely, tokens are independent
        balanced   every expert gets the same number of rows, or one more
        power_law  experts are drawn without replacement in proportion to 1 / rank, ranks in random order

        The ids depend on the seed and the arguments alone, not on what was drawn before: a dry run and a measurement
        with the same seed count the same experts.
        """
        if not 1 <= topk <= E:
            raise ValueError(f"topk must be between 1 and the number of experts {E}, not {topk}")
        generator = torch.Generator("cpu").manual_seed(self._derived(_ROUTING_STREAM))
        if kind == "uniform":
            ids = _uniform_routing(T, E, topk, generator)
        elif kind == "balanced":
            ids = _balanced_routing(T, E, topk, generator)
        elif kind == "power_law":
            # One order of experts for all points of a sweep: it is a property of the model, not of the batch.
            order = torch.randperm(
                E, generator=torch.Generator("cpu").manual_seed(self._derived(_EXPERT_ORDER_STREAM)), device="cpu"
            )
            ids = _power_law_routing(T, E, topk, order, generator)
        else:
            raise ValueError(f"routing is one of {', '.join(ROUTING_KINDS)}, not {kind!r}")
        return ids.to(torch.int32)

    # Memory without random content.

    def empty(self, shape, dtype):
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def zeros(self, shape, dtype):
        return torch.zeros(tuple(shape), dtype=dtype, device=self.device)

    def full(self, shape, value, dtype):
        return torch.full(tuple(shape), value, dtype=dtype, device=self.device)


def _uniform_routing(T, E, topk, generator):
    """Rejection: rows with a repeated expert are drawn again, which leaves every set of distinct ids equally likely."""
    if math.perm(E, topk) < 0.1 * E**topk:  # most rows would be rejected
        noise = torch.rand((T, E), generator=generator, device="cpu")
        return noise.argsort(dim=1)[:, :topk]
    ids = torch.randint(0, E, (T, topk), generator=generator, device="cpu")
    redo = torch.arange(T, device="cpu")
    while True:
        ordered = ids[redo].sort(dim=1).values
        redo = redo[(ordered[:, 1:] == ordered[:, :-1]).any(dim=1)]
        if redo.numel() == 0:
            return ids
        ids[redo] = torch.randint(0, E, (redo.numel(), topk), generator=generator, device="cpu")


def _balanced_routing(T, E, topk, generator):
    """Deal the experts round by round, like cards; a row never holds an expert twice."""
    rounds = -(-T * topk // E)
    if E % topk == 0:
        order = torch.rand((rounds, E), generator=generator, device="cpu").argsort(dim=1)
    else:
        # A row may lie across two rounds: with one order for all, topk <= E neighbours still differ.
        order = torch.randperm(E, generator=generator, device="cpu").repeat(rounds)
    return order.reshape(-1)[: T * topk].reshape(T, topk)


def _power_law_routing(T, E, topk, order, generator):
    """Top-k of log-weights plus Gumbel noise, which is drawing without replacement in proportion to the weights."""
    weight = torch.empty(E, dtype=torch.float32, device="cpu")
    weight[order] = torch.arange(1, E + 1, dtype=torch.float32, device="cpu").pow(-POWER_LAW_EXPONENT)
    noise = torch.rand((T, E), generator=generator, device="cpu").clamp_(min=1e-20)
    return (weight.log() - noise.log_().neg_().log_()).topk(topk, dim=1).indices
