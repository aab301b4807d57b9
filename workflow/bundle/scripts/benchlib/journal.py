"""What was measured, as it is measured: one JSON line at a time, on disk before the next point begins.

One file for each kernel, append-only. Every record carries the key of what it depends on (script, measuring code,
settings, software stack, device); a run sees only records of its own key. Torn lines are skipped.

Records: "attempt" (a worker begins), "plan" (the points of the run), "ready" (the kernel is there), "check" and
"start" (work on a check or a point begins), "check_end" and "point" (it ended, with its status), "left" (it did
not: left to another worker), "waiting" (for another worker's last point), "end" (with the status of the whole
run). A "start" without an end is where a process died.

Several workers of one attempt may write at the same time, each on a GPU of its own: see `Board`.
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
    return _parsed(_bytes(path, offset))


def read_whole(path, offset=0):
    """(records, the next offset) up to the last line that is whole by now."""
    data = _bytes(path, offset)
    whole = data.rfind(b"\n") + 1
    return list(_parsed(data[:whole])), offset + whole


def _bytes(path, offset):
    try:
        with open(path, "rb") as stream:
            stream.seek(offset)
            return stream.read()
    except FileNotFoundError:
        return b""


def _parsed(data):
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


class Journal:
    """Appending and reading back; path None keeps records in memory only (nothing is resumed).

    worker: who writes, by process id; a supervisor writes in the name of a worker that died.
    """

    def __init__(self, path, key="", attempt="", worker=None):
        self.path = Path(path) if path else None
        self.key, self.attempt, self.worker = key, attempt, worker or os.getpid()
        self.memory, self._file = [], None

    @property
    def fd(self):
        """Descriptor of the open file; whoever inherits it keeps the journal locked."""
        return self._file

    def open(self, lock=True):
        """Begin to write. Raises JournalBusy while another run has it locked; without `lock`, a supervisor has."""
        if self.path is None:
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        if lock:
            self._lock()
        return self

    def _lock(self):
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            self._file = None
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise JournalBusy(f"{self.path}: another run is measuring this kernel into the same results") from None
            # A file system without locks: measure on, unguarded.
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)

    def close(self):
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def append(self, type, **fields):
        """Write one record; it is on disk when this returns. A full disk raises OSError."""
        record = {"type": type, "key": self.key, "attempt": self.attempt, "worker": self.worker}
        record = results.finite({**record, "time": round(time.time(), 3), **fields})
        if self.path is None:
            self.memory.append(record)
            return record
        if self._file is None:
            raise RuntimeError(f"{self.path}: the journal is not open")
        data = (json.dumps(record, default=str) + "\n").encode()
        while not self._write(data):
            data = data if data.startswith(b"\n") else b"\n" + data
        os.fsync(self._file)
        return record

    def _write(self, data):
        """Append; false where this continued a line that somebody was killed in."""
        written = os.write(self._file, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        before = os.lseek(self._file, 0, os.SEEK_CUR) - written - 1
        return data.startswith(b"\n") or before < 0 or os.pread(self._file, 1, before) == b"\n"

    def records(self, *types, attempt=None):
        """Records of this key, of the given types and attempt, oldest first."""
        source = self.memory if self.path is None else read(self.path)
        for record in source:
            fits = record.get("key") == self.key and (attempt is None or record.get("attempt") == attempt)
            if fits and (not types or record.get("type") in types):
                yield record


class Board:
    """What the workers of an attempt have planned, begun and ended, as far as the journal tells.

    points and checks hold the records that need no more work, by identity. What is measured stays measured; what
    failed is tried again in a later attempt, not in the same one. A check that did not fit into memory goes on with
    a smaller point and is not over. resume False: earlier attempts do not count.

    Two workers that begin the same thing at once append their records one after the other: the first in the file has
    it, and both see that. This needs no lock, only appending that is atomic among the processes of one host.
    """

    def __init__(self, journal, resume=True):
        self.journal, self.resume = journal, resume
        self.points, self.checks, self.plan, self.incorrect = {}, {}, None, None
        self.workers = {}
        self._owners, self._offset = {}, 0

    def refresh(self):
        """Read what is new; returns self."""
        for record in self._news():
            if record.get("key") == self.journal.key:
                with contextlib.suppress(KeyError, TypeError):  # a record that somebody edited
                    self._take(record)
        return self

    def _news(self):
        if self.journal.path is None:
            records = self.journal.memory[self._offset :]
            self._offset += len(records)
            return records
        records, self._offset = read_whole(self.journal.path, self._offset)
        return records

    def _take(self, record):
        kind, now = record.get("type"), record.get("attempt") == self.journal.attempt
        if kind in ("point", "check_end"):
            if now or (self.resume and record["status"] == "ok"):
                self._end(kind, record, now)
        elif now and kind in ("start", "check"):
            identity = _named(record)
            if not self.over(identity):
                self._owners.setdefault(identity, record.get("worker"))
        elif now and kind == "left":
            identity = _named(record)
            if self._owners.get(identity) == record.get("worker"):
                del self._owners[identity]
        elif now and kind == "plan":
            self.plan = [tuple(identity) for identity in record["points"]]
        elif now and kind == "attempt":
            self.workers[record.get("worker")] = record

    def _end(self, kind, record, now):
        identity = _named(record)
        if now:
            self._owners.pop(identity, None)
        if kind == "point":
            self.points[identity] = record
        elif record["status"] != "oom":
            self.checks[identity] = record
            if now and record["status"] == "incorrect":
                self.incorrect = record

    def over(self, identity):
        """Whether a point or a check needs no more work."""
        return identity in self.points or identity in self.checks

    def elsewhere(self, identity):
        """Whether another worker is at a point or a check."""
        return self._owners.get(identity, self.journal.worker) != self.journal.worker

    def begin(self, kind, **fields):
        """Put "start" or "check" on record; false where another worker was first."""
        identity = _named(fields)
        if self.refresh().over(identity) or self.elsewhere(identity):
            return False
        self.journal.append(kind, **fields)
        if self.refresh().over(identity) or self.elsewhere(identity):
            self.journal.append("left", **fields)
            return False
        return True

    def untouched(self):
        """Points of the plan that nobody has begun."""
        return [one for one in self.plan or () if one not in self.points and one not in self._owners]


def _named(record):
    """What a record is about: a point's identity, or op, phase and size of a check."""
    return (record["op"], record["phase"], record["size"]) if "size" in record else identity_of(record)


def bare(record):
    """A record without what the journal adds to it."""
    return {name: value for name, value in record.items() if name not in ("key", "attempt", "time", "worker")}


def identity_of(record):
    """(op, phase, B, S, L): what tells the points of one kernel apart."""
    return (record["op"], record["phase"], record["B"], record["S"], record["L"])
