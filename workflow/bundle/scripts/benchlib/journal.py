"""What was measured, as it is measured: one JSON line at a time, on disk before the next point begins.

One file for each kernel, append-only. Every record carries the key of what it depends on (script, measuring code,
settings, software stack, device); a run sees only records of its own key. Torn lines are skipped.

Records: "attempt" (a run begins), "plan" (its points), "ready" (the kernel is there), "check" and "start" (work on a
check or a point begins), "check_end" and "point" (it ended, with its status), "note" (launch floor), "end" (with the
status of the whole run). A "start" without an end is where a process died.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path

from benchlib import results

LIBRARY = Path(__file__).resolve().parent

# Editing one of these changes what is measured; the rest only reports it.
MEASURING = (
    "check.py",
    "moe.py",
    "nvfp4.py",
    "paged.py",
    "point.py",
    "random_inputs.py",
    "resolve.py",
    "runtime.py",
    "sets.py",
    "timing.py",
)


class JournalBusy(Exception):
    """Another process is writing this journal."""


def key(script, catalogue, config, stack, device, output_name=""):
    """Short hash of everything that a measurement depends on."""
    files = [
        Path(script or "unknown"),
        LIBRARY.parent / "references" / f"{catalogue}.py",
        *(LIBRARY / name for name in MEASURING),
    ]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "" for path in files]
    text = json.dumps([hashes, config, stack, device, output_name], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def path_of(journal_dir, kernel):
    """The journal's file."""
    return Path(journal_dir) / f"{kernel}.jsonl"


def read(path, offset=0):
    """Records of a journal from a byte offset; whatever is not a whole JSON object on a line of its own is skipped."""
    try:
        with open(path, "rb") as stream:
            stream.seek(offset)
            data = stream.read()
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


class Journal:
    """Appending and reading back; path None keeps records in memory only (nothing is resumed)."""

    def __init__(self, path, key="", attempt=""):
        self.path = Path(path) if path else None
        self.key, self.attempt = key, attempt
        self._memory, self._file = [], None

    def open(self):
        """Begin to write. Raises JournalBusy while another process has it open."""
        if self.path is None:
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            self._file = None
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise JournalBusy(f"{self.path}: another run is measuring this kernel into the same results") from None
            # A file system without locks: measure on, unguarded.
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")
        return self

    def close(self):
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def append(self, type, **fields):
        """Write one record; it is on disk when this returns. A full disk raises OSError."""
        record = {"type": type, "key": self.key, "attempt": self.attempt, "time": round(time.time(), 3), **fields}
        record = results.finite(record)
        if self.path is None:
            self._memory.append(record)
            return record
        if self._file is None:
            raise RuntimeError(f"{self.path}: the journal is not open")
        data = (json.dumps(record, default=str) + "\n").encode()
        written = os.write(self._file, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._file)
        return record

    def records(self, *types, attempt=None):
        """Records of this key, of the given types and attempt, oldest first."""
        source = self._memory if self.path is None else read(self.path)
        for record in source:
            fits = record.get("key") == self.key and (attempt is None or record.get("attempt") == attempt)
            if fits and (not types or record.get("type") in types):
                yield record


def finished_points(journal, resume=True):
    """Records of points that need no more work, by point identity.

    A measured point stays measured. A point that failed is tried again in a later attempt, not in the same one.
    resume False: earlier attempts do not count.
    """
    return {identity_of(record): record for record in _finished(journal, "point", resume)}


def finished_checks(journal, resume=True):
    """Records of checks that need no more work, by op, phase and size: as with points."""
    return {(r["op"], r["phase"], r["size"]): r for r in _finished(journal, "check_end", resume)}


def _finished(journal, kind, resume):
    for record in journal.records(kind):
        if record["attempt"] == journal.attempt or (resume and record["status"] == "ok"):
            yield record


def bare(record):
    """A record without what the journal adds to it."""
    return {name: value for name, value in record.items() if name not in ("key", "attempt", "time")}


def identity_of(record):
    """(op, phase, B, S, L): what tells the points of one kernel apart."""
    return (record["op"], record["phase"], record["B"], record["S"], record["L"])
