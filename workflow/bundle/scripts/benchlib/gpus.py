"""One benchmark on a GPU at a time: which GPUs are visible, a lock for each, and who else is on them.

The lock is a flock on a file named after the GPU's UUID, in a folder that all users of the host share. The kernel
drops it when its last holder is gone, however that ended. The worker inherits it: as long as a worker is on the GPU,
the GPU stays taken, even when its supervisor was killed.

A second file for each GPU tells whether a benchmark waits for it: those that wait share a lock on it. A worker that
only helps with another benchmark's points gives way to them.
"""

import contextlib
import errno
import fcntl
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchlib import nvml
from benchlib.status import NO_ROOM

LOCK_DIR = "ROOFBENCH_LOCK_DIR"
# In a worker's environment: key of the GPU that its supervisor holds.
HELD = "ROOFBENCH_GPU"
POLICIES = ("report", "wait", "refuse")


class GpuBusy(Exception):
    """No GPU may be used now; the message says who holds what."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of this host: index and UUID as the driver has them."""

    index: int
    uuid: str
    name: str

    @property
    def key(self):
        """What its files in the folder of the locks are named after."""
        return self.uuid or str(self.index)


def all_gpus():
    """Every GPU of the host (of the container, of the job's cgroup), in the driver's order; empty without a driver."""
    try:
        library = nvml.Library.get()
        handles = [(index, library.handle(index)) for index in range(library.count())]
        return [Gpu(index, library.uuid(handle), library.name(handle)) for index, handle in handles]
    except (OSError, AttributeError):
        return _from_smi()


def _from_smi():
    command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ", 2) for line in found.splitlines() if line.count(", ") >= 2]
    return [Gpu(int(index), uuid, name) for index, uuid, name in rows]


def visible(environment=None):
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; as CUDA does, what follows a wrong entry is hidden."""
    found = all_gpus()
    text = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return found
    chosen = []
    for entry in (entry.strip() for entry in text.split(",")):
        gpu = next((gpu for gpu in found if _is(gpu, entry)), None)
        if gpu is None:
            break
        if gpu not in chosen:
            chosen.append(gpu)
    return chosen


def _is(gpu, entry):
    return gpu.index == int(entry) if entry.isdigit() else bool(entry) and gpu.uuid.startswith(entry)


def choose(gpus, wanted):
    """Those of `gpus` that `wanted` names ("0,2", positions among the visible ones, or UUIDs); all where it is None.

    Raises ValueError for one that is not there.
    """
    if wanted in (None, "", "all"):
        return gpus
    chosen = []
    for entry in (entry.strip() for entry in str(wanted).split(",")):
        if not entry.isdecimal() and not entry.startswith("GPU-"):
            raise ValueError(f"{entry!r} is not a GPU number (expected e.g. 0,2)")
        if entry.isdecimal() and int(entry) < len(gpus):
            gpu = gpus[int(entry)]
        else:
            gpu = next((gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)), None)
        if gpu is None:
            raise ValueError(f"GPU {entry} is asked for, but the visible GPUs are 0 to {len(gpus) - 1}" if gpus else
                             f"GPU {entry} is asked for, but no GPU is visible")  # fmt: skip
        if gpu not in chosen:
            chosen.append(gpu)
    return chosen


def lock_dir():
    """The folder of the locks, made if need be; writable for everybody on the host."""
    folder = Path(os.environ.get(LOCK_DIR) or "/tmp/roofbench-gpu-locks")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        with contextlib.suppress(OSError):
            folder.chmod(0o1777)
    return folder


def _open(key, kind):
    """Open a GPU's file of the folder of the locks. Raises GpuBusy where that cannot be."""
    previous = os.umask(0)
    try:
        path = lock_dir() / f"{key}.{kind}"
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            if not path.exists():
                raise
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # another user's file; a read lock on it excludes as well
    except OSError as error:
        if error.errno in NO_ROOM and error.errno != errno.EROFS:
            raise
        raise GpuBusy(f"the lock of GPU {key} cannot be opened: {error}. {LOCK_DIR} names another folder") from None
    finally:
        os.umask(previous)


def _locked(fd, how):
    """Lock an open file, or return False while others' locks do not allow it."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


class Lock:
    """A GPU that is held by this process and by those that inherit `fd`."""

    def __init__(self, gpu, fd):
        self.gpu, self.fd = gpu, fd

    @classmethod
    def try_take(cls, gpu):
        """The lock, or None while another process holds it."""
        fd, taken = _open(gpu.key, "lock"), False
        try:
            taken = _locked(fd, fcntl.LOCK_EX)
        finally:
            if not taken:
                os.close(fd)
        if not taken:
            return None
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(gpu, fd)

    def release(self):
        os.close(self.fd)


def holder(gpu):
    """Process id that took the lock last, or None."""
    try:
        return int((lock_dir() / f"{gpu.key}.lock").read_text().strip() or 0) or None
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def awaiting(gpus):
    """Let it be known that a benchmark waits for one of these GPUs."""
    with contextlib.ExitStack() as stack:
        for gpu in gpus:
            with contextlib.suppress(GpuBusy, OSError):  # nobody gives way then
                fd = _open(gpu.key, "waiting")
                stack.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_SH)  # who asks whether somebody waits holds it for a moment only
        yield


def is_awaited(key):
    """Whether a benchmark waits for a GPU, by its key; false for no GPU."""
    try:
        fd = _open(key, "waiting") if key else None
    except (GpuBusy, OSError):
        fd = None
    if fd is None:
        return False
    try:
        return not _locked(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


@contextlib.contextmanager
def take_one(gpus, policy="report", timeout=None, poll=0.5, say=lambda text: None):
    """Hold one of the GPUs: the first that is free. Yields the Lock, or None where the list is empty.

    Locks of other benchmarks are always waited for, at most `timeout` seconds. What other programs do on a GPU is
    said (policy "report"), waited for ("wait") or a reason to raise GpuBusy ("refuse").
    """
    if not gpus:
        yield None
        return
    with contextlib.ExitStack() as queue:
        lock = _wait(gpus, policy, timeout, poll, say, lambda: queue.enter_context(awaiting(gpus)))
    try:
        yield lock
    finally:
        lock.release()


def _wait(gpus, policy, timeout, poll, say, queue_up):
    start, said, queued = time.monotonic(), set(), False

    def tell(text):
        if text not in said:
            said.add(text)
            say(text)

    while True:
        reasons = []
        for gpu in gpus:
            lock = Lock.try_take(gpu)
            if lock is None:
                reasons.append(f"GPU {gpu.index} is held by another benchmark (process {holder(gpu) or 'unknown'})")
                continue
            strangers = users(gpu)
            if not strangers:
                return lock
            text = f"GPU {gpu.index} is in use by {strangers}"
            if policy == "report":
                tell(f"{text}: its numbers may be wrong")
                return lock
            lock.release()
            reasons.append(text)
        if policy == "refuse" and all("in use by" in reason for reason in reasons):
            raise GpuBusy("; ".join(reasons))
        if timeout is not None and time.monotonic() - start >= timeout:
            raise GpuBusy(f"no GPU became free in {timeout:.0f} s: {'; '.join(reasons)}")
        tell(f"waiting: {'; '.join(reasons)}")
        if not queued:
            queued = True
            queue_up()
        time.sleep(poll)


def users(gpu):
    """Who computes on a GPU apart from this process: "process 123, 456", or "" where nobody does or nobody can tell."""
    try:
        library = nvml.Library.get()
        pids = [pid for pid in library.processes(library.handle_by_uuid(gpu.uuid)) if pid != os.getpid()]
    except (OSError, AttributeError):
        return ""
    return f"process {', '.join(map(str, sorted(set(pids))))}" if pids else ""
