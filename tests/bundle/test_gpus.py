"""Locks and visibility of GPUs, with GPUs that are only names."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from fakes import SCRIPTS

from benchlib import gpus, nvml, peaks
from benchlib.gpus import Gpu, Lock

GPUS = [Gpu(0, "GPU-aaaa", "NVIDIA H100"), Gpu(1, "GPU-bbbb", "NVIDIA H100"), Gpu(2, "GPU-bccc", "NVIDIA H100")]


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.LOCK_DIR, str(tmp_path / "locks"))
    monkeypatch.setattr(gpus, "users", lambda gpu: "")


def test_a_lock_excludes_and_is_released():
    first = Lock.try_take(GPUS[0])
    assert Lock.try_take(GPUS[0]) is None
    assert gpus.holder(GPUS[0]) == os.getpid()
    first.release()
    Lock.try_take(GPUS[0]).release()


def test_the_next_free_gpu_is_taken():
    with gpus.take_one(GPUS) as one, gpus.take_one(GPUS) as two:
        assert (one.gpu.index, two.gpu.index) == (0, 1)
        with pytest.raises(gpus.GpuBusy, match=r"no GPU became free in 0 s: GPU 0 is held by another benchmark"):
            with gpus.take_one(GPUS[:2], timeout=0):
                pass


def test_no_gpu_no_lock():
    with gpus.take_one([]) as lock:
        assert lock is None


def test_who_waits_is_known_and_forgotten(monkeypatch):
    assert not gpus.is_awaited("GPU-aaaa") and not gpus.is_awaited(None)
    with gpus.awaiting(GPUS[:1]), gpus.awaiting(GPUS[:2]):
        assert gpus.is_awaited("GPU-aaaa") and gpus.is_awaited("GPU-bbbb") and not gpus.is_awaited("GPU-bccc")
    assert not gpus.is_awaited("GPU-aaaa")
    held, seen = Lock.try_take(GPUS[0]), []

    def sleep(seconds):
        seen.append(gpus.is_awaited("GPU-aaaa"))
        if len(seen) == 2:
            held.release()

    monkeypatch.setattr(gpus.time, "sleep", sleep)
    with gpus.take_one(GPUS[:1]):
        assert seen == [True, True] and not gpus.is_awaited("GPU-aaaa")


def test_locks_that_cannot_be_made_are_one_message(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(gpus.LOCK_DIR, str(tmp_path / "file" / "locks"))
    with pytest.raises(gpus.GpuBusy, match="the lock of GPU GPU-aaaa cannot be opened: .* ROOFBENCH_LOCK_DIR"):
        Lock.try_take(GPUS[0])
    assert not gpus.is_awaited("GPU-aaaa")
    with gpus.awaiting(GPUS):
        pass


HOLDER = """
    import sys, subprocess
    sys.path.insert(0, {scripts!r})
    from benchlib.gpus import Gpu, Lock
    lock = Lock.try_take(Gpu(0, "GPU-aaaa", ""))
    child = subprocess.Popen(["sleep", "{seconds}"], pass_fds=[lock.fd] if {inherit} else [])
    print(child.pid, flush=True)
    child.wait()
"""


def hold(inherit, seconds=60):
    code = textwrap.dedent(HOLDER).format(scripts=str(SCRIPTS), inherit=inherit, seconds=seconds)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def taken_within(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lock = Lock.try_take(GPUS[0])
        if lock:
            lock.release()
            return True
        time.sleep(0.02)
    return False


def test_the_lock_of_a_killed_holder_is_free():
    process, child = hold(inherit=False)
    assert Lock.try_take(GPUS[0]) is None
    process.kill()
    process.wait()
    assert taken_within(5)
    os.kill(child, signal.SIGKILL)


def test_a_worker_that_outlives_its_supervisor_keeps_the_gpu():
    process, child = hold(inherit=True)
    process.kill()
    process.wait()
    assert Lock.try_take(GPUS[0]) is None
    os.kill(child, signal.SIGKILL)
    assert taken_within(5)


def test_strangers_on_a_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "users", lambda gpu: "process 7" if gpu.index == 0 else "")
    said = []
    with gpus.take_one(GPUS[:1], "report", say=said.append) as lock:
        assert lock.gpu.index == 0 and "GPU 0 is in use by process 7" in said[0]
    with pytest.raises(gpus.GpuBusy, match="in use by process 7"), gpus.take_one(GPUS[:1], "refuse"):
        pass
    with gpus.take_one(GPUS, "wait", poll=0.01) as lock:
        assert lock.gpu.index == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, [0, 1, 2]), ("1,0", [1, 0]), ("", []), ("-1", []), ("0,7,1", [0]), ("GPU-bccc", [2]), ("1,1", [1])],
)
def test_visible_devices(monkeypatch, text, expected):
    monkeypatch.setattr(gpus, "all_gpus", lambda: GPUS)
    environment = {} if text is None else {"CUDA_VISIBLE_DEVICES": text}
    assert [gpu.index for gpu in gpus.visible(environment)] == expected


def test_choosing_among_visible_ones():
    assert gpus.choose(GPUS, "0,2") == [GPUS[0], GPUS[2]]
    assert gpus.choose(GPUS, None) == GPUS
    assert gpus.choose(GPUS, "GPU-bb") == [GPUS[1]]
    with pytest.raises(ValueError, match="GPU 3 is asked for, but the visible GPUs are 0 to 2"):
        gpus.choose(GPUS, "3")
    with pytest.raises(ValueError, match="no GPU is visible"):
        gpus.choose([], "0")
    for visible in (GPUS, []):
        with pytest.raises(ValueError, match=r"'foo' is not a GPU number \(expected e.g. 0,2\)"):
            gpus.choose(visible, "0,foo" if visible else "foo")


def test_readings_are_absent_with_a_reason_where_there_is_no_driver():
    reading = nvml.Monitor.open().read()
    assert "absent" in reading or "sm_mhz" in reading


def test_throttle_reasons():
    assert nvml.reasons_of(0x1 | 0x4 | 0x40) == ["idle", "power cap", "hardware thermal slowdown"]
    assert nvml.throttled({"reasons": ["idle", "power cap"]}, {}, {"absent": "x"}) == ["power cap"]


def test_peaks_are_measured_on_one_gpu_of_each_type(monkeypatch, tmp_path):
    mixed = [*GPUS[:2], Gpu(2, "GPU-cccc", "NVIDIA H200")]
    monkeypatch.setattr(gpus, "visible", lambda: mixed)
    asked = []

    def run(command, env, check):
        asked.append((env["CUDA_VISIBLE_DEVICES"], "--again" in command, command[command.index("--journal") + 1]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(peaks.subprocess, "run", run)
    held = Lock.try_take(GPUS[0])
    assert peaks.main(["--journal", str(tmp_path), "--again"]) == 0
    held.release()
    assert asked == [("GPU-bbbb", True, str(tmp_path)), ("GPU-cccc", True, str(tmp_path))]
    monkeypatch.setenv("ROOFBENCH_GPUS", "7")
    assert peaks.main(["--journal", str(tmp_path)]) == 2
