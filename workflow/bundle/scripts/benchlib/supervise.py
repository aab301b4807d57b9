#!/usr/bin/env python3
"""Run a benchmark script as a worker, on a GPU of its own, and live through whatever happens to it.

    python supervise.py --script scripts/bench_rmsnorm.py --output results [--gpus 0,2] [options of the script]

A point that kills its worker, or hangs, is put on record with the reason, and a new worker goes on with the next
point. However this ends, {kernel}.csv and {kernel}.jsonl are there; the exit code is 0 for every recorded status.
"""

import argparse
import contextlib
import ctypes
import json
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

from benchlib import gpus, hardware, journal, peaks, results
from benchlib.arguments import at_least_one, positive
from benchlib.status import ATTEMPT, EXIT_BUSY, EXIT_DISK, EXIT_RESTART, no_room, overall

POLL = 0.1
GRACE = 20.0
PR_SET_PDEATHSIG = 1


@dataclass
class Limits:
    """Seconds without progress after which a worker is killed, and how many dead workers in a row are enough.

    start covers imports and everything up to the first point; first the first check or point of a worker, in which a
    kernel may be compiled; point every other one.
    """

    start: float = 900.0
    first: float = 900.0
    point: float = 120.0
    crashes: int = 4


class Watcher:
    """Follows the journal: what the worker is doing now, and since when."""

    def __init__(self, path, attempt):
        self.path, self.attempt = path, attempt
        self.offset = path.stat().st_size if path.exists() else 0
        self.pending, self.last, self.key = None, time.monotonic(), None
        self.ended = self.measured = 0
        self.ready = self.finished = False

    def new_worker(self):
        self.pending, self.last, self.ready, self.ended = None, time.monotonic(), False, 0

    def poll(self):
        """Read new records; true where there were any."""
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self.offset)
                data = stream.read()
        except FileNotFoundError:
            return False
        whole = data.rfind(b"\n") + 1
        self.offset += whole
        for line in data[:whole].splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and record.get("attempt") == self.attempt:
                self._take(record)
        return whole > 0

    def _take(self, record):
        self.last, self.key = time.monotonic(), record.get("key")
        kind = record["type"]
        if kind in ("start", "check"):
            self.pending = record
        elif kind in ("point", "check_end"):
            self.pending = None
            self.ended += 1
            self.measured += kind == "point" and record["status"] == "ok"
        elif kind == "ready":
            self.ready = True
        elif kind == "end":
            self.pending, self.finished = None, True

    def limit(self, limits):
        """(seconds, what they are for) of what is going on now."""
        if not self.ready or (self.pending is None and not self.ended):
            return limits.start, "starting"
        return (limits.point, "a point") if self.ended else (limits.first, "the first point")


class Supervisor:
    """One script from its first worker to its results."""

    def __init__(self, script, output, arguments=(), journal_dir=None, limits=None, lock=None, environment=None):
        self.script, self.output = Path(script).resolve(), Path(output).resolve()
        self.kernel = self.script.stem.removeprefix("bench_")
        self.journal_dir = Path(journal_dir).resolve() if journal_dir else self.output.parent / "journal"
        self.journal_path = journal.path_of(self.journal_dir, self.kernel)
        self.arguments, self.limits, self.lock = list(arguments), limits or Limits(), lock
        self.environment = dict(os.environ if environment is None else environment)
        self.attempt = f"{time.time():.3f}-{os.getpid()}"
        self.tail = deque(maxlen=40)
        self.worker = self.signal = None
        self.give_up = None

    def run(self):
        """Work until the script has said its last word, or there is no sense in going on. Returns the exit code."""
        watcher = Watcher(self.journal_path, self.attempt)
        crashes = 0
        while True:
            watcher.new_worker()
            measured = watcher.measured
            code, reason = self._one_worker(watcher)
            if self.signal:
                return 128 + self.signal
            if code == 0 and reason is None:
                return 0
            if code == EXIT_BUSY:
                sys.stderr.write("".join(self.tail))
                return EXIT_BUSY
            if code == EXIT_DISK:
                return EXIT_DISK
            status = "timeout" if reason else "failed"
            reason = reason or self._describe_exit(code)
            blamed = self._blame(watcher, status, reason) if code != EXIT_RESTART or watcher.pending else True
            crashes = 1 if watcher.measured > measured else crashes + 1
            if code == 2 and not watcher.key:
                return self._finish("failed", reason, watcher)
            if not blamed and crashes >= 2:
                return self._finish(status, reason, watcher)
            if crashes >= self.limits.crashes:
                text = f"gave up after {crashes} workers in a row died: {reason}"
                return self._finish(status if not watcher.measured else None, text, watcher)

    # One worker.

    def _one_worker(self, watcher):
        """(exit code, reason): reason is given where the worker had to be killed."""
        command = [sys.executable, str(self.script), "--output", str(self.output), "--journal", str(self.journal_dir)]
        environment = {**self.environment, ATTEMPT: self.attempt, "PYTHONUNBUFFERED": "1"}
        if self.lock:
            # By number, in the driver's order: some packages cannot read UUIDs here.
            environment["CUDA_VISIBLE_DEVICES"] = str(self.lock.gpu.index)
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        self.worker = subprocess.Popen(
            command + self.arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=[self.lock.fd] if self.lock else [],
            preexec_fn=_die_with_parent,
        )
        reader = threading.Thread(target=self._pass_on, args=(self.worker.stdout,), daemon=True)
        reader.start()
        reason = self._watch(watcher)
        reader.join(timeout=5)
        watcher.poll()
        return self.worker.returncode, reason

    def _pass_on(self, stream):
        for line in stream:
            self.tail.append(line)
            sys.stderr.write(line)
            sys.stderr.flush()

    def _watch(self, watcher):
        while True:
            try:
                self.worker.wait(POLL)
                self._kill_group(signal.SIGKILL)  # compilers and other children that it left
                return None
            except subprocess.TimeoutExpired:
                pass
            watcher.poll()
            if self.signal:
                self._end(self.signal)
                return None
            seconds, what = watcher.limit(self.limits)
            if time.monotonic() - watcher.last > seconds:
                self._end(signal.SIGKILL)
                return f"no progress for {seconds:.0f} s, the limit for {what}"

    def _end(self, number):
        """Ask the worker to end, and see to it that it does."""
        self._kill_group(number)
        try:
            self.worker.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
        self._kill_group(signal.SIGKILL)
        self.worker.wait()

    def _kill_group(self, number):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.worker.pid, number)

    def stop(self, number, frame=None):
        """Signal handler: pass the signal on; what was measured is in the journal."""
        self.signal = number

    def _describe_exit(self, code):
        last = next((line.strip() for line in reversed(self.tail) if line.strip()), "")
        said = f"; it said: {last[:300]}" if last else ""
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            hint = " (out of memory, or killed from outside)" if code == -signal.SIGKILL else ""
            return f"the worker was killed by {name}{hint}{said}"
        return f"the worker ended with exit code {code}{said}"

    # What became of it.

    def _blame(self, watcher, status, reason):
        """Put the point or check in flight on record. False where none was in flight."""
        if watcher.pending is None:
            return False
        kept = {name: value for name, value in journal.bare(watcher.pending).items() if name != "type"}
        kind = "point" if watcher.pending["type"] == "start" else "check_end"
        if kind == "point":
            kept = {"kernel": self.kernel, **kept}
        with contextlib.closing(journal.Journal(self.journal_path, watcher.key, self.attempt)) as book:
            _open_patiently(book).append(kind, **kept, status=status, reason=reason)
        watcher.poll()
        return True

    def _finish(self, status, reason, watcher):
        """Write the results from the journal, because no worker will."""
        write_from_journal(self.kernel, self.output, self.journal_dir, watcher.key, self.attempt, status, reason,
                           self._settings())  # fmt: skip
        print(f"{self.kernel}: {reason}", file=sys.stderr)
        return 0

    def _settings(self):
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("--hardware", default=hardware.AUTO)
        parser.add_argument("--cache", default="cold")
        return parser.parse_known_args(self.arguments)[0]


def _open_patiently(book, seconds=10.0):
    """Open a journal whose last writer was killed a moment ago."""
    end = time.monotonic() + seconds
    while True:
        try:
            return book.open()
        except journal.JournalBusy:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


_LIBC = ctypes.CDLL(None)


def _die_with_parent():
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def write_from_journal(kernel, output, journal_dir, key, attempt, status, reason, settings):
    """CSV and sidecar of a run whose worker cannot write them. status None: judged from the points."""
    book = journal.Journal(journal.path_of(journal_dir, kernel), key, attempt)
    device = next((record.get("device") for record in book.records("attempt")), "") if key else ""
    planned = [record["points"] for record in book.records("plan", attempt=attempt)] if key else []
    done = journal.finished_points(book) if key else {}
    measured = peaks.load(journal_dir, device) if device else None
    table = None
    with contextlib.suppress(hardware.HardwareError):
        table = hardware.for_device(device, settings.hardware) if device else None
    table = table or hardware.from_peaks(device, measured)
    known = [record.get("run") for record in book.records("ready", attempt=attempt)] if key else []
    checks = journal.finished_checks(book).values() if key else []
    records = []
    for identity in map(tuple, planned[-1] if planned else []):
        record = done.get(identity)
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
        **((known[-1] if known else None) or {}),
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
    checks = [{**journal.bare(check), "type": "check"} for check in checks]
    results.write(output, kernel, run, [*checks, *records], rows)


def supervise(options, arguments):
    """Take a GPU and run the script on it; returns the exit code."""
    visible = gpus.visible()
    chosen = gpus.choose(visible, options.gpus)
    limits = Limits(options.start_timeout, options.first_timeout, options.point_timeout, options.crashes)

    def say(text):
        print(text, file=sys.stderr, flush=True)

    with gpus.take_one(chosen, options.busy, options.gpu_timeout, say=say) as lock:
        supervisor = Supervisor(options.script, options.output, arguments, options.journal, limits, lock)
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
    except (gpus.GpuBusy, ValueError) as error:
        print(f"{Path(options.script).stem}: {error}", file=sys.stderr)
        return EXIT_BUSY
    except OSError as error:
        print(f"{Path(options.script).stem}: {no_room(error, options.output)}", file=sys.stderr)
        return EXIT_DISK


if __name__ == "__main__":
    sys.exit(main())
