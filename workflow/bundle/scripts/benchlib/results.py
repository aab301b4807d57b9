"""Rows of the CSV, and the sidecar beside it.

`{kernel}.csv` has exactly the 14 columns of BenchmarkResult. `{kernel}.jsonl` has one JSON object a line: first the
run ("type": "run": status, counts, provenance, peaks), then the checks ("check"), then every point ("point"), measured
or not. docs/measurement.md says what each field means.
"""

import csv
import io
import json
import math
import os
import shutil
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from .text import plural

SCHEMA_VERSION = 1
CACHES = ("cold", "warm")
# Above this share of a measured roof, or that much faster than an empty kernel, a result cannot be right.
SUSPECT = 1.05


@dataclass(frozen=True)
class BenchmarkResult:
    """One measured point: one row of the CSV.

    latency_ms is the median of one call, gflops and bandwidth_gbs are 10^9 FLOP/s and 10^9 B/s reached, peak_pct the
    share in percent of the peak of the resource that `bound` names ("compute" or "memory"), arith_intensity FLOP/B.
    """

    kernel: str
    op: str
    phase: str
    B: int
    S: int
    M: int
    N: int
    K: int
    latency_ms: float
    gflops: float
    peak_pct: float
    bandwidth_gbs: float
    arith_intensity: float
    bound: str

    def cells(self):
        """The cells of the CSV row, as text."""
        return [FORMATS.get(name, str)(value) for name, value in zip(COLUMNS, astuple(self), strict=True)]


COLUMNS = tuple(field.name for field in fields(BenchmarkResult))
FORMATS = {
    "latency_ms": "{:.6f}".format,
    "gflops": "{:.2f}".format,
    "peak_pct": "{:.2f}".format,
    "bandwidth_gbs": "{:.2f}".format,
    "arith_intensity": "{:.4f}".format,
}


def rates(latency_ms, flops, nbytes, dtype, hardware):
    """What a latency amounts to: gflops, bandwidth_gbs, arith_intensity, and the shares of the roofline in percent.

    hardware is a Hardware or None; without it (or without its bandwidth) bound is "memory" and shares are NaN.
    """
    gflops, gbs = flops / latency_ms / 1e6, nbytes / latency_ms / 1e6
    found = {"gflops": gflops, "bandwidth_gbs": gbs, "arith_intensity": flops / nbytes if nbytes else 0.0}
    roof = hardware.roofline(flops, nbytes, dtype) if hardware else None
    if roof is None:
        return found | {"bound": "memory", "peak_pct": math.nan}
    memory_pct = 100 * roof.memory_ms / latency_ms
    compute_pct = None if roof.compute_ms is None else 100 * roof.compute_ms / latency_ms
    return found | {
        "bound": roof.bound,
        "peak_pct": compute_pct if roof.bound == "compute" else memory_pct,
        "compute_pct": compute_pct,
        "bandwidth_pct": memory_pct,
        "roofline_ms": roof.time_ms,
    }


def finish(record, cache, hardware, measured):
    """The record with latency, rates, shares and the suspect flag, for the cache state that the CSV reports.

    hardware: Hardware or None; measured: the peaks of peaks.py or None.
    """
    record = dict(record)
    if record.get("status") != "ok":
        return record
    statistics = record[cache]
    latency = statistics["median_ms"]
    record |= {"cache": cache, "statistics": statistics, "latency_ms": latency}
    record |= rates(latency, record["flops"], record["bytes"], record["compute_dtype"], hardware)
    flags = [flag for flag in record.get("flags", ()) if flag != "suspect"]
    why = suspect(record["cold"]["median_ms"], record["flops"], record["bytes"], record["compute_dtype"], measured)
    if why:
        flags.append("suspect")
        record["suspect"] = why
    record["flags"] = flags
    return record


def suspect(latency_ms, flops, nbytes, dtype, peaks):
    """Why a latency cannot be right given the measured peaks, or None."""
    if not peaks:
        return None
    floor = peaks.get("launch_floor_ms")
    if floor and latency_ms * SUSPECT < floor:
        return f"{latency_ms * 1e3:.2f} µs is less than the {floor * 1e3:.2f} µs that an empty kernel takes"
    roof = peaks.get("bandwidth_gbs")
    reached = nbytes / latency_ms / 1e6
    if roof and reached > SUSPECT * roof:
        return f"{reached:.0f} GB/s is {100 * reached / roof:.0f} % of the measured bandwidth of {roof:.0f} GB/s"
    roof = peaks.get("tflops", {}).get(dtype)
    reached = flops / latency_ms / 1e9
    if roof and reached > SUSPECT * roof:
        return (
            f"{reached:.0f} TFLOP/s is {100 * reached / roof:.0f} % of the measured {dtype} rate of {roof:.0f} TFLOP/s"
        )
    return None


def from_record(record):
    """The BenchmarkResult of a measured point's sidecar record."""
    return BenchmarkResult(**{name: record[name] for name in COLUMNS})


def csv_text(results):
    """The whole CSV as text; op labels with commas or quotes are quoted."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(result.cells() for result in results)
    return stream.getvalue()


def sidecar_text(run, records):
    """The whole sidecar as text: the run first, then checks and points."""
    first = {"type": "run", "schema_version": SCHEMA_VERSION, **run}
    return "".join(json.dumps(finite(record)) + "\n" for record in (first, *records))


def finite(value):
    """The same value with NaN and infinities as None: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def write_whole(path, text):
    """Write beside the target and rename: after an interruption the old or the new file is there, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write(output_dir, kernel, run, records, results):
    """Write {kernel}.csv and {kernel}.jsonl into output_dir; returns both paths.

    Measured rows are never replaced by none: a run that measured nothing leaves them in place if it is `unavailable`
    and the script is the one that measured them, and are kept in removed/ otherwise.
    """
    output = Path(output_dir)
    paths = output / f"{kernel}.csv", output / f"{kernel}.jsonl"
    if not results and (rows := _rows_of(paths[0])):
        earlier = _run_of(paths[1])
        measured = f"{plural(rows, 'row')} {_measured_on(earlier)}"
        if run["status"] == "unavailable" and earlier and _script_of(earlier) == _script_of(run):
            for path in paths:
                path.touch()
            _say(f"{kernel}: unavailable: {run.get('reason', '')}. Kept: {measured}")
            return paths
        _say(f"{kernel}: {measured}, now in {_set_aside(*paths)}")
    return write_whole(paths[0], csv_text(results)), write_whole(paths[1], sidecar_text(run, records))


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _rows_of(path):
    try:
        return max(0, sum(1 for line in path.open(encoding="utf-8") if line.strip()) - 1)
    except (OSError, UnicodeDecodeError):
        return 0


def _run_of(path):
    """The run record of a sidecar, or None."""
    try:
        with path.open(encoding="utf-8") as stream:
            run = json.loads(stream.readline())
    except (OSError, ValueError):
        return None
    return run if isinstance(run, dict) and run.get("type") == "run" else None


def _script_of(run):
    return (run.get("provenance") or {}).get("script_sha256")


def _measured_on(run):
    known = (run or {}).get("provenance") or {}
    gpu = known.get("gpu") or {}
    return f"measured on {gpu.get('name') or 'a GPU'}" + (f" on {known['date'][:10]}" if known.get("date") else "")


def _set_aside(*paths):
    """Keep files under a name that is free in removed/; returns where the first one is."""
    folder = paths[0].parent / "removed"
    folder.mkdir(exist_ok=True)
    number, name = 1, paths[0].stem
    while any((folder / f"{name}{path.suffix}").exists() for path in paths):
        number += 1
        name = f"{paths[0].stem}-{number}"
    for path in filter(Path.exists, paths):
        shutil.copy2(path, folder / f"{name}{path.suffix}")
    return folder / f"{name}{paths[0].suffix}"
