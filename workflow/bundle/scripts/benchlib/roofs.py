"""Roofs of a GPU: what the compute units and the memory allow, by datasheet and as measured."""

from collections import Counter
from dataclasses import dataclass, field

from . import hardware
from .resultset import ResultError


@dataclass(frozen=True)
class Roofs:
    """Peak rates: ``compute`` maps a dtype (fp4, fp8, bf16) to FLOP/s, ``bandwidth`` is bytes/s.

    ``measured_compute`` and ``measured_bandwidth`` are what a copy and a matrix product reached on the device itself.
    ``datasheet`` is False where the table does not know the device and ``compute`` and ``bandwidth`` are measured, too.
    """

    name: str
    compute: dict
    bandwidth: float | None
    measured_compute: dict = field(default_factory=dict)
    measured_bandwidth: float | None = None
    datasheet: bool = True

    def time_ms(self, row, measured=False):
        """Milliseconds that a point takes at the roofline, None where its cost or its roof is unknown.

        With ``measured``, measured roofs are used where there are any, the datasheet's where not.
        """
        bandwidth, compute = self.bandwidth, self.compute.get(row.compute_dtype)
        if measured:
            bandwidth = self.measured_bandwidth or bandwidth
            compute = self.measured_compute.get(row.compute_dtype) or compute
        if row.bytes is None or row.flops is None or not bandwidth or (row.flops and not compute):
            return None
        return max(row.bytes / bandwidth, row.flops / compute if row.flops else 0.0) * 1e3

    def bound(self, row):
        """``compute`` or ``memory``: the resource that limits the point; None where unknown."""
        compute = self.compute.get(row.compute_dtype)
        if row.bytes is None or row.flops is None or not self.bandwidth or (row.flops and not compute):
            return None
        return "compute" if row.flops and row.flops / compute > row.bytes / self.bandwidth else "memory"

    def share(self, row, measured=False):
        """Time at the roofline over measured time (1.0 is at the roof), None where unknown."""
        ideal = self.time_ms(row, measured)
        return ideal / row.latency_ms if ideal is not None and row.measured else None


def roof_time_ms(row, roofs=None):
    """Milliseconds at the roofline: from the point's cost and ``roofs``, else from the row's own peak_pct."""
    ideal = roofs.time_ms(row) if roofs is not None else None
    if ideal is None and row.measured and row.peak_pct is not None:
        ideal = row.latency_ms * row.peak_pct / 100
    return ideal


def from_hardware(entry, measured_peaks=None):
    """Roofs of a table entry (10^12 FLOP/s, 10^9 B/s) and of measured peaks of the same form."""
    measured = measured_peaks or {}
    return Roofs(
        entry.name,
        {dtype: peak * 1e12 for dtype, peak in entry.tflops.items() if peak},
        entry.bandwidth_gbs * 1e9 if entry.bandwidth_gbs else None,
        {dtype: peak * 1e12 for dtype, peak in (measured.get("tflops") or {}).items() if peak},
        measured["bandwidth_gbs"] * 1e9 if measured.get("bandwidth_gbs") else None,
        datasheet=not entry.measured,
    )


def choose(results, choice=hardware.AUTO):
    """The roofs to hold a result set against.

    ``auto`` takes the peaks that the runs themselves recorded, and the table's default where nothing was measured; a
    name takes that entry of the table. Measured peaks are used only where they come from the chosen hardware. Raises
    ResultError where the name is unknown or the runs disagree about their hardware.
    """
    measured = {row.kernel for row in results.measured}
    runs = [results.runs[kernel] for kernel in results.runs if kernel in measured]
    runs = [run for run in runs if (run.get("hardware") or {}).get("bandwidth_gbs")]
    names = Counter(run["hardware"]["name"] for run in runs)
    if choice == hardware.AUTO and len(names) > 1:
        raise ResultError(f"{results.path}: the runs used peaks of {', '.join(sorted(names))}; choose one of them")
    try:
        if choice == hardware.AUTO and runs:
            record = runs[0]["hardware"]
            fields = ("name", "tflops", "bandwidth_gbs", "measured")
            entry = hardware.Hardware(**{name: record[name] for name in fields if record.get(name)})
        elif choice == hardware.AUTO and results.devices():
            entry = _of_device(results)
        else:
            entry = hardware.for_listing(choice)
    except hardware.HardwareError as error:
        raise ResultError(str(error)) from None
    peaks = next((run["measured_peaks"] for run in runs if run.get("measured_peaks")), None)
    return from_hardware(entry, peaks if entry.name in names else None)


def _of_device(results):
    device = results.devices()[0]
    entry = hardware.for_device(device)
    if entry is None:
        raise ResultError(f"{results.path}: the peaks of {device} are unknown; name an entry of the hardware table")
    return entry
