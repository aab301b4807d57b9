"""How long kernels took the last time, from journals and sidecars."""

import json

import pytest

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


# Seconds that prefill points of fused_moe_kernel took on an H100 (a run of 24 November 2026 with two GPUs, in which
# none helped), by batch size; lengths 128 to 2048. The long ones were measured twice, because of the power cap.
MOE = {
    1: (1.86, 1.04, 1.29, 1.56, 1.85),
    2: (0.96, 1.30, 1.43, 1.85, 5.04),
    4: (2.56, 1.43, 1.85, 5.07, 7.23),
    8: (2.72, 1.85, 5.51, 7.25, 21.22),
}


def prefill(B, S):
    return ("experts.fused", "prefill", B, S, S)


def test_long_points_that_come_last_are_foreseen():
    """A mean of the short points before them said 28 s where 70 were left, and no idle GPU helped."""
    every = {prefill(B, 128 << n): seconds for B, row in MOE.items() for n, seconds in enumerate(row)}
    order = list(every)
    for done in range(3, len(order)):
        known, left = {one: every[one] for one in order[:done]}, order[done:]
        foreseen, took = estimate.of_points(left, known), sum(every[one] for one in left)
        assert 0.5 * took < foreseen < 2 * took, (done, foreseen, took)


def test_the_kv_length_counts():
    known = {("a", "decode", 8, 1, 128): 0.3, ("a", "decode", 8, 1, 1024): 0.4}
    assert estimate.of_points([("a", "decode", 8, 1, 2048)], known) == pytest.approx(0.3 + 0.1 * 2)
    assert estimate.of_points([("a", "decode", 1, 1, 1024)], known) == 0.3


def test_points_of_another_op_and_few_tokens_grow_with_nothing():
    known = {("a", "decode", 1, 1, 1): 0.4, ("a", "decode", 2, 1, 1): 0.8}
    assert estimate.of_points([("a", "decode", 64, 1, 1)], known) == 0.8
    assert estimate.of_points([("a", "decode", 128, 1, 1)], known) == pytest.approx(1.2)
    assert estimate.of_points([("b", "decode", 128, 1, 1)] * 2, known) == pytest.approx(1.2)
    assert estimate.of_points([("a", "decode", 2, 1, 1)], known) == 0.8
    assert estimate.of_points([("a", "decode", 2, 1, 1)], {}) == 0.0
