"""BenchmarkRun: what a script's loops talk to. It decides what to measure, keeps the journal, writes the results."""

import contextlib
import hashlib
import os
import platform
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from benchlib import check, hardware, journal, peaks, resolve, results, stack, timing
from benchlib.gpus import HELD
from benchlib.model import Point
from benchlib.point import Context, base_record, measure_point
from benchlib.results import CACHES, finish
from benchlib.runtime import get_runtime
from benchlib.status import ATTEMPT, EXIT_RESTART, classify, overall
from benchlib.torch_or_none import torch

POLL = 0.05
# Another worker of this run is checking the op.
ELSEWHERE = object()


class RestartNeeded(SystemExit):
    """The device is in a state that only a new process can leave; the point that did it is on record."""

    def __init__(self, reason):
        super().__init__(EXIT_RESTART)
        self.reason = reason


class Planned(NamedTuple):
    """A point that a script's loops ask for; reason: why it does not apply, or None."""

    op: object
    point: Point
    reason: str | None


@dataclass
class RunOptions:
    """How to run. plan: points known beforehand, [(op, Point)]. mode "plan": only collect Planned points.

    ops and phase choose among the script's ops. journal_dir None: beside output_dir. resume False: earlier
    measurements are not used. keep False: neither journal nor results are written. share: this is a second worker,
    which measures points for the first one's results and writes none. record: facts to put on record. on_point gets
    each point's record, on_end the run's record.
    """

    mode: str = "measure"
    hardware: str = hardware.AUTO
    cache: str = "cold"
    ops: tuple | None = None
    phase: str | None = None
    plan: list | None = None
    journal_dir: str | Path | None = None
    resume: bool = True
    check: bool = True
    keep: bool = True
    share: bool = False
    command: list | None = None
    record: dict | None = None
    on_point: object = None
    on_end: object = None


class BenchmarkRun:
    """Context manager of one run of one kernel: `with BenchmarkRun(BENCHMARK, output_dir) as run: run.measure(...)`.

    On leaving, {kernel}.csv and {kernel}.jsonl are in output_dir, whatever happened. `results` holds a
    BenchmarkResult for each measured point, `records` the sidecar's record of every point, `status` and `reason`
    what became of the run.
    """

    def __init__(self, benchmark, output_dir, **options):
        known = [field.name for field in fields(RunOptions)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise TypeError(f"unknown option {unknown[0]!r} of a run; there are: {', '.join(known)}")
        self.benchmark, self.output_dir = benchmark, Path(output_dir)
        self.options = RunOptions(**options)
        self.runtime = get_runtime()
        self.results, self.records = [], []
        self.planned, self.excluded = [], []
        self.status, self.reason = None, ""
        self.peaks = self.hardware = self.journal = None
        self._seen, self._op_state, self._skip = set(), {}, None
        self._postponed = []

    # What scripts call.

    def select(self, ops):
        """The ops that --op and --phase leave."""
        wanted, phase = self.options.ops, self.options.phase
        return [op for op in ops if (not wanted or op.name in wanted) and phase in (None, op.phase)]

    def measure(self, op, B, S, L=None):
        """Measure the op at one point; returns its BenchmarkResult, or None where there is none (see `records`).

        None is also returned where another worker is at the point: its record is there when the run is left.
        """
        point = Point.of(op, B, S, L)
        identity = _identity(op, point)
        if identity in self._seen:
            return None
        self._seen.add(identity)
        reason = self.benchmark.not_applicable(op, point)
        if self.options.mode == "plan":
            self.results.append(Planned(op, point, reason))
            return None
        if reason:
            self.excluded.append((op, point, reason))
            return None
        self.planned.append((op, point))
        record = self._measure(op, point)
        self.records.append(record)
        if record is None:
            self._postponed.append((len(self.records) - 1, op, point))
        elif self.options.on_point:
            self.options.on_point(record)
        if record is None or record["status"] != "ok":
            return None
        self.results.append(results.from_record(record))
        return self.results[-1]

    # Opening.

    def __enter__(self):
        if self.options.mode == "plan":
            return self
        if self.options.cache not in CACHES:
            raise ValueError(f"cache is {' or '.join(CACHES)}, not {self.options.cache!r}")
        try:
            self.kernel = resolve.resolve(self.benchmark, self.runtime)
        except resolve.Unavailable as error:
            self._stop("unavailable", str(error))
        self._open_journal()
        try:
            self._find_hardware()
        except hardware.HardwareError as error:
            if not self._skip:
                self._stop("failed", str(error))
        if self._skip:
            return self
        reference = check.reference_of(self.benchmark.catalogue) if self.runtime.checks else None
        self.context = Context(self.benchmark, self.kernel, self.runtime, timing.Evictor(self.runtime), reference)
        # A worker that dies cannot write its sidecar: what the supervisor then needs is here.
        run = None if self.options.share else self.run_record(None, "", 0, 0, 0)
        self.journal.append("ready", run=run)
        return self

    def _open_journal(self):
        options = self.options
        where = Path(options.journal_dir) if options.journal_dir else self.output_dir.resolve().parent / "journal"
        files = self.runtime.persistent and options.keep
        self.journal_dir = where if self.runtime.persistent else None
        device = "" if self.status == "unavailable" else self.runtime.properties().name
        key = journal.key(
            self.benchmark.script,
            self.benchmark.catalogue,
            {"options": self.benchmark.options, "routing": self.benchmark.routing},
            self._stack(),
            device,
            self.output_dir.name,
        )
        attempt = os.environ.get(ATTEMPT) or f"{time.time():.3f}-{os.getpid()}"
        path = journal.path_of(where, self.benchmark.kernel) if files else None
        self.journal = journal.Journal(path, key, attempt).open(lock=ATTEMPT not in os.environ)
        self._board = journal.Board(self.journal, options.resume)
        if options.share and self._board.refresh().plan is None:
            self._stop("unavailable", "no other worker of this run has this script, stack and device")
            return
        self.journal.append("attempt", pid=os.getpid(), device=device, gpu=os.environ.get(HELD))
        if options.plan is not None and not options.share:
            self.journal.append("plan", points=[[op.name, op.phase, p.B, p.S, p.L] for op, p in options.plan])

    def _stack(self):
        if not self.runtime.persistent:
            return {}
        return {
            "packages": stack.package_versions(),
            "driver": stack.driver_version(),
            "environment": stack.variables(),
        }

    def _find_hardware(self):
        """The peaks that results are compared with. Raises HardwareError for a device that is named but not there."""
        choice = self.options.hardware
        if self.runtime.unavailable():
            self.hardware = hardware.for_listing(choice)
            return
        name = self.runtime.properties().name
        self.hardware = hardware.for_device(name, choice)
        if self._skip:
            return
        with contextlib.suppress(RuntimeError):  # points are still worth measuring without measured roofs
            self.peaks = peaks.load_or_measure(self.runtime, self.journal_dir)
        self.hardware = self.hardware or hardware.from_peaks(name, self.peaks)

    # One point.

    def _measure(self, op, point):
        """The point's record, ready for the sidecar; None while another worker is at it."""
        record = self._record_of(op, point)
        return record and finish(record, self.options.cache, self.hardware, self.peaks)

    def _record_of(self, op, point):
        base = base_record(self.benchmark, op, point)
        if self._skip:
            return self._not_measured(op, point, base, *self._skip)
        identity = _identity(op, point)
        earlier = self._board.refresh().points.get(identity)
        if earlier is not None:
            return {**base, **journal.bare(earlier)}
        if self._board.incorrect:
            self._is_incorrect(self._board.incorrect)
            return self._not_measured(op, point, base, *self._skip)
        if self._board.elsewhere(identity):
            return None
        problem = self._check(op, point)
        if self._skip:
            return self._not_measured(op, point, base, *self._skip)
        where = {"op": op.name, "phase": op.phase, "B": point.B, "S": point.S, "L": point.L}
        if problem is ELSEWHERE or not self._board.begin("start", **where):
            return None
        if problem:
            return self._end_point({**base, "status": "failed", "reason": problem})
        start = time.perf_counter()
        try:
            record = measure_point(self.context, op, point)
        except Exception as error:  # whatever a kernel raises belongs on record
            return self._failed(base, error)
        seconds = round(time.perf_counter() - start, 3)
        # Points of one table may come from several runs, and from several GPUs of one type.
        source = {"date": _now(), "gpu_uuid": self.runtime.properties().uuid}
        return self._end_point({**record, "status": "ok", "seconds": seconds, **source})

    def _gather(self):
        """See to the points that another worker was at: take what it measured, measure what it left."""
        waiting = False
        while self._postponed:
            left = [entry for entry in self._postponed if not self._settle(*entry)]
            if self.options.share:
                left = [entry for entry in left if not self._board.elsewhere(_identity(*entry[1:]))]
            if len(left) == len(self._postponed):
                if not waiting:
                    self.journal.append("waiting")
                time.sleep(POLL)
            waiting = len(left) == len(self._postponed)
            self._postponed = left

    def _settle(self, place, op, point):
        record = self._measure(op, point)
        if record is None:
            return False
        self.records[place] = record
        if self.options.on_point:
            self.options.on_point(record)
        return True

    def _end_point(self, record):
        record = {"type": "point", **record}
        self.journal.append(**record)
        return record

    def _not_measured(self, op, point, base, status, reason):
        record = {"type": "point", **base, "status": status, "reason": reason}
        with contextlib.suppress(Exception):  # the cost is a courtesy here
            cost = self.benchmark.cost(op, point)
            record |= {"flops": cost.flops, "bytes": cost.bytes}
        return record

    def _failed(self, base, error):
        status, reason = classify(error)
        missing = resolve.missing_piece(error)
        if missing:
            self._stop("unavailable", missing)
            return {"type": "point", **base, "status": "unavailable", "reason": missing}
        record = self._end_point({**base, "status": status, "reason": reason})
        self._survive(error, reason)
        return record

    def _survive(self, error, reason):
        """Go on in this process if the device still works. The error's frames hold the tensors of the failed point."""
        error.__traceback__ = None
        self.runtime.release()
        dead = self.runtime.dead()
        if dead:
            if os.environ.get(ATTEMPT):
                raise RestartNeeded(reason)
            self._stop("failed", f"the GPU context is lost after: {reason}")

    # Checks.

    def _check(self, op, point):
        """Check the op before its first point. Returns why its points cannot be trusted, or None.

        ELSEWHERE means that another worker is about to find out.
        """
        if not self.options.check or not self.runtime.checks:
            return None
        if self.context.reference is None:
            return f"there is no reference for {self.benchmark.catalogue}: outputs cannot be checked"
        plan = self.options.plan
        if plan is None:  # a script that is driven from Python: no plan, so every point is checked
            return self._check_at(op, f"B={point.B} S={point.S} L={point.L}", [point])
        identity = (op.name, op.phase)
        if identity not in self._op_state:
            points = [p for o, p in plan if (o.name, o.phase) == identity]
            problem = None
            for size, chosen in check.small_and_large(op, points):
                smaller = [p for p in points if p.T * max(1, p.L) < chosen.T * max(1, chosen.L)]
                fallback = sorted(smaller, key=lambda p: -p.T * max(1, p.L)) if size == "large" else []
                problem = self._check_at(op, size, [chosen, *fallback])
                if problem is ELSEWHERE:
                    return problem
                if problem or self._skip:
                    break
            self._op_state[identity] = problem
        return self._op_state[identity]

    def _check_at(self, op, size, candidates):
        """Check at the first of the candidates that fits into memory."""
        identity = (op.name, op.phase, size)
        earlier = self._board.refresh().checks.get(identity)
        if earlier is not None:
            if earlier["status"] == "incorrect":
                self._is_incorrect(earlier)
                return None
            return None if earlier["status"] == "ok" else f"the check at the {size} point failed: {earlier['reason']}"
        reason = "had no point"
        for point in candidates:
            where = {"op": op.name, "phase": op.phase, "size": size, **point._asdict()}
            seed = check.fresh_seed()
            if not self._board.begin("check", **where, seed=seed):
                return ELSEWHERE
            found = {**where, "seed": seed, "status": "ok", "reason": ""}
            try:
                mismatches, errors = check.run_check(
                    self.benchmark, self.kernel, self.context.reference, op, point, self.runtime, seed
                )
                found["errors"] = errors
                if mismatches:
                    found |= {"status": "incorrect", "reason": "; ".join(mismatches)}
            except Exception as error:
                missing = resolve.missing_piece(error)
                if missing:
                    self._stop("unavailable", missing)
                    return None
                status, reason = classify(error)
                found |= {"status": status, "reason": reason}
                self.journal.append("check_end", **found)
                self._survive(error, reason)
                if status == "oom":
                    continue
                return f"the check at the {size} point failed: {reason}"
            self.journal.append("check_end", **found)
            if found["status"] == "incorrect":
                self._is_incorrect(found)
            return None
        return f"could not be checked: {reason}"

    def _is_incorrect(self, found):
        place = "{op} ({phase}, B={B} S={S} L={L}, seed {seed})".format(**found)
        self._stop("incorrect", f"{place}: {found['reason']}")

    def _checks(self):
        """The checks' records for the sidecar, whoever made them, in the order of the ops."""
        order = list(dict.fromkeys((op.name, op.phase) for op, _ in self.planned))
        found = [{**journal.bare(record), "type": "check"} for record in self._board.refresh().checks.values()]
        known = [record for record in found if (record["op"], record["phase"]) in order]
        return sorted(known, key=lambda one: (order.index((one["op"], one["phase"])), one["size"] != "small"))

    # Closing.

    def _stop(self, status, reason):
        self.status, self.reason = status, reason
        self._skip = ("not_measured" if status == "incorrect" else status, reason)

    def __exit__(self, kind, error, trace):
        if self.options.mode == "plan":
            return False
        try:
            if kind is None:
                self._gather()
        except BaseException as error:
            kind = type(error)
            raise
        finally:
            try:
                if not self.options.share and (kind is None or not issubclass(kind, RestartNeeded)):
                    self.write(interrupted=kind is not None)
            finally:
                if self.journal:
                    self.journal.close()
        return False

    def write(self, interrupted=False):
        """Write CSV and sidecar from what is known now."""
        seen = {_identity(op, point) for _, op, point in self._postponed}
        self.records = [record for record in self.records if record is not None]
        self.results = [results.from_record(record) for record in self.records if record["status"] == "ok"]
        if self.status == "incorrect":
            self.results = []
            self.records = [_withheld(record) for record in self.records]
        asked = self.options.plan if self.options.plan is not None else self.planned
        rest = [(op, point) for op, point in asked if _identity(op, point) not in self._seen - seen]
        why = ("not_measured", "the run was interrupted" if interrupted else "not reached")
        records = [*self.records]
        for op, point in rest:
            records.append(self._not_measured(op, point, base_record(self.benchmark, op, point), *(self._skip or why)))
        status, reason = self.status, self.reason
        if status is None:
            status, reason = overall(records)
        excluded = [
            {"type": "point", **base_record(self.benchmark, op, point), "status": "not_applicable", "reason": why}
            for op, point, why in self.excluded
        ]
        run = self.run_record(status, reason, len(self.results), len(asked), len(excluded), interrupted)
        self.status, self.reason = status, reason
        self.run = run
        if self.options.keep:
            everything = [*self._checks(), *records, *excluded]
            results.write(self.output_dir, self.benchmark.kernel, run, everything, self.results)
        self.journal.append("end", status=status, reason=reason, interrupted=interrupted)
        if self.options.on_end:
            self.options.on_end(run)

    def run_record(self, status, reason, measured, asked, not_applicable, interrupted=False):
        """The sidecar's run record."""
        benchmark, options = self.benchmark, self.options
        device = self.runtime.properties() if self.runtime.unavailable() is None else None
        usable = hasattr(self, "kernel")
        return {
            "kernel": benchmark.kernel,
            "catalogue": benchmark.catalogue,
            "source": benchmark.source,
            "category": benchmark.category,
            "compute_dtype": benchmark.compute_dtype,
            "status": status,
            "reason": reason,
            "measured": measured,
            "asked": asked,
            "not_applicable": not_applicable,
            "interrupted": interrupted,
            "cache": options.cache,
            "routing": benchmark.routing,
            "options": benchmark.options,
            "provider": self.kernel.as_record() if usable else None,
            "hardware": self.hardware.as_record() if self.hardware else {"name": options.hardware},
            "measured_peaks": self.peaks,
            "launch_floor_ms": (self.peaks or {}).get("launch_floor_ms"),
            "provenance": {
                "date": _now(),
                "host": platform.node(),
                "gpu": _device_record(device),
                "python": platform.python_version(),
                "machine": platform.machine(),
                "torch": torch.__version__ if torch else None,
                "packages": stack.package_versions() if self.runtime.persistent else {},
                "environment": stack.variables(),
                "script_sha256": _sha256(benchmark.script),
                "command": options.command or sys.argv,
                "journal_key": self.journal.key if self.journal else None,
                **(self.runtime.describe() if device else {}),
                **(options.record or {}),
            },
        }


def _identity(op, point):
    return (op.name, op.phase, point.B, point.S, point.L)


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _sha256(path):
    """Hash of a file; None where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return None


def _device_record(device):
    if device is None:
        return None
    return {
        "name": device.name,
        "compute_capability": ".".join(map(str, device.compute_capability)),
        "l2_bytes": device.l2_bytes,
        "memory_bytes": device.total_memory,
        "uuid": device.uuid,
    }


def _withheld(record):
    """A measured record of a kernel whose output is wrong: without its numbers."""
    if record.get("status") != "ok":
        return record
    kept = {name: record[name] for name in ("type", "kernel", "op", "phase", "B", "S", "L", "T", "M", "N", "K")}
    kept |= {name: record[name] for name in ("flops", "bytes", "compute_dtype") if name in record}
    return kept | {"status": "not_measured", "reason": "the kernel's output is wrong"}
