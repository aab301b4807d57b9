"""The only place that touches the device. Everything else asks the current Runtime.

`Runtime` is the contract: a runtime for another device (or a recorded one, for tests and for verification on
torch's meta device) subclasses it and is installed with set_runtime(). `CudaRuntime` is the real one.
"""

import contextlib
import platform
from dataclasses import dataclass

from benchlib.torch_or_none import TORCH_ERROR, torch


@dataclass(frozen=True)
class DeviceProperties:
    """What is known of a device. l2_bytes = 0 means: there is no cache to get out of the way, one input set will do."""

    name: str
    compute_capability: tuple = (0, 0)
    l2_bytes: int = 0
    total_memory: int = 0
    uuid: str = ""


class Runtime:
    """What measuring needs from a device. A subclass must give device, properties() and bench(); the rest has defaults.

    device       what make_inputs gets: "cuda", "meta", "cpu"
    checks       whether values can be read, so that outputs can be compared with a reference
    persistent   whether a journal is kept in files and an earlier one is resumed
    peaks        whether copy bandwidth and matrix rates can be measured here
    """

    device = "cpu"
    checks = True
    persistent = True
    peaks = False

    def unavailable(self):
        """Why nothing can be measured here, as one line, or None."""
        return None

    def properties(self):
        """DeviceProperties of the device."""
        raise NotImplementedError

    def bench(self, fn, rep):
        """Time fn as triton.testing.do_bench_cudagraph(fn, rep=rep, return_mode="all") does.

        fn is called eagerly a few times, then captured max(1, int(rep / milliseconds of one eager call)) times into
        one graph, which is replayed. Returns milliseconds per call of fn, one number a replay.
        """
        raise NotImplementedError

    def capturing(self):
        """True while calls are recorded into a graph. None: this runtime cannot tell."""
        return None

    def elapsed(self, fn):
        """Milliseconds that one eager call of fn takes, launches included."""
        fn()
        return 1.0

    def side_stream(self):
        """Context in which warm-up calls run: capture is not allowed on the default stream."""
        return contextlib.nullcontext()

    def evictor(self, nbytes):
        """A callable that reads nbytes of memory of its own, pushing everything else out of the cache, or None."""
        return None

    def null_kernel(self):
        """A callable that launches a kernel which does next to nothing, or None."""
        return None

    def free_memory(self):
        """Bytes that input sets may take, or None for no limit."""
        return None

    def synchronize(self):
        """Wait for the device; errors of earlier launches surface here."""

    def release(self):
        """Give cached memory back."""

    def dead(self):
        """Why no further kernel can run in this process (after an illegal address, say), or None."""
        return None

    def clocks(self):
        """Clocks, temperature, power and throttle reasons now, as a dict (see nvml.py)."""
        return {"absent": "not read on this device"}

    def describe(self):
        """More facts for the record: driver and CUDA versions, limits of power and clocks."""
        return {}

    def mark(self, label):
        """Context that profilers show as a range of this name."""
        return contextlib.nullcontext()


class CudaRuntime(Runtime):
    """A CUDA GPU: the current device of torch, which CUDA_VISIBLE_DEVICES decides."""

    device = "cuda"
    peaks = True

    def __init__(self):
        self._monitor = None

    def unavailable(self):
        if torch is None:
            return TORCH_ERROR
        if torch.version.cuda is None:
            hint = " (PyPI's build for this processor may be one)" if platform.machine() == "aarch64" else ""
            return f"torch {torch.__version__} is a build without CUDA{hint}"
        try:
            if torch.cuda.device_count() == 0 or not torch.cuda.is_available():
                return "no GPU"
            torch.empty(1, device="cuda")
        except RuntimeError as error:
            return f"no usable GPU: {str(error).splitlines()[0]}"
        try:
            import triton.testing  # noqa: F401
        except ImportError as error:
            return f"triton cannot be imported: {error}"
        return None

    def properties(self):
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        uuid = str(getattr(found, "uuid", "") or "")
        return DeviceProperties(
            name=found.name,
            compute_capability=(found.major, found.minor),
            l2_bytes=int(getattr(found, "L2_cache_size", 0) or 0),
            total_memory=found.total_memory,
            uuid=uuid if not uuid or uuid.startswith("GPU-") else f"GPU-{uuid}",
        )

    def bench(self, fn, rep):
        from triton.testing import do_bench_cudagraph

        with self.side_stream():
            return list(do_bench_cudagraph(fn, rep=rep, return_mode="all"))

    def capturing(self):
        return torch.cuda.is_current_stream_capturing()

    def elapsed(self, fn):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        fn()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    @contextlib.contextmanager
    def side_stream(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def evictor(self, nbytes):
        # Reading leaves no dirty lines behind, whose write-back would slow the kernels that follow.
        buffer = torch.zeros(max(1, nbytes // 4), dtype=torch.float32, device=self.device)
        total = torch.empty((), dtype=torch.float32, device=self.device)
        return lambda: torch.sum(buffer, dim=0, out=total)

    def null_kernel(self):
        one = torch.empty(1, dtype=torch.float32, device=self.device)
        return lambda: one.fill_(1.0)

    def free_memory(self):
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def synchronize(self):
        torch.cuda.synchronize()

    def release(self):
        torch.cuda.empty_cache()

    def dead(self):
        try:
            torch.cuda.synchronize()
            torch.zeros(1, device=self.device).add_(1).item()
        except RuntimeError as error:
            if "out of memory" in str(error).lower():
                return None
            return str(error).splitlines()[0]
        return None

    def clocks(self):
        if self._monitor is None:
            from benchlib.nvml import Monitor

            self._monitor = Monitor.open(self.properties().uuid)
        return self._monitor.read()

    def describe(self):
        from benchlib import nvml, stack

        found = {"driver": stack.driver_version(), "cuda": torch.version.cuda, "nvcc": stack.compiler_version()}
        return found | {"limits": nvml.limits(self.properties().uuid)}

    @contextlib.contextmanager
    def mark(self, label):
        torch.cuda.nvtx.range_push(label)
        try:
            yield
        finally:
            torch.cuda.nvtx.range_pop()


_current = None


def set_runtime(runtime):
    """Install a runtime for this process (None: back to CUDA). Returns the one that was installed before."""
    global _current
    previous, _current = _current, runtime
    return previous


def get_runtime():
    """The runtime of this process; CUDA where none was installed."""
    global _current
    if _current is None:
        _current = CudaRuntime()
    return _current
