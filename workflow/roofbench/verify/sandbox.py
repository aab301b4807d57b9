"""Run a function in a forked process that cannot harm the machine or outlive its limits.

The child has limits of CPU time, memory and file size, writes files only below its own folder, starts no process,
opens no socket, and is stopped when it runs too long or floods its output. What it returns comes back as a pickle.
"""

import _thread
import contextlib
import os
import pickle
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass

SECONDS = 120
MEMORY = 6 << 30
FILE_SIZE = 64 << 20
OUTPUT = 1 << 20
RESULT = 256 << 20

_MARK = b"roofbench-result\n"

_DENIED = {
    "os.system": "starts a process",
    "os.exec": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.spawn": "starts a process",
    "os.fork": "forks",
    "os.forkpty": "forks",
    "pty.spawn": "starts a process",
    "subprocess.Popen": "starts a process",
    "socket.__new__": "opens a socket",
    "socket.connect": "opens a connection",
    "socket.bind": "opens a socket",
    "os.kill": "sends a signal",
    "os.killpg": "sends a signal",
    "os.chdir": "changes the working directory",
    # Behind these, nothing that a script does is seen.
    "ctypes.dlopen": "loads a library with ctypes",
    "ctypes.dlsym": "calls a library with ctypes",
}
_CHANGES = {
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "shutil.rmtree": (0,),
}


@dataclass
class Outcome:
    """What became of a child. problem is None, or one of time, memory, flood, exit, error; `value` is its result."""

    value: object = None
    problem: str | None = None
    detail: str = ""
    output: str = ""


class Child:
    """One forked process. poll() must be called until it returns an Outcome."""

    def __init__(self, function, seconds=SECONDS, memory=MEMORY):
        self.folder = tempfile.mkdtemp(prefix="roofbench-")
        self.deadline = time.monotonic() + seconds
        self.seconds = seconds
        self.result = bytearray()
        self.output = bytearray()
        self.problem = None
        self.detail = ""
        result_read, result_write = os.pipe()
        output_read, output_write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        leave = os._exit
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(result_read)
                os.close(output_read)
                _enter(self.folder, output_write, seconds, memory)
                _run(function, self.folder, result_write)
            finally:
                leave(70)
        os.close(result_write)
        os.close(output_write)
        self.selector = selectors.DefaultSelector()
        self.selector.register(result_read, selectors.EVENT_READ, self.result)
        self.selector.register(output_read, selectors.EVENT_READ, self.output)

    def step(self, timeout):
        """Read what is there, for at most `timeout` seconds. True once the child has closed everything."""
        for key, _ in self.selector.select(timeout):
            data = os.read(key.fd, 1 << 16)
            if not data:
                self.selector.unregister(key.fd)
                os.close(key.fd)
                continue
            key.data.extend(data)
        if len(self.output) > OUTPUT and not self.problem:
            self._stop("flood", f"more than {OUTPUT >> 20} MiB of output")
        if len(self.result) > RESULT and not self.problem:
            self._stop("flood", "its result is too large")
        if time.monotonic() > self.deadline and not self.problem:
            self._stop("time", f"not finished after {self.seconds:g} s")
        return not self.selector.get_map() or self.problem is not None

    def _stop(self, problem, detail):
        self.problem, self.detail = problem, detail
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def finish(self):
        """Reap the child, remove its folder and say what became of it."""
        for fd in list(self.selector.get_map()):
            os.close(fd)
        self.selector.close()
        if self.problem is None:
            # It closed its pipes; it may still be running.
            for _ in range(200):
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                time.sleep(0.01)
            else:
                self._stop("time", "did not end after its output was closed")
        # What it left behind goes with it; until it is reaped, the number of its group is its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        shutil.rmtree(self.folder, ignore_errors=True)
        output = bytes(self.output[-4000:]).decode(errors="replace")
        if self.problem:
            return Outcome(None, self.problem, self.detail, output)
        if self.result.startswith(_MARK):
            try:
                value = pickle.loads(bytes(self.result[len(_MARK) :]))
                return Outcome(value, None, "", output)
            except Exception as error:  # a truncated pickle can raise anything
                return Outcome(None, "exit", f"its result is broken ({type(error).__name__})", output)
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGXCPU:
            return Outcome(None, "time", f"used up its CPU time, {int(self.seconds / 2)} s", output)
        if code == -signal.SIGXFSZ:
            return Outcome(None, "files", f"wrote a file of more than {FILE_SIZE >> 20} MiB", output)
        if code < 0:
            return Outcome(None, "exit", f"was ended by signal {signal.Signals(-code).name}", output)
        return Outcome(None, "exit", f"ended the process itself, with status {code}", output)


def run(functions, seconds=SECONDS, memory=MEMORY, together=2):
    """Outcomes of several functions, each in a child of its own, at most `together` at a time."""
    waiting = list(enumerate(functions))
    running, outcomes = {}, {}
    while waiting or running:
        while waiting and len(running) < together:
            index, function = waiting.pop(0)
            running[index] = Child(function, seconds, memory)
        for index, child in list(running.items()):
            if child.step(0.05 if len(running) > 1 else 0.5):
                outcomes[index] = child.finish()
                del running[index]
    return [outcomes[index] for index in range(len(functions))]


def _enter(folder, output, seconds, memory):
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    # Whatever stood in for them in the parent, output goes to the pipe.
    sys.stdin = open(0, closefd=False)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, errors="replace", closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.umask(0o077)
    os.environ.update(HOME=folder, TMPDIR=folder, MPLCONFIGDIR=folder)
    tempfile.tempdir = folder
    sys.dont_write_bytecode = True
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # All other limits are for a busy machine; no script computes for half that long.
    cpu = int(seconds / 2) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    with open("/proc/self/statm") as stream:
        present = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (present + memory, present + memory))


def _leave(*status):
    """In place of os._exit: it would end the process without a word."""
    violations.append(("ends the process with os._exit", _lines()))
    raise SystemExit(f"os._exit({', '.join(map(repr, status))})")


class Denied(PermissionError):
    """What a script under verification must not do."""


# What was done, and the (file, line) of those who did it, innermost first.
violations = []


def _lines():
    found, frame = [], sys._getframe(2)
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found


def _guard(folder):
    """An audit hook that allows reading anything and changing only what lies below a folder."""
    folder = os.path.realpath(folder)
    busy = False

    def deny(text):
        violations.append((text, _lines()))
        raise Denied(text)

    def inside(path):
        if isinstance(path, int):
            return True
        full = os.path.realpath(os.fsdecode(path))
        return full == folder or full.startswith(folder + os.sep) or full == os.devnull

    def hook(event, arguments):
        nonlocal busy
        if busy:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            )
            if not writes or path is None:
                return
            busy = True
            try:
                allowed = inside(path)
            finally:
                busy = False
            if not allowed:
                deny(f"writes the file {os.fsdecode(path)}")
        elif event in _CHANGES:
            busy = True
            try:
                outside = [a for i, a in enumerate(arguments) if i in _CHANGES[event] and not inside(a)]
            finally:
                busy = False
            if outside:
                deny(f"changes {os.fsdecode(outside[0])} ({event})")
        elif event in _DENIED:
            deny(f"{_DENIED[event]} ({event})")

    sys.addaudithook(hook)
    os._exit = _leave

    start = _thread.start_new_thread

    def start_new_thread(function, *arguments):
        # tqdm has a thread that redraws its bars.
        if not type(getattr(function, "__self__", None)).__module__.startswith("tqdm."):
            deny("starts a thread")
        return start(function, *arguments)

    _thread.start_new_thread = _thread.start_new = threading._start_new_thread = start_new_thread


def _run(function, folder, result):
    leave = os._exit
    try:
        _guard(folder)
        value = function(folder)
        data = _MARK + pickle.dumps(value)
    except MemoryError:
        data = _MARK + pickle.dumps({"memory": True})
    except BaseException:
        data = _MARK + pickle.dumps({"error": traceback.format_exc()})
    view = memoryview(data)
    while view:
        view = view[os.write(result, view) :]
    os.close(result)
    leave(0)
