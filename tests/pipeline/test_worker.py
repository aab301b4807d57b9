"""The worker that runs checks in forks of itself."""

import os
import subprocess
import sys
import time

import pytest

from roofbench import worker
from roofbench.worker import ADDRESS, Worker

SCRIPT = """
import os, sys
print("out", *sys.argv[1:], os.getcwd())
print("err", file=sys.stderr)
if sys.argv[1] == "die": os.kill(os.getpid(), 9)
if sys.argv[1] == "raise": raise ValueError("wrong")
if sys.argv[1] == "say": sys.exit("last words")
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A worker without slow imports, and a script for it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.delenv(ADDRESS, raising=False)
    monkeypatch.chdir(tmp_path)
    started = Worker(modules=())
    yield tmp_path / "script.py"
    started.stop()


def ask(*arguments):
    """What a client process says and how it ends."""
    code = "import sys; from roofbench.worker import ask; sys.exit(ask(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(os.path.dirname(os.path.dirname(worker.__file__)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("argument", "status"), [("0", 0), ("7", 7), ("raise", 1), ("say", 1), ("die", 1)])
def test_a_script_says_and_ends_as_it_does_alone(running, argument, status):
    done = ask(running, argument)
    assert done.returncode == status
    assert done.stdout == (f"out {argument} {running.parent}\n" if argument != "die" else done.stdout)
    assert done.stderr.startswith("err\n") or argument == "die"
    assert {"raise": "ValueError: wrong", "say": "last words", "die": "died"}.get(argument, "") in done.stderr


def test_a_worker_that_cannot_start_is_no_answer(running):
    broken = Worker(modules=["no_such_module"])
    assert worker.ask([str(running), "0"]) is None
    broken.stop()


def test_no_worker_is_no_answer(monkeypatch):
    monkeypatch.delenv(ADDRESS, raising=False)
    assert worker.ask(["script.py"]) is None
    monkeypatch.setenv(ADDRESS, "/nowhere")
    assert worker.ask(["script.py"]) is None


def test_it_ends_with_the_process_that_started_it(tmp_path):
    code = "import os; from roofbench.worker import Worker; print(Worker()._process.pid, flush=True); os._exit(9)"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(worker.__file__))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the worker goes on alone")
