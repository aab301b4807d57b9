"""One table of all kernels: ``all_kernels.csv`` from the CSV of each."""

import csv
import io
from pathlib import Path

from . import resultset
from .results import write_whole
from .resultset import ALL_KERNELS, COLUMNS, ResultError

# The columns that are always there, with their types: text, whole numbers (missing ones allowed), and floats.
FRAME_TYPES = {
    **dict.fromkeys(COLUMNS[:3], "str"),
    **dict.fromkeys([*COLUMNS[3:8], "L"], "Int64"),
    **dict.fromkeys(
        ["latency_ms", "flops", "bytes", "gflops", "bandwidth_gbs", "arith_intensity", "peak_pct"], "float64"
    ),
    "bound": "str", "spread": "float64", "flags": "str", "compute_dtype": "str", "gpu": "str",
    "schema_version": "Int64",
}  # fmt: skip
FRAME_COLUMNS = tuple(FRAME_TYPES)


def aggregate(results_dir, kernels, output=None):
    """Write ``all_kernels.csv`` from ``{kernel}.csv`` of each kernel, in the order given; returns its path.

    Cells are copied as they are. Raises ResultError, and writes nothing, where a CSV is missing or damaged, a row
    names another kernel, a point stands twice, or the kernels were measured on GPUs of different types.
    """
    results_dir = Path(results_dir)
    output = Path(output) if output else results_dir / ALL_KERNELS
    check_one_device(results_dir, kernels)
    lines = []
    for kernel in kernels:
        lines += _cells(results_dir / f"{kernel}.csv", kernel)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *lines])
    return write_whole(output, stream.getvalue())


def check_one_device(results_dir, kernels):
    """Raise ResultError where rows of different GPU types would end up in one table."""
    devices = {}
    for kernel in kernels:
        sidecar = Path(results_dir) / f"{kernel}.jsonl"
        if not sidecar.exists():
            continue
        run, points = resultset.read_sidecar(sidecar)
        device = resultset.gpu_name(run or {})
        if device and any(point.get("latency_ms") is not None for point in points):
            devices.setdefault(device, []).append(kernel)
    if len(devices) > 1:
        found = "; ".join(f"{device}: {', '.join(names)}" for device, names in devices.items())
        raise ResultError(
            f"{results_dir}: results of {len(devices)} GPU types cannot share one table: {found}. "
            "Measure all kernels on one type, or keep one results directory for each."
        )


def _cells(path, kernel):
    if not path.exists():
        raise ResultError(
            f"{path}: is missing; every kernel needs a CSV, with the header alone if nothing was measured"
        )
    rows = resultset.read_csv(path)
    seen = {}
    for row in rows:
        if row.kernel != kernel:
            raise ResultError(f"{path}:{row.line}: the row is of kernel {row.kernel!r}, expected {kernel!r}")
        point = (row.op, row.phase, row.B, row.S, row.M, row.N, row.K)
        if point in seen:
            raise ResultError(f"{path}:{row.line}: op {row.op!r} at {row.where()} stands in line {seen[point]} already")
        seen[point] = row.line
    with path.open(newline="", encoding="utf-8") as stream:
        return [cells for cells in list(csv.reader(stream))[1:] if cells]


def sidecar_frame(results_dir, kernels=None):
    """Every measured point with the sidecar's fields as a pandas DataFrame; nested fields joined with dots.

    ``FRAME_COLUMNS`` are always there, come first and have ``FRAME_TYPES``. Column ``schema_version`` is the sidecar's.
    Raises ResultError where pandas is missing.
    """
    try:
        import pandas
    except ImportError:
        raise ResultError("pandas is missing; the table of all fields needs it: pip install pandas pyarrow") from None
    results = resultset.load(results_dir, kernels)
    records = []
    for row in results.measured:
        run = results.runs.get(row.kernel) or {}
        record = {name: getattr(row, name) for name in FRAME_COLUMNS[:12]}
        record |= {"gflops": row.gflops, "bandwidth_gbs": row.bandwidth_gbs, "arith_intensity": row.intensity}
        record |= {"peak_pct": row.peak_pct, "bound": row.bound, "spread": row.spread, "flags": ",".join(row.flags)}
        record |= {"compute_dtype": row.compute_dtype, "gpu": resultset.gpu_name(run)}
        record["schema_version"] = run.get("schema_version")
        for name, value in flatten(row.extra).items():
            record.setdefault(name, value)
        records.append(record)
    frame = pandas.DataFrame.from_records(records) if records else pandas.DataFrame(columns=FRAME_COLUMNS)
    for name in [name for name in frame.columns if frame[name].dtype.kind == "O"]:
        kinds = {type(value) for value in frame[name].dropna()}
        if len(kinds) > 1 and not kinds <= {int, float}:  # one type a column, for Parquet
            frame[name] = frame[name].map(str, na_action="ignore")
    return frame.astype(FRAME_TYPES)


def flatten(record, prefix=""):
    """A nested dict as one level, names joined with dots; lists become comma-separated text."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            flat[prefix + name] = ",".join(str(item) for item in value)
        elif name not in ("type", "line") or prefix:
            flat[prefix + name] = value
    return flat


def export_parquet(results_dir, kernels=None, output=None):
    """Write ``all_kernels.parquet``; returns its path. Needs pandas and pyarrow."""
    frame = sidecar_frame(results_dir, kernels)
    output = Path(output) if output else Path(results_dir) / "all_kernels.parquet"
    try:
        frame.to_parquet(output, index=False)
    except ImportError:
        raise ResultError("pyarrow is missing; writing Parquet needs it: pip install pyarrow") from None
    return output
