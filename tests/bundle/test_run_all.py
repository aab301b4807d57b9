"""Progress over all kernels: points, the point at hand, and how many are still to come."""

import argparse
import io
import json

import pytest
import run_all_benchmarks

from benchlib import journal


def record(kind, **fields):
    return json.dumps({"type": kind, "key": "k", "attempt": "1", "time": 0.0, **fields}) + "\n"


def point(number):
    return record("point", op="input_layernorm", phase="decode", B=number, S=1, L=1, status="ok")


class FakeProcess:
    """A supervisor that measures two points between two looks and is asked to measure four of them."""

    def __init__(self, path):
        self.path, self.looks = path, 0
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def poll(self):
        self.looks += 1
        with self.path.open("a") as stream:
            if self.looks == 1:
                points = [["input_layernorm", "decode", number, 1, 1] for number in range(4)]
                stream.write(record("plan", points=points))
            if self.looks < 3:
                stream.write(point(2 * self.looks - 1) + point(2 * self.looks))
        return None if self.looks < 3 else 0


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What the progress was told: (done, total, label) after each advance."""
    told = []

    class Shown(run_all_benchmarks.Progress):
        def advance(self, label="", count=1):
            super().advance(label, count)
            told.append((self.done, self.total, label))

    def start(command, **_):
        script = command[command.index("--script") + 1]
        kernel = script.rpartition("bench_")[2].removesuffix(".py")
        return FakeProcess(journal.path_of(tmp_path / "journal", kernel))

    monkeypatch.setattr(run_all_benchmarks, "Progress", Shown)
    monkeypatch.setattr(run_all_benchmarks.subprocess, "Popen", start)
    monkeypatch.setattr(run_all_benchmarks.gpus, "visible", lambda: [])
    monkeypatch.setattr(run_all_benchmarks.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(run_all_benchmarks.signal, "signal", lambda *_: None)
    monkeypatch.setattr(run_all_benchmarks, "POLL", 0.0)
    return told


def test_points_of_kernels_that_have_not_begun_count_as_left(shown, tmp_path):
    entries = [{"kernel": name, "script": f"bench_{name}.py", "points": 10} for name in ("rmsnorm", "silu_and_mul")]
    options = argparse.Namespace(output=tmp_path / "results", journal=None, passed_on=[], gpus=None)
    run_all_benchmarks.run(entries, options, stream=io.StringIO())
    first, second = "rmsnorm input_layernorm B={} S=1", "silu_and_mul input_layernorm B={} S=1"
    assert shown == [
        (2, 14, first.format(2)),
        (4, 14, first.format(4)),
        (4, 14, first.format(4)),
        (6, 8, second.format(2)),
        (8, 8, second.format(4)),
        (8, 8, second.format(4)),
    ]


def test_a_job_that_could_not_measure_is_not_ok_because_of_an_earlier_one(tmp_path, monkeypatch):
    sidecar = tmp_path / "results" / "rmsnorm.jsonl"
    sidecar.parent.mkdir()
    sidecar.write_text('{"status": "ok", "provenance": {"date": "yesterday"}}\n')
    said = "rmsnorm: unavailable: no GPU. Kept: 136 rows measured on an H100"
    monkeypatch.setattr(run_all_benchmarks.subprocess, "Popen", lambda *_, stdout, **__: stdout.write(said + "\n"))
    entry = {"kernel": "rmsnorm", "script": "bench_rmsnorm.py"}
    options = argparse.Namespace(output=sidecar.parent, journal=None, passed_on=[])
    job = run_all_benchmarks.Job(entry, options)
    assert job.outcome() == ("unavailable", "no GPU. Kept: 136 rows measured on an H100")
    sidecar.write_text('{"status": "ok", "provenance": {"date": "today"}}\n')
    assert job.outcome() == ("ok", "")
    sidecar.write_text("")
    assert job.outcome() == ("failed", said)
