"""A set of results, read back: rows, run records and points, whatever mixture of files holds them.

Reads ``{kernel}.csv`` and ``{kernel}.jsonl`` of a results directory, a single CSV with the 14 columns (a kernel's or
``all_kernels.csv``), and a JSON list of points. Needs only the standard library.
"""

import csv
import json
import math
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from .results import COLUMNS

INTEGER_COLUMNS = ("B", "S", "M", "N", "K")
NUMBER_COLUMNS = ("latency_ms", "gflops", "peak_pct", "bandwidth_gbs", "arith_intensity")
PHASES = ("decode", "prefill")
ALL_KERNELS = "all_kernels.csv"


class ResultError(Exception):
    """A file of results that cannot be used; the message names the file and, where there is one, the line."""


@dataclass(frozen=True)
class Row:
    """One point of one kernel, measured (``latency_ms`` set) or not.

    ``flops`` and ``bytes`` are counts of one call, ``latency_ms`` milliseconds, ``peak_pct`` the share of the limiting
    resource's peak in percent, ``spread`` the relative noise of the latency (0.01 is 1 %), None where not recorded.
    ``L`` is the KV length; it equals S where there is no sweep over KV lengths.
    """

    kernel: str
    op: str
    phase: str
    B: int
    S: int
    L: int
    M: int = 0
    N: int = 0
    K: int = 0
    latency_ms: float | None = None
    flops: float | None = None
    bytes: float | None = None
    peak_pct: float | None = None
    bound: str = ""
    spread: float | None = None
    flags: tuple = ()
    compute_dtype: str = ""
    category: str = ""
    line: int = 0
    source: str = ""
    extra: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def key(self):
        """What identifies a point: kernel, op, phase, B, S and KV length."""
        return (self.kernel, self.op, self.phase, self.B, self.S, self.L)

    @property
    def measured(self):
        return self.latency_ms is not None

    @property
    def suspect(self):
        return "suspect" in self.flags

    @property
    def doubtful(self):
        """Whether the row cannot be right: too fast, or with an output that is not finite."""
        return self.suspect or "not_finite" in self.flags

    @property
    def tokens(self):
        return self.B if self.phase == "decode" else self.B * self.S

    @property
    def gflops(self):
        """Achieved GFLOP/s, None where the point or its FLOPs are unknown."""
        return self.flops / self.latency_ms / 1e6 if self.measured and self.flops is not None else None

    @property
    def bandwidth_gbs(self):
        return self.bytes / self.latency_ms / 1e6 if self.measured and self.bytes is not None else None

    @property
    def intensity(self):
        """FLOPs per byte, None where unknown."""
        return self.flops / self.bytes if self.bytes and self.flops is not None else None

    def where(self):
        """The point in words: ``B=8 S=128``, ``B=8 KV=2048`` or ``B=8``."""
        if self.phase == "prefill":
            return f"B={self.B} S={self.S}"
        return f"B={self.B} KV={self.L}" if self.L != self.S else f"B={self.B}"


@dataclass
class ResultSet:
    """Rows in file order, one run record for each kernel that has a sidecar, and where all of it came from."""

    path: Path
    rows: list
    runs: dict = field(default_factory=dict)

    @property
    def measured(self):
        return [row for row in self.rows if row.measured]

    def devices(self):
        """Names of the GPUs that the measured kernels ran on, sorted; empty where no sidecar says."""
        kernels = {row.kernel for row in self.measured}
        return sorted({name for kernel, run in self.runs.items() if kernel in kernels and (name := gpu_name(run))})


def gpu_name(run):
    """The GPU's name in a run record, or None."""
    gpu = (run.get("provenance") or {}).get("gpu")
    if isinstance(gpu, dict):
        gpu = gpu.get("name")
    return gpu or None


def read_csv(path):
    """Rows of a CSV with exactly the 14 columns; raises ResultError that names file, line and column."""
    path = Path(path)
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.reader(stream)
            header = next(reader, None)
            if header is None:
                raise ResultError(f"{path}:1: the file is empty, expected the header {','.join(COLUMNS)}")
            if tuple(header) != COLUMNS:
                raise ResultError(f"{path}:1: {_wrong_header(header)}; expected {','.join(COLUMNS)}")
            for cells in reader:
                if cells:
                    rows.append(_row_from_cells(path, reader.line_num, cells))
    except OSError as error:
        raise ResultError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ResultError(f"{path}: is not UTF-8 text") from None
    return rows


def _wrong_header(header):
    """What is wrong with a header, in words."""
    lacking = [name for name in COLUMNS if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if not lacking and not unknown:
        return f"the columns of the header are in another order: {','.join(header)}"
    parts = []
    for name in lacking:
        near = get_close_matches(name, unknown, 1, 0.6)
        parts.append(f"{name} (found {near[0]})" if near else name)
    words = f"the header lacks {', '.join(parts)}" if parts else f"the header has {', '.join(unknown)}, too"
    return words if len(lacking) < len(COLUMNS) else f"found the header {','.join(header)}"


def _row_from_cells(path, line, cells):
    if len(cells) != len(COLUMNS):
        raise ResultError(f"{path}:{line}: found {len(cells)} cells, expected {len(COLUMNS)}")
    values = dict(zip(COLUMNS, cells, strict=True))
    for name in INTEGER_COLUMNS + NUMBER_COLUMNS:
        text = values[name]
        try:
            values[name] = int(text) if name in INTEGER_COLUMNS else _number(text)
        except ValueError:
            expected = "an integer" if name in INTEGER_COLUMNS else "a number"
            raise ResultError(f"{path}:{line}: column {name} holds {text!r}, expected {expected}") from None
    latency = values["latency_ms"]
    if latency is not None and latency <= 0:
        raise ResultError(f"{path}:{line}: column latency_ms holds {latency}, expected a positive number")

    def per_call(rate):
        return rate * latency * 1e6 if rate is not None and latency is not None else None

    return Row(
        **{name: values[name] for name in ("kernel", "op", "phase", *INTEGER_COLUMNS)},
        L=values["S"],
        latency_ms=latency,
        flops=per_call(values["gflops"]),
        bytes=per_call(values["bandwidth_gbs"]),
        peak_pct=values["peak_pct"],
        bound=values["bound"],
        line=line,
        source=str(path),
    )


def _number(text):
    """A float; None for an empty cell and for nan, which stands for an unknown peak."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def read_sidecar(path):
    """(run record or None, [point record]) of a ``.jsonl``; raises ResultError with file and line."""
    path = Path(path)
    run, points = None, []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ResultError(f"{path}:{number}: is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise ResultError(f"{path}:{number}: found {type(record).__name__}, expected an object")
        if record.get("type") == "run":
            run = record
        elif record.get("type") == "point":
            points.append({**record, "line": number})
    return run, points


def row_from_record(record, run=None, source=""):
    """A Row from a sidecar's point record, a listed point, or any dict with the same names.

    Needs kernel (or a run record that has it), op, phase, B and S; everything else may be absent.
    """
    run = run or {}
    statistics = record.get("statistics") or {}
    try:
        return Row(
            kernel=record.get("kernel") or run["kernel"],
            op=record["op"],
            phase=record["phase"],
            B=int(record["B"]),
            S=int(record["S"]),
            L=int(record.get("L") or record["S"]),
            M=int(record.get("M") or 0),
            N=int(record.get("N") or 0),
            K=int(record.get("K") or 0),
            latency_ms=record.get("latency_ms"),
            flops=record.get("flops"),
            bytes=record.get("bytes"),
            peak_pct=record.get("peak_pct"),
            bound=record.get("bound") or "",
            spread=_spread(statistics),
            flags=tuple(record.get("flags") or ()),
            compute_dtype=record.get("compute_dtype") or run.get("compute_dtype") or "",
            category=record.get("category") or run.get("category") or "",
            line=record.get("line", 0),
            source=source,
            extra=record,
        )
    except (KeyError, TypeError, ValueError) as error:
        place = f"{source or 'points'}:{record['line']}" if "line" in record else source or "points"
        raise ResultError(f"{place}: a point lacks or spoils {error}: {str(record)[:200]}") from None


def _spread(statistics):
    """Relative noise: half of the p20 to p80 range over the median; None where it is not recorded."""
    p20, p80, median = (statistics.get(name) for name in ("p20_ms", "p80_ms", "median_ms"))
    return (p80 - p20) / 2 / median if None not in (p20, p80) and median else None


def load(path, kernels=None):
    """A ResultSet from a results directory or from one CSV.

    Of a directory, every ``{kernel}.csv`` (in the order of ``kernels`` where given, else by name) is read, and its
    sidecar where there is one; ``all_kernels.csv`` only where there is no other. Rows take FLOPs, bytes, KV length,
    spread and flags from the sidecar; its points without a latency become rows that are not ``measured``.
    """
    path = Path(path)
    if path.is_file():
        return ResultSet(path, read_csv(path))
    if not path.is_dir():
        raise ResultError(f"{path}: there is no such file or directory")
    if kernels is None:
        names = {file.stem for file in path.glob("*.csv")} | {file.stem for file in path.glob("*.jsonl")}
        kernels = sorted(names - {Path(ALL_KERNELS).stem} - {n for n in names if not _is_result(path, n)})
    rows, runs = [], {}
    for kernel in kernels:
        table, sidecar = path / f"{kernel}.csv", path / f"{kernel}.jsonl"
        found = read_csv(table) if table.exists() else []
        if sidecar.exists():
            run, points = read_sidecar(sidecar)
            if run is not None:
                runs[kernel] = run
            found = _enrich(found, points, run, kernel, sidecar)
        rows += found
    if not rows and not runs and (path / ALL_KERNELS).exists():
        rows = read_csv(path / ALL_KERNELS)
    return ResultSet(path, rows, runs)


def _is_result(path, name):
    """Whether a table of a results directory holds results, rightly or wrongly: others lie there, too."""
    table = path / f"{name}.csv"
    if not table.exists() or (path / f"{name}.jsonl").exists():
        return True
    with table.open(encoding="utf-8", errors="replace") as stream:
        header = stream.readline().strip().split(",")
    # One that has nearly all of the columns is read, so that its mistake is reported.
    return len(set(header) & set(COLUMNS)) >= len(COLUMNS) - 3


def _enrich(rows, points, run, kernel, sidecar):
    """The CSV's rows with what the sidecar knows of them; a sidecar without a CSV stands alone."""
    listed = [row_from_record(point, {"kernel": kernel, **(run or {})}, str(sidecar)) for point in points]
    measured = [row for row in listed if row.measured]
    missing = [row for row in listed if not row.measured and row.extra.get("status") != "not_applicable"]
    if not rows:
        return measured + missing
    by_columns = {}
    for row in measured:
        by_columns.setdefault(_columns_of(row), []).append(row)
    result = []
    for row in rows:
        matches = by_columns.get(_columns_of(row))
        if not matches:
            result.append(row)
            continue
        other = matches.pop(0)
        result.append(
            replace(
                other,
                latency_ms=row.latency_ms,
                peak_pct=_more_digits(row.peak_pct, other.peak_pct),
                bound=row.bound or other.bound,
                flops=other.flops if other.flops is not None else row.flops,
                bytes=other.bytes if other.bytes is not None else row.bytes,
                line=row.line,
                source=row.source,
            )
        )
    return result + missing


def _more_digits(written, known):
    """The sidecar's value where the CSV has the same with two digits after the point; else what the CSV says."""
    same = written is None or known is not None and abs(written - known) <= 0.0051
    return known if same else written


def _columns_of(row):
    return (row.kernel, row.op, row.phase, row.B, row.S, row.M, row.N, row.K)


def load_points(path):
    """Points of all kernels from a JSON file in a form of ``points_from_list``."""
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ResultError(f"{path}: is not JSON: {error}") from None
    return points_from_list(data, str(path))


def points_from_list(points, source="points"):
    """Rows without latency from a list of {kernel, op, phase, B, S, L, flops, bytes, compute_dtype, category}.

    What a script's --list-points prints, ``{"points": [...]}``, may stand for the list or for any entry of it.
    """
    if isinstance(points, dict) and "points" in points:
        points = points["points"]
    if not isinstance(points, list):
        raise ResultError(f"{source}: found {type(points).__name__}, expected a list of points")
    rows = []
    for point in points:
        if isinstance(point, dict) and "points" in point:
            rows += points_from_list(point, source)
        else:
            rows.append(replace(row_from_record(point, source=source), latency_ms=None))
    return rows


def unlisted(points, rows):
    """The points that no row stands for, measured or not, in their order."""
    known = {row.key for row in rows}
    return [point for point in points if point.key not in known]


def annotate(rows, points):
    """Rows with compute dtype, category and missing FLOPs or bytes taken from the point or the kernel's points."""
    by_key = {point.key: point for point in points}
    by_kernel = {}
    for point in points:
        by_kernel.setdefault(point.kernel, point)
    result = []
    for row in rows:
        point = by_key.get(row.key)
        kernel = point or by_kernel.get(row.kernel)
        if kernel is not None:
            row = replace(
                row,
                compute_dtype=row.compute_dtype or kernel.compute_dtype,
                category=row.category or kernel.category,
                flops=row.flops if row.flops is not None or point is None else point.flops,
                bytes=row.bytes if row.bytes is not None or point is None else point.bytes,
            )
        result.append(row)
    return result
