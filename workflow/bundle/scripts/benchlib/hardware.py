"""Peak rates of GPUs, and the roofline of a point.

The table is hardware.json: beside this file in the bundle, config/hardware.json in the repository.
"""

import json
import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

HERE = Path(__file__).resolve().parent
AUTO = "auto"


class HardwareError(Exception):
    """A hardware name that is not in the table, or that is not the device at hand."""


@dataclass(frozen=True)
class Roofline:
    """What a point can reach: time in ms, and the resource that limits it ("compute" or "memory")."""

    time_ms: float
    bound: str
    compute_ms: float | None
    memory_ms: float


@dataclass(frozen=True)
class Hardware:
    """Peaks of one GPU: tflops maps a dtype to 10^12 FLOP/s, bandwidth_gbs is 10^9 B/s.

    measured: the rates were measured on the device because the table does not know it.
    """

    name: str
    tflops: dict = field(default_factory=dict)
    bandwidth_gbs: float | None = None
    l2_bytes: int = 0
    compute_capability: str = ""
    pattern: str = ""
    measured: bool = False
    note: str = ""

    def matches(self, device_name):
        return bool(self.pattern) and re.search(self.pattern, device_name) is not None

    def compute_ms(self, flops, dtype):
        """Milliseconds at the compute peak of a dtype; None where the device has no such peak."""
        peak = self.tflops.get(dtype)
        return flops / (peak * 1e9) if peak else (0.0 if not flops else None)

    def roofline(self, flops, nbytes, dtype):
        """Roofline of flops and nbytes; None where the memory bandwidth is unknown."""
        if not self.bandwidth_gbs:
            return None
        compute, memory = self.compute_ms(flops, dtype), nbytes / (self.bandwidth_gbs * 1e6)
        if compute is not None and compute > memory:
            return Roofline(compute, "compute", compute, memory)
        return Roofline(memory, "memory", compute, memory)

    def as_record(self):
        return {
            "name": self.name,
            "tflops": self.tflops,
            "bandwidth_gbs": self.bandwidth_gbs,
            "l2_bytes": self.l2_bytes,
            "measured": self.measured,
        }


def table(path=None):
    """(default name, list of Hardware) of the hardware table."""
    path = Path(path) if path else _table_path()
    with path.open(encoding="utf-8") as stream:
        data = json.load(stream)
    known = set(Hardware.__dataclass_fields__)
    return data["default"], [Hardware(**{k: v for k, v in entry.items() if k in known}) for entry in data["devices"]]


def _table_path():
    candidates = [HERE / "hardware.json", *(parent / "config" / "hardware.json" for parent in HERE.parents[:5])]
    for path in candidates:
        if path.exists():
            return path
    raise HardwareError(f"hardware.json is missing: looked for {candidates[0]}")


def for_device(device_name, choice=AUTO, path=None):
    """The table's entry for a device that is present, or None where the table does not know it.

    Raises HardwareError where `choice` names an entry that is not in the table or is not this device.
    """
    _, entries = table(path)
    if choice == AUTO:
        return next((entry for entry in entries if entry.matches(device_name)), None)
    entry = _named(choice, entries)
    if not entry.matches(device_name):
        raise HardwareError(f"hardware {choice} is configured, but the device is {device_name}; use {AUTO!r}")
    return entry


def for_listing(choice=AUTO, path=None):
    """The entry to compute rooflines with where nothing is measured: the named one, or the table's default."""
    default, entries = table(path)
    return _named(default if choice == AUTO else choice, entries)


def from_peaks(device_name, peaks):
    """Hardware of a device that the table does not know, from measured peaks (see peaks.py); None without them."""
    if not peaks or not peaks.get("bandwidth_gbs"):
        return None
    return Hardware(device_name, dict(peaks.get("tflops", {})), peaks["bandwidth_gbs"], measured=True)


def with_l2(hardware, l2_bytes):
    """The entry with the cache size that the device itself reports."""
    return replace(hardware, l2_bytes=l2_bytes) if hardware and l2_bytes else hardware


def _named(name, entries):
    for entry in entries:
        if entry.name.lower() == name.lower():
            return entry
    names = [entry.name for entry in entries]
    near = get_close_matches(name, names, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise HardwareError(f"hardware {name!r} is not in the table ({AUTO}, {', '.join(names)}){hint}")
