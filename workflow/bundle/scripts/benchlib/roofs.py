"""Roofs of a GPU: what the compute units and the memory allow, by datasheet and as measured."""

import statistics
from collections import Counter
from dataclasses import dataclass, field, replace

from . import hardware
from .resultset import ResultError


@dataclass(frozen=True)
class Roofs:
    """Peak rates: ``compute`` maps a dtype (fp4, fp8, bf16) to FLOP/s, ``bandwidth`` is bytes/s.

    ``measured_compute`` and ``measured_bandwidth`` are what a copy and a matrix product reached on the device itself.
    ``datasheet`` is False where the table does not know the device and ``compute`` and ``bandwidth`` are measured, too.
    ``launch_floor_ms`` is the time of a kernel that does nothing. ``source`` says where the peaks come from, in words;
    ``assumed`` that nothing says which GPU it was.
    """

    name: str
    compute: dict
    bandwidth: float | None
    measured_compute: dict = field(default_factory=dict)
    measured_bandwidth: float | None = None
    datasheet: bool = True
    launch_floor_ms: float | None = None
    source: str = ""
    assumed: bool = False

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

    def attainable_ms(self, row):
        """Milliseconds that no kernel can go below here: the time at the measured roofs, or the launch floor."""
        ideal = self.time_ms(row, measured=True)
        return None if ideal is None else max(ideal, self.launch_floor_ms or 0.0)

    def limit(self, row):
        """What limits a point: ``compute``, ``memory``, or ``launch`` below the launch floor; None where unknown."""
        ideal = self.time_ms(row, measured=True)
        if ideal is not None and ideal < (self.launch_floor_ms or 0.0):
            return "launch"
        return self.bound(row)

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


def attainable_ms(row, roofs=None):
    """Milliseconds that the point cannot go below: ``Roofs.attainable_ms``, else by the row's own peak_pct."""
    found = roofs.attainable_ms(row) if roofs is not None else None
    if found is None and (ideal := roof_time_ms(row)) is not None:
        found = max(ideal, (roofs.launch_floor_ms if roofs is not None else None) or 0.0)
    return found


def share_pct(row, roofs=None):
    """Share of the roofline in percent: of ``roofs`` where they and the point's cost are known, else the row's own."""
    share = roofs.share(row) if roofs is not None else None
    return row.peak_pct if share is None else share * 100


def from_hardware(entry, measured_peaks=None, launch_floor_ms=None, source=""):
    """Roofs of a table entry (10^12 FLOP/s, 10^9 B/s) and of measured peaks of the same form."""
    measured = measured_peaks or {}
    return Roofs(
        entry.name,
        {dtype: peak * 1e12 for dtype, peak in entry.tflops.items() if peak},
        entry.bandwidth_gbs * 1e9 if entry.bandwidth_gbs else None,
        {dtype: peak * 1e12 for dtype, peak in (measured.get("tflops") or {}).items() if peak},
        measured["bandwidth_gbs"] * 1e9 if measured.get("bandwidth_gbs") else None,
        datasheet=not entry.measured,
        launch_floor_ms=launch_floor_ms,
        source=source or ("measured on the device" if entry.measured else "datasheet"),
    )


def choose(results, choice=hardware.AUTO):
    """The roofs to hold a result set against.

    ``auto`` takes the peaks that the runs themselves recorded; without them those of the GPU that the runs name, or
    of the entry of the table that the shares of a bare CSV were taken of; and the table's default where nothing was
    measured. A name takes that entry of the table. Measured peaks and the launch floor are used only where they come
    from the chosen hardware. Raises ResultError where the name is unknown or the runs disagree about their hardware.
    """
    measured = {row.kernel for row in results.measured}
    runs = [results.runs[kernel] for kernel in results.runs if kernel in measured]
    runs = [run for run in runs if (run.get("hardware") or {}).get("bandwidth_gbs")]
    names = Counter(run["hardware"]["name"] for run in runs)
    if choice == hardware.AUTO and len(names) > 1:
        raise ResultError(f"{results.path}: the runs used peaks of {', '.join(sorted(names))}; choose one of them")
    source, assumed = "", False
    try:
        if choice == hardware.AUTO and runs:
            record = runs[0]["hardware"]
            fields = ("name", "tflops", "bandwidth_gbs", "measured")
            entry = hardware.Hardware(**{name: record[name] for name in fields if record.get(name)})
        elif choice == hardware.AUTO and results.devices():
            entry = _of_device(results)
        elif choice == hardware.AUTO and (entry := by_shares(results.measured)):
            source = "the entry of the hardware table that the file's own peak_pct fits"
        else:
            entry = hardware.for_listing(choice)
            assumed = choice == hardware.AUTO and bool(results.measured)
            source = "assumed: nothing says which GPU it was" if assumed else ""
    except hardware.HardwareError as error:
        raise ResultError(str(error)) from None
    if entry.name not in names:
        return replace(from_hardware(entry, source=source), assumed=assumed)
    peaks = next((run["measured_peaks"] for run in runs if run.get("measured_peaks")), None)
    return from_hardware(entry, peaks, launch_floor(runs), source)


def launch_floor(runs):
    """Milliseconds of a kernel that does nothing, from the first run record that has it; None without one."""
    return next((run["launch_floor_ms"] for run in runs if run.get("launch_floor_ms")), None)


def by_shares(rows):
    """The entry of the hardware table whose bandwidth the rows' peak_pct was taken of, or None.

    A memory-bound row's bandwidth over its share is the bandwidth of the peak. Shares below 5 % have too few digits.
    """
    found = [
        row.bandwidth_gbs / row.peak_pct * 100
        for row in rows
        if row.bound == "memory" and row.bytes and row.peak_pct and row.peak_pct >= 5
    ]
    if not found:
        return None
    peak = statistics.median(found)
    default, entries = hardware.table()
    entries = sorted(entries, key=lambda entry: entry.name != default)
    return next((entry for entry in entries if abs(entry.bandwidth_gbs / peak - 1) < 0.01), None)


def _of_device(results):
    """The table's entry of the GPU that the runs name; without peaks where it has none."""
    device = results.devices()[0]
    return hardware.for_device(device) or hardware.Hardware(device)
