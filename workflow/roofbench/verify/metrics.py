"""FLOPs, bytes and roofline figures, computed without the bundle."""

import json
import math
import re
from pathlib import Path

COLUMNS = (
    "kernel", "op", "phase", "B", "S", "M", "N", "K",
    "latency_ms", "gflops", "peak_pct", "bandwidth_gbs", "arith_intensity", "bound",
)  # fmt: skip

# Decimals of the columns that have any.
DECIMALS = {"latency_ms": 6, "gflops": 2, "peak_pct": 2, "bandwidth_gbs": 2, "arith_intensity": 4}

# How far a figure may be off beyond what the decimals of its column allow.
RELATIVE = 1e-6
# The same for FLOPs and bytes, which are whole numbers or nearly so.
EXACT = 1e-9


class Roof:
    """The default entry of config/hardware.json: peaks in FLOP/s and bytes/s."""

    def __init__(self, path):
        data = json.loads(Path(path).read_text())
        entry = next(d for d in data["devices"] if d["name"] == data["default"])
        self.name = entry["name"]
        self.peaks = {dtype: tera * 1e12 for dtype, tera in entry["tflops"].items()}
        self.bandwidth = entry["bandwidth_gbs"] * 1e9
        self.l2_bytes = entry.get("l2_bytes", 0)
        self.capability = tuple(int(part) for part in str(entry["compute_capability"]).split("."))
        self.device = self._device_name(entry)

    @staticmethod
    def _device_name(entry):
        pattern = entry.get("pattern", "")
        for name in (f"NVIDIA {entry['name']}", entry["name"], pattern.strip("^$\\b").replace("\\b", "")):
            if pattern and re.search(pattern, name):
                return name
        return entry["name"]

    def seconds(self, flops, nbytes, dtype):
        """(seconds at the compute peak, seconds at the memory bandwidth)."""
        return (flops / self.peaks[dtype] if flops else 0.0), nbytes / self.bandwidth

    def row(self, flops, nbytes, dtype, latency_ms):
        """What the CSV must say of a point that takes latency_ms."""
        compute, memory = self.seconds(flops, nbytes, dtype)
        seconds = latency_ms / 1e3
        return {
            "latency_ms": latency_ms,
            "gflops": flops / seconds / 1e9,
            "bandwidth_gbs": nbytes / seconds / 1e9,
            "arith_intensity": flops / nbytes if nbytes else 0.0,
            "bound": "compute" if compute > memory else "memory",
            "peak_pct": 100 * max(compute, memory) / seconds,
        }


def close(found, expected, relative=RELATIVE):
    return math.isclose(found, expected, rel_tol=relative, abs_tol=1e-12)


def cell_agrees(text, expected, decimals):
    """Whether a CSV cell is the expected number, rounded to so many decimals or more."""
    try:
        value = float(text)
    except ValueError:
        return False
    if not math.isfinite(value):
        return False
    return abs(value - expected) <= 0.51 * 10.0**-decimals + RELATIVE * abs(expected)
