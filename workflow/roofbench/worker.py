"""A process that has imported torch once and runs scripts in forks of itself.

Importing torch takes seconds, checking a script takes a fraction of one. Snakemake starts a process for each
job; with a worker beside it, that process only passes its command line on. The worker lives as long as the
process that started it: it ends when its standard input is closed, however that came about.
"""

import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ADDRESS = "ROOFBENCH_WORKER"


class Worker:
    """Starts a worker, and tells child processes of this one where it is (in the environment).

    `modules` are imported at the first request, and are there in all of them.
    """

    def __init__(self, modules=("torch", "roofbench.verify.warm")):
        self._folder = tempfile.TemporaryDirectory(prefix="roofbench-")
        address = os.path.join(self._folder.name, "worker")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(128)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), *modules],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                cwd="/",
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # several checks run side by side, all on small tensors
                start_new_session=True,  # Ctrl-C is for Snakemake; the worker ends after it
            )
        os.environ[ADDRESS] = address

    def stop(self):
        """End the worker; what it is running goes on to its end."""
        os.environ.pop(ADDRESS, None)
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


def ask(arguments):
    """Let the worker run a script with its arguments; returns the exit status, or None where there is no worker."""
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
        except OSError:
            return None
        request = json.dumps({"arguments": arguments, "folder": os.getcwd()}).encode()
        sys.stdout.flush()
        try:
            socket.send_fds(connection, [request], [0, 1, 2])
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(16)
        except ConnectionError:  # it ended before it took the request
            return None
    if not answer:
        print(f"{arguments[0]}: the process that ran it died", file=sys.stderr)
        return 1
    return int(answer)


def _serve(listener, modules):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in waiting.select()}
        if listener in ready:
            connection, _ = listener.accept()
            for module in modules:
                importlib.import_module(module)
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()
        elif sys.stdin in ready:
            return


def _answer(connection):
    """In the fork: become the process that asked, as far as the script can tell."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    request = json.loads(text)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.chdir(request["folder"])
    sys.argv = request["arguments"]
    status = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        else:
            status = int(leaving.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(str(status).encode())
        os._exit(status)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
