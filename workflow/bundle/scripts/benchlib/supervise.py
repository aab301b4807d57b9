#!/usr/bin/env python3
"""Run a benchmark script as a worker, on a GPU of its own, and live through whatever happens to it.

    python supervise.py --script scripts/bench_rmsnorm.py --output results [--gpus 0,2] [options of the script]

A point that kills its worker, or hangs, is put on record with the reason, and a new worker goes on with the next
point. However this ends, {kernel}.csv and {kernel}.jsonl are there; the exit code is 0 for every recorded status.

Where another GPU of the same type is idle and much is left to do, a second worker helps there: it measures the
largest points, until none is left or a benchmark waits for that GPU. The first worker writes the results.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchlib import estimate, gpus, hardware, journal, peaks, results
from benchlib.arguments import at_least_one, not_negative, positive
from benchlib.status import ATTEMPT, EXIT_BUSY, EXIT_DISK, EXIT_RESTART, no_room, overall

POLL = 0.1
GRACE = 20.0
# Seconds between two looks for an idle GPU.
LOOK = 0.5
SPLIT = "ROOFBENCH_SPLIT"
PR_SET_PDEATHSIG = 1


@dataclass
class Limits:
    """Seconds without progress after which a worker is killed, and how many dead workers in a row are enough.

    start covers imports and everything up to the first point; first the first check or point of a worker, in which a
    kernel may be compiled; point every other one. split: seconds that a second worker must save; 0: there is none.
    idle: seconds for which its GPU must have been free, as it is between two benchmarks of a queue, too.
    """

    start: float = 900.0
    first: float = 900.0
    point: float = 120.0
    crashes: int = 4
    split: float = 5.0
    idle: float = 3.0


class Watcher:
    """Follows the journal: what a worker is doing now, and since when."""

    def __init__(self, path, attempt):
        self.path, self.attempt, self.worker = path, attempt, None
        self.offset = path.stat().st_size if path.exists() else 0
        self.begun = self.last = time.monotonic()
        self.pending = self.key = self.start_seconds = None
        self.ended = self.measured = 0
        self.ready = self.waiting = False

    def poll(self):
        """Read new records."""
        records, self.offset = journal.read_whole(self.path, self.offset)
        for record in records:
            if record.get("attempt") == self.attempt and record.get("worker") == self.worker:
                self._take(record)

    def _take(self, record):
        self.last, self.key = time.monotonic(), record.get("key")
        kind = record["type"]
        self.waiting = kind == "waiting"
        if kind in ("start", "check"):
            self.pending = record
            if kind == "start" and self.start_seconds is None:
                self.start_seconds = self.last - self.begun
        elif kind in ("point", "check_end"):
            self.pending = None
            self.ended += 1
            self.measured += kind == "point" and record["status"] == "ok"
        elif kind in ("left", "end"):
            self.pending = None
        elif kind == "ready":
            self.ready = True

    def limit(self, limits):
        """(seconds, what they are for) of what is going on now."""
        if not self.ready or (self.pending is None and not self.ended):
            return limits.start, "starting"
        return (limits.point, "a point") if self.ended else (limits.first, "the first point")


class Worker:
    """A process of the script, on the GPU of a lock. reason: why it had to be killed, if it was."""

    def __init__(self, command, environment, lock, book, attempt):
        self.lock, self.reason, self.dismissed = lock, None, False
        self.tail = deque(maxlen=40)
        self.watcher = Watcher(book.path, attempt)
        if lock:
            # By number, in the driver's order: some packages cannot read UUIDs here.
            environment = {**environment, "CUDA_VISIBLE_DEVICES": str(lock.gpu.index), gpus.HELD: lock.gpu.key}
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, ATTEMPT: attempt, "PYTHONUNBUFFERED": "1"},
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=[fd for fd in (lock and lock.fd, book.fd) if fd is not None],
            preexec_fn=_die_with_parent,
        )
        self.watcher.worker = self.process.pid
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def _pass_on(self):
        for line in self.process.stdout:
            self.tail.append(line)
            sys.stderr.write(line)
            sys.stderr.flush()

    def ended(self, seconds=0.0):
        """Whether it has ended, or does within some seconds."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._kill_group(signal.SIGKILL)  # compilers and other children that it left
        self._reader.join(timeout=5)
        self.watcher.poll()
        return True

    def watch(self, limits, may_wait=False):
        """Look at its progress; kill it where there is none for too long. may_wait: for other workers' points."""
        self.watcher.poll()
        seconds, what = self.watcher.limit(limits)
        if time.monotonic() - self.watcher.last > seconds and not (may_wait and self.watcher.waiting):
            self.reason = f"no progress for {seconds:.0f} s, the limit for {what}"
            self._kill_group(signal.SIGKILL)
            self.process.wait()

    def ask_to_end(self, number):
        self._kill_group(number)

    def see_to_its_end(self, seconds=GRACE):
        if not self.ended(seconds):
            self._kill_group(signal.SIGKILL)
            self.process.wait()
            self.ended()

    def _kill_group(self, number):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def describe_exit(self):
        code = self.process.returncode
        last = next((line.strip() for line in reversed(self.tail) if line.strip()), "")
        said = f"; it said: {last[:300]}" if last else ""
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            hint = " (out of memory, or killed from outside)" if code == -signal.SIGKILL else ""
            return f"the worker was killed by {name}{hint}{said}"
        return f"the worker ended with exit code {code}{said}"


class Supervisor:
    """One script from its first worker to its results. others: GPUs of the same type, where second workers may help."""

    def __init__(self, script, output, arguments=(), journal_dir=None, limits=None, lock=None, others=()):
        self.script, self.output = Path(script).resolve(), Path(output).resolve()
        self.kernel = self.script.stem.removeprefix("bench_")
        self.journal_dir = Path(journal_dir).resolve() if journal_dir else self.output.parent / "journal"
        self.arguments, self.limits, self.lock = list(arguments), limits or Limits(), lock
        self.attempt = f"{time.time():.3f}-{os.getpid()}"
        self.book = journal.Journal(journal.path_of(self.journal_dir, self.kernel), "", self.attempt)
        self.signal = self.key = None
        self.measured = 0
        self.helpers = Helpers(self, others)

    def run(self):
        """Work until the script has said its last word, or there is no sense in going on. Returns the exit code."""
        with contextlib.closing(_open_patiently(self.book)):
            try:
                return self._run()
            finally:
                self.helpers.dismiss()

    def _run(self):
        crashes = 0
        while True:
            worker = self.start(self.lock)
            self._attend(worker)
            watcher, code, reason = worker.watcher, worker.process.returncode, worker.reason
            self.key = watcher.key or self.key
            self.measured += watcher.measured
            if self.signal:
                return 128 + self.signal
            if code == 0 and reason is None:
                return 0
            if code in (EXIT_BUSY, EXIT_DISK):
                return code
            status = "timeout" if reason else "failed"
            reason = reason or worker.describe_exit()
            blamed = self.blame(worker, status, reason) if code != EXIT_RESTART or watcher.pending else True
            crashes = 1 if watcher.measured else crashes + 1
            if code == 2 and not self.key:
                return self._finish("failed", reason)
            if not blamed and crashes >= 2:
                return self._finish(status, reason)
            if crashes >= self.limits.crashes:
                text = f"gave up after {crashes} workers in a row died: {reason}"
                return self._finish(status if not self.measured else None, text)

    def start(self, lock, *more):
        """A worker on the GPU of a lock."""
        command = [sys.executable, str(self.script), "--output", str(self.output), "--journal", str(self.journal_dir)]
        return Worker([*command, *self.arguments, *more], os.environ, lock, self.book, self.attempt)

    def _attend(self, worker):
        """Watch over the first worker, and over those that help it, until it has ended."""
        while not worker.ended(POLL):
            if self.signal:
                for one in (worker, *self.helpers.workers):
                    one.ask_to_end(self.signal)
                worker.see_to_its_end()
                return
            worker.watch(self.limits, may_wait=bool(self.helpers.workers))
            self.helpers.tend(worker)

    def stop(self, number, frame=None):
        """Signal handler: pass the signal on; what was measured is in the journal."""
        self.signal = number

    # What became of it.

    def blame(self, worker, status, reason):
        """Put the point or check in flight of a dead worker on record. False where none was in flight."""
        pending = worker.watcher.pending
        if pending is None:
            return False
        kept = {name: value for name, value in journal.bare(pending).items() if name != "type"}
        kind = "point" if pending["type"] == "start" else "check_end"
        if kind == "point":
            kept = {"kernel": self.kernel, **kept}
        self._append_for(worker, kind, **kept, status=status, reason=reason)
        return True

    def take_back(self, worker):
        """Leave what a dismissed worker had begun to the others."""
        if worker.watcher.pending is not None:
            kept = journal.bare(worker.watcher.pending)
            self._append_for(worker, "left", **{name: value for name, value in kept.items() if name != "type"})

    def _append_for(self, worker, kind, **fields):
        self.book.key, self.book.worker = worker.watcher.key, worker.watcher.worker
        self.book.append(kind, **fields)
        worker.watcher.poll()

    def _finish(self, status, reason):
        """Write the results from the journal, because no worker will."""
        self.helpers.dismiss()
        write_from_journal(self.kernel, self.output, self.journal_dir, self.key, self.attempt, status, reason,
                           self._settings(), "--fresh" not in self.arguments)  # fmt: skip
        print(f"{self.kernel}: {reason}", file=sys.stderr)
        return 0

    def _settings(self):
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("--hardware", default=hardware.AUTO)
        parser.add_argument("--cache", default="cold")
        return parser.parse_known_args(self.arguments)[0]


def _open_patiently(book, seconds=2.0):
    """Open a journal whose last writers may have been killed a moment ago."""
    end = time.monotonic() + seconds
    while True:
        try:
            return book.open()
        except journal.JournalBusy:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


class Helpers:
    """Second workers: when one is worth its start, on which GPU, and what becomes of them."""

    # So many of them may die before it is left to the first worker alone.
    LOSSES = 2

    def __init__(self, supervisor, others):
        self.supervisor, self.others = supervisor, list(others) if supervisor.limits.split > 0 else []
        self.workers, self.lost = [], 0
        self._idle_since, self._looked, self._board = {}, 0.0, None
        self._history, self._start = {}, None
        if self.others:
            self._history, self._start = estimate.last_time(supervisor.book.path)

    def tend(self, first):
        """See what became of the helpers, and whether another one is worth while. first: the worker they help."""
        for worker in list(self.workers):
            if not worker.ended():
                worker.watch(self.supervisor.limits)
                # One that measures looks for itself, between two points.
                if worker.watcher.pending is None and gpus.is_awaited(worker.lock.gpu.key):
                    self._end(worker)
            else:
                self._bury(worker)
        if self.others and self.lost < self.LOSSES and time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            self._look_for_a_gpu(first)

    def dismiss(self):
        """End all helpers; what one of them was measuring is not over."""
        for worker in list(self.workers):
            self._end(worker)

    def _end(self, worker):
        worker.dismissed = True
        worker.ask_to_end(signal.SIGTERM)
        worker.see_to_its_end()
        self._bury(worker)

    def _bury(self, worker):
        self.workers.remove(worker)
        worker.lock.release()
        code, supervisor = worker.process.returncode, self.supervisor
        if worker.dismissed or supervisor.signal or code == EXIT_DISK:
            supervisor.take_back(worker)
        elif code != 0 or worker.watcher.pending:
            self.lost += 1
            reason = worker.reason or worker.describe_exit()
            supervisor.blame(worker, "timeout" if worker.reason else "failed", reason)
        elif not worker.watcher.ready:  # it has nothing in common with the first one
            self.lost += 1
        if code == EXIT_DISK:
            self.lost = self.LOSSES
        supervisor.measured += worker.watcher.measured

    def _look_for_a_gpu(self, first):
        if not self._saves(first):
            self._idle_since.clear()
            return
        busy = {worker.lock.gpu for worker in self.workers}
        for gpu in self.others:
            lock = None
            with contextlib.suppress(gpus.GpuBusy, OSError):
                lock = None if gpu in busy or gpus.is_awaited(gpu.key) else gpus.Lock.try_take(gpu)
            if lock is None:
                self._idle_since.pop(gpu, None)
                continue
            idle = time.monotonic() - self._idle_since.setdefault(gpu, time.monotonic())
            if idle >= self.supervisor.limits.idle and not gpus.users(gpu):
                print(f"{self.supervisor.kernel}: GPU {gpu.index} is idle and helps", file=sys.stderr, flush=True)
                self._idle_since.pop(gpu)
                try:
                    self.workers.append(self.supervisor.start(lock, "--share"))
                except OSError:  # no more processes here: the first worker goes on alone
                    self.lost = self.LOSSES
                    lock.release()
                return
            lock.release()

    def _saves(self, first):
        """Whether one more worker would save as many seconds as it should."""
        key, workers = first.watcher.key, 1 + len(self.workers)
        start = first.watcher.start_seconds or self._start
        if not key or not start or first.watcher.waiting:
            return False
        if self._board is None:
            book = journal.Journal(self.supervisor.book.path, key, self.supervisor.attempt)
            self._board = journal.Board(book, "--fresh" not in self.supervisor.arguments)
        left = self._board.refresh().untouched()
        if len(left) <= workers:
            return False
        seconds = self._seconds_of(left)
        # Alone they take seconds / workers; with one more, (seconds + start) / (workers + 1).
        return (seconds - workers * start) / (workers * (workers + 1)) >= self.supervisor.limits.split

    def _seconds_of(self, points):
        measured = {one: record["seconds"] for one, record in self._board.points.items() if record.get("seconds")}
        return estimate.of_points(points, {**self._history, **measured})


_LIBC = ctypes.CDLL(None)


def _die_with_parent():
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def write_from_journal(kernel, output, journal_dir, key, attempt, status, reason, settings, resume=True):
    """CSV and sidecar of a run whose worker cannot write them. status None: judged from the points."""
    book = journal.Journal(journal.path_of(journal_dir, kernel), key, attempt)
    device = next((record.get("device") for record in book.records("attempt")), "") if key else ""
    board = journal.Board(book, resume)
    if key:
        board.refresh()
    measured = peaks.load(journal_dir, device) if device else None
    table = None
    with contextlib.suppress(hardware.HardwareError):
        table = hardware.for_device(device, settings.hardware) if device else None
    table = table or hardware.from_peaks(device, measured)
    known = [record["run"] for record in book.records("ready", attempt=attempt) if record.get("run")] if key else []
    records = []
    for identity in board.plan or ():
        record = board.points.get(identity)
        if record is None:
            where = dict(zip(("op", "phase", "B", "S", "L"), identity, strict=True))
            record = {**where, "status": status or "failed", "reason": reason}
        records.append(
            results.finish({**journal.bare(record), "type": "point", "kernel": kernel}, settings.cache, table, measured)
        )
    rows = [results.from_record(record) for record in records if record["status"] == "ok"]
    if status is None or rows:
        status = overall(records)[0]
    provenance = {"gpu": {"name": device} if device else None, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    run = {
        "provenance": provenance,
        **(known[-1] if known else {}),
        "kernel": kernel,
        "status": status,
        "reason": reason,
        "measured": len(rows),
        "asked": len(records),
        "not_applicable": 0,
        "cache": settings.cache,
        "hardware": table.as_record() if table else {"name": settings.hardware},
        "measured_peaks": measured,
        "written_by": "supervisor",
    }
    checks = [{**journal.bare(check), "type": "check"} for check in board.checks.values()]
    results.write(output, kernel, run, [*checks, *records], rows)


def supervise(options, arguments):
    """Take a GPU and run the script on it; returns the exit code."""
    visible = gpus.visible()
    chosen = gpus.choose(visible, options.gpus)
    limits = Limits(options.start_timeout, options.first_timeout, options.point_timeout, options.crashes, options.split)

    def say(text):
        print(text, file=sys.stderr, flush=True)

    with gpus.take_one(chosen, options.busy, options.gpu_timeout, say=say) as lock:
        others = [gpu for gpu in chosen if lock and gpu != lock.gpu and gpu.name == lock.gpu.name]
        supervisor = Supervisor(options.script, options.output, arguments, options.journal, limits, lock, others)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, supervisor.stop)
        return supervisor.run()


def add_arguments(parser):
    """Options that run_all_benchmarks.py has as well."""
    parser.add_argument("--gpus", default=os.environ.get("ROOFBENCH_GPUS"), help="such as 0,2; default: all visible")
    busy = os.environ.get("ROOFBENCH_BUSY") or "report"
    parser.add_argument("--busy", choices=gpus.POLICIES, default=busy, help=f"if others use a GPU: default {busy}")
    parser.add_argument("--gpu-timeout", type=positive, help="seconds to wait for a GPU; default: no limit")
    parser.add_argument("--start-timeout", type=positive, default=Limits.start, help="seconds for imports")
    parser.add_argument("--first-timeout", type=positive, default=Limits.first, help="seconds for the first point")
    parser.add_argument("--point-timeout", type=positive, default=Limits.point, help="seconds for any other point")
    split = os.environ.get(SPLIT) or f"{Limits.split:g}"
    helped = f"let an idle GPU help where that saves so many seconds (default {split}; 0: never)"
    parser.add_argument("--split", type=not_negative, default=split, metavar="SECONDS", help=helped)
    parser.add_argument("--crashes", type=at_least_one, default=Limits.crashes, help="give up after so many in a row")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="All other options go to the script.", allow_abbrev=False
    )
    parser.add_argument("--script", required=True, metavar="FILE")
    parser.add_argument("--output", default="results", metavar="DIR")
    parser.add_argument("--journal", metavar="DIR", help="default: journal/ beside the output folder")
    add_arguments(parser)
    options, rest = parser.parse_known_args(arguments)
    if not Path(options.script).is_file():
        parser.error(f"{options.script}: there is no such file")
    try:
        return supervise(options, rest)
    except (gpus.GpuBusy, journal.JournalBusy, ValueError) as error:
        print(f"{Path(options.script).stem}: {error}", file=sys.stderr)
        return EXIT_BUSY
    except OSError as error:
        print(f"{Path(options.script).stem}: {no_room(error, options.output)}", file=sys.stderr)
        return EXIT_DISK


if __name__ == "__main__":
    sys.exit(main())
