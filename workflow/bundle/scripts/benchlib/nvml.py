"""Clocks, temperature, power and throttle reasons of a GPU, from the driver.

Through pynvml where it is installed, else through libnvidia-ml.so.1 itself, else through nvidia-smi; where none works
the readings are absent, with the reason. Reading never raises.
"""

import ctypes
import subprocess
import time

# https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}
# What makes a kernel slower than the same GPU would run it when cool and well fed.
THROTTLING = {name for bit, name in REASONS.items() if bit in (0x4, 0x8, 0x20, 0x40, 0x80)}

CLOCK_SM, CLOCK_MEM = 1, 2


def reasons_of(mask):
    """Names of the bits of a throttle mask."""
    return [name for bit, name in REASONS.items() if mask & bit]


def throttled(*readings):
    """Throttle reasons found in any of the readings, sorted; empty where there are none or nothing was read."""
    return sorted({reason for reading in readings for reason in reading.get("reasons", ()) if reason in THROTTLING})


class _Absent:
    def __init__(self, reason):
        self.reason = reason

    def read(self):
        return {"absent": self.reason}


class Library:
    """libnvidia-ml.so.1 through ctypes: the few calls that are needed here."""

    _shared = None

    def __init__(self):
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        code = self._library.nvmlInit_v2()
        if code:
            raise OSError(f"nvmlInit returned {code}")

    @classmethod
    def get(cls):
        """The one instance of this process. Raises OSError where there is no driver."""
        if cls._shared is None:
            cls._shared = cls()
        return cls._shared

    def _call(self, name, *args):
        code = getattr(self._library, name)(*args)
        if code:
            raise OSError(f"{name} returned {code}")

    def _number(self, name, handle, *args, type=ctypes.c_uint):
        value = type()
        self._call(name, handle, *args, ctypes.byref(value))
        return value.value

    def _text(self, name, *args):
        buffer = ctypes.create_string_buffer(128)
        self._call(name, *args, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode(errors="replace")

    def driver_version(self):
        return self._text("nvmlSystemGetDriverVersion")

    def count(self):
        value = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(value))
        return value.value

    def handle(self, index):
        handle = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        return handle

    def handle_by_uuid(self, uuid):
        handle = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(handle))
        return handle

    def name(self, handle):
        return self._text("nvmlDeviceGetName", handle)

    def uuid(self, handle):
        return self._text("nvmlDeviceGetUUID", handle)

    def clock(self, handle, kind):
        return self._number("nvmlDeviceGetClockInfo", handle, ctypes.c_uint(kind))

    def temperature(self, handle):
        return self._number("nvmlDeviceGetTemperature", handle, ctypes.c_uint(0))

    def power(self, handle):
        return self._number("nvmlDeviceGetPowerUsage", handle) / 1000

    def throttle_mask(self, handle):
        return self._number("nvmlDeviceGetCurrentClocksThrottleReasons", handle, type=ctypes.c_ulonglong)

    def max_clock(self, handle, kind):
        return self._number("nvmlDeviceGetMaxClockInfo", handle, ctypes.c_uint(kind))

    def power_limit(self, handle):
        return self._number("nvmlDeviceGetEnforcedPowerLimit", handle) / 1000

    def mode(self, name, handle):
        """Whether ECC ("Ecc") or the division into instances ("Mig") is "on" or "off" now."""
        now, pending = ctypes.c_uint(), ctypes.c_uint()
        self._call(f"nvmlDeviceGet{name}Mode", handle, ctypes.byref(now), ctypes.byref(pending))
        return "on" if now.value else "off"

    def utilisation(self, handle):
        """Percent of the last sampling period in which a kernel ran."""
        value = (ctypes.c_uint * 2)()
        self._call("nvmlDeviceGetUtilizationRates", handle, ctypes.byref(value))
        return value[0]

    def processes(self, handle):
        """Process ids that hold a compute context on the GPU, as the driver sees them."""

        class Process(ctypes.Structure):
            _fields_ = [
                ("pid", ctypes.c_uint),
                ("memory", ctypes.c_ulonglong),
                ("gpu_instance", ctypes.c_uint),
                ("compute_instance", ctypes.c_uint),
            ]

        room = ctypes.c_uint(256)
        found = (Process * room.value)()
        self._call("nvmlDeviceGetComputeRunningProcesses_v3", handle, ctypes.byref(room), found)
        return [found[i].pid for i in range(room.value)]


class _Ctypes:
    source = "libnvidia-ml"

    def __init__(self, uuid):
        self._nvml = Library.get()
        self._handle = self._nvml.handle_by_uuid(uuid) if uuid else self._nvml.handle(0)

    def read(self):
        nvml, handle = self._nvml, self._handle
        return _reading(
            sm_mhz=lambda: nvml.clock(handle, CLOCK_SM),
            memory_mhz=lambda: nvml.clock(handle, CLOCK_MEM),
            temperature_c=lambda: nvml.temperature(handle),
            power_w=lambda: nvml.power(handle),
            reasons=lambda: reasons_of(nvml.throttle_mask(handle)),
        )


class _Pynvml:
    source = "pynvml"

    def __init__(self, uuid):
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid) if uuid else pynvml.nvmlDeviceGetHandleByIndex(0)

    def read(self):
        nvml, handle = self._nvml, self._handle
        return _reading(
            sm_mhz=lambda: nvml.nvmlDeviceGetClockInfo(handle, CLOCK_SM),
            memory_mhz=lambda: nvml.nvmlDeviceGetClockInfo(handle, CLOCK_MEM),
            temperature_c=lambda: nvml.nvmlDeviceGetTemperature(handle, 0),
            power_w=lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            reasons=lambda: reasons_of(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        )


class _Smi:
    source = "nvidia-smi"
    fields = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_throttle_reasons.active")

    def __init__(self, uuid):
        self._command = ["nvidia-smi", f"--query-gpu={','.join(self.fields)}", "--format=csv,noheader,nounits"]
        self._command += ["-i", uuid] if uuid else ["-i", "0"]
        self._cells()

    def _cells(self):
        found = subprocess.run(self._command, capture_output=True, text=True, timeout=10, check=True)
        return [cell.strip() for cell in found.stdout.splitlines()[0].split(",")]

    def read(self):
        cells = self._cells()
        return _reading(
            sm_mhz=lambda: int(cells[0]),
            memory_mhz=lambda: int(cells[1]),
            temperature_c=lambda: int(cells[2]),
            power_w=lambda: float(cells[3]),
            reasons=lambda: reasons_of(int(cells[4], 16)),
        )


def _reading(**sources):
    """One reading of each; a reading that this GPU does not offer is left out."""
    found = {}
    for name, source in sources.items():
        try:
            found[name] = source()
        except Exception:  # pynvml raises classes of its own, all meaning 'not to be had'
            continue
    return found or {"absent": "the driver answered no query"}


class Monitor:
    """Readings of one GPU."""

    def __init__(self, source):
        self._source = source

    @classmethod
    def open(cls, uuid=""):
        """A monitor of the GPU with this UUID ("" : the first). Never raises."""
        reasons = []
        for kind in (_Pynvml, _Ctypes, _Smi):
            try:
                return cls(kind(uuid))
            except Exception as error:  # whatever fails, the next way may work
                reasons.append(f"{kind.source}: {(str(error).splitlines() or [type(error).__name__])[0]}")
        return cls(_Absent("; ".join(reasons)))

    def read(self):
        """{sm_mhz, memory_mhz, temperature_c, power_w, reasons: [...]}, or {absent: why}."""
        start = time.perf_counter()
        try:
            found = self._source.read()
        except Exception as error:
            return {"absent": f"{type(error).__name__}: {error}"}
        if "absent" not in found:
            found["source"] = self._source.source
            found["read_ms"] = round((time.perf_counter() - start) * 1000, 3)
        return found


def limits(uuid=""):
    """What bounds a GPU's clocks and memory: {power_limit_w, max_sm_mhz, max_memory_mhz, ecc, mig}, as far as known."""
    try:
        nvml = Library.get()
        handle = nvml.handle_by_uuid(uuid) if uuid else nvml.handle(0)
    except (OSError, AttributeError):
        return {}
    found = _reading(
        power_limit_w=lambda: nvml.power_limit(handle),
        max_sm_mhz=lambda: nvml.max_clock(handle, CLOCK_SM),
        max_memory_mhz=lambda: nvml.max_clock(handle, CLOCK_MEM),
        ecc=lambda: nvml.mode("Ecc", handle),
        mig=lambda: nvml.mode("Mig", handle),
    )
    return {} if "absent" in found else found


def driver_version():
    """The driver's version, or None."""
    try:
        return Library.get().driver_version()
    except OSError:
        return None
