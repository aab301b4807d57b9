"""How long kernels took the last time, from journals and sidecars."""

import json

from benchlib import estimate
from benchlib.journal import Journal


def write(folder, kernel, attempt, seconds, status="ok"):
    """A journal with points of these seconds, the first begun 5 s after its supervisor."""
    with (folder / f"{kernel}.jsonl").open("a") as stream:
        for B, took in enumerate(seconds):
            where = {"key": "k", "attempt": attempt, "op": "a", "phase": "decode", "B": B, "S": 1, "L": 1}
            for record in (
                {"type": "start", "time": float(attempt.partition("-")[0]) + 5 + B},
                {"type": "point", "status": status, "seconds": took},
            ):
                stream.write(json.dumps({**where, **record}) + "\n")


def test_the_last_measurement_of_each_point_counts(tmp_path):
    write(tmp_path, "toy", "1000.0-7", [1.0, 2.0, 3.0])
    write(tmp_path, "toy", "2000.0-8", [4.0])
    assert estimate.seconds("toy", tmp_path / "results", tmp_path, expected=99.0) == 4.0 + 2.0 + 3.0 + 5.0


def test_without_a_measurement_the_expectation_counts(tmp_path):
    assert estimate.seconds("toy", tmp_path, tmp_path, 7.5) == 7.5
    write(tmp_path, "toy", "1000.0-7", [1.0], status="failed")
    with (tmp_path / "toy.jsonl").open("a") as stream:
        stream.write('{"type": "point", "status": "ok"}\n[1]\n{"type": "start"}\n{"torn')
    assert estimate.seconds("toy", tmp_path / "results", tmp_path, 7.5) == 7.5
    book = Journal(tmp_path / "other.jsonl", "k", "not a time").open()
    book.append("start", op="a")
    book.close()
    assert estimate.seconds("other", tmp_path / "results", tmp_path, 7.5) == 7.5


def test_a_kernel_that_cannot_run_here_comes_last(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "absent.jsonl").write_text('{"type": "run", "status": "unavailable"}\n')
    write(tmp_path, "long", "1000.0-7", [20.0])
    kernels = [{"kernel": "absent", "seconds": 90.0}, {"kernel": "long"}, {"kernel": "new", "seconds": 60.0}]
    order = estimate.longest_first(kernels, results, tmp_path)
    assert [entry["kernel"] for entry in order] == ["new", "long", "absent"]
