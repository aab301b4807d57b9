"""A kernel whose points are measured by several workers at once, each on a GPU of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest
from fakes import SCRIPTS, write_toy

from benchlib import cli, estimate, gpus, journal
from benchlib.gpus import Gpu, Lock
from benchlib.journal import Board, Journal

GPUS = [Gpu(number, f"GPU-fake{number}", "NVIDIA H100 80GB HBM3") for number in range(3)]
# Seconds that each of the eight points takes.
NAP = "0.5"
SUPERVISE = """
    import signal, sys
    sys.path.insert(0, {scripts!r})
    from benchlib import gpus, supervise
    from benchlib.gpus import Gpu
    cards = [Gpu(number, f"GPU-fake{{number}}", "NVIDIA H100 80GB HBM3") for number in range({count})]
    limits = supervise.Limits(first={point}, point={point}, split={split}, idle=0.0)
    with gpus.take_one(cards) as lock:
        others = [gpu for gpu in cards if gpu != lock.gpu]
        one = supervise.Supervisor({script!r}, {output!r}, limits=limits, lock=lock, others=others)
        signal.signal(signal.SIGTERM, one.stop)
        sys.exit(one.run())
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("shared") / "toy", with_torch=False)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.LOCK_DIR, str(tmp_path / "locks"))
    return tmp_path / "results"


def start(script, place, count=2, split=0.1, point=60, mishap="", nap=NAP):
    """A supervisor in the background, with some GPUs that are only names."""
    code = textwrap.dedent(SUPERVISE).format(
        scripts=str(SCRIPTS), count=count, split=split, point=point, script=str(script), output=str(place)
    )
    environment = {**os.environ, "MISHAP": mishap, "TOY_NAP": nap}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def run(*arguments, **options):
    process = start(*arguments, **options)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def book(place):
    path = place.parent / "journal" / "toy.jsonl"
    return list(journal.read(path)) if path.exists() else []


def points(place):
    """(what, worker) of the points that were measured."""
    return [(journal.identity_of(r), r["worker"]) for r in book(place) if r["type"] == "point" and r["status"] == "ok"]


def sidecar(place):
    lines = [json.loads(line) for line in (place / "toy.jsonl").read_text().splitlines()]
    return lines[0], [line for line in lines if line["type"] == "point"]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def helpers(place):
    """Process ids of the second workers that have begun."""
    workers = list(dict.fromkeys(record["worker"] for record in book(place) if record["type"] == "attempt"))
    planners = {record["worker"] for record in book(place) if record["type"] == "plan"}
    return [worker for worker in workers if worker not in planners]


def at_work(place, worker):
    """Whether a worker is in the middle of a point."""
    last = [record["type"] for record in book(place) if record["worker"] == worker]
    return last[-1:] == ["start"]


def all_free():
    for gpu in GPUS:
        lock = Lock.try_take(gpu)
        if lock is None:
            return False
        lock.release()
    return True


def expected_order(script, place):
    listed = subprocess.run([sys.executable, script, "--list-points"], capture_output=True, text=True, check=True)
    names = ("op", "phase", "B", "S", "L")
    return [tuple(point[name] for name in names) for point in json.loads(listed.stdout)["points"]]


def test_two_workers_share_the_points_and_one_writes_them(script, place):
    said = run(script, place)
    assert "toy: GPU 1 is idle and helps" in said
    measured = points(place)
    assert len({worker for _, worker in measured}) == 2
    order = expected_order(script, place)
    assert sorted(what for what, _ in measured) == sorted(order)
    header, records = sidecar(place)
    assert header["status"] == "ok" and header["measured"] == 8
    assert [journal.identity_of(record) for record in records if record["status"] == "ok"] == order
    rows = (place / "toy.csv").read_text().splitlines()
    assert len(rows) == 9
    assert all_free()
    theirs = [what for what, worker in measured if worker == helpers(place)[0]]
    longest_first = sorted(order, key=lambda what: estimate.size(*what[2:]))[::-1]
    assert theirs == longest_first[: len(theirs)]


def test_the_second_worker_begins_with_what_takes_longest():
    prefill, decode = [(1, 16, 16), (1, 32, 32), (2, 16, 16)], [(1, 1, 1), (4, 1, 1)]
    attention = [(1, 1, 128), (64, 1, 2048), (128, 1, 128)]
    planned = [(None, SimpleNamespace(B=B, S=S, L=L)) for B, S, L in prefill + decode + attention]
    order = [(point.B, point.S, point.L) for _, point in cli.order_of_sharing(planned)]
    assert order == [*attention[1:], attention[0], prefill[2], prefill[1], prefill[0], decode[1], decode[0]]


@pytest.mark.slow
def test_nobody_helps_where_it_saves_too_little(script, place):
    run(script, place, split=60)
    assert helpers(place) == []


def test_a_second_worker_that_is_killed_loses_its_point_only(script, place):
    process = start(script, place)
    wait_for(lambda: helpers(place) and at_work(place, helpers(place)[0]))
    os.kill(helpers(place)[0], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode == 0
    header, records = sidecar(place)
    bad = [record for record in records if record["status"] == "failed"]
    assert header["status"] == "partial" and header["measured"] == 7
    assert len(bad) == 1 and "killed by SIGKILL" in bad[0]["reason"]
    assert len(points(place)) == len(set(points(place))) == 7
    assert all_free()
    run(script, place, nap="0")
    assert sidecar(place)[0]["status"] == "ok"


@pytest.mark.slow
def test_a_first_worker_that_is_killed_goes_on_beside_the_second(script, place):
    process = start(script, place)
    wait_for(lambda: helpers(place) and at_work(place, helpers(place)[0]))
    first = next(record["worker"] for record in book(place) if record["type"] == "plan")
    wait_for(lambda: at_work(place, first))
    os.kill(first, signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode == 0
    header, records = sidecar(place)
    assert header["measured"] == 7 and [r["status"] for r in records].count("failed") == 1
    assert len({what for what, _ in points(place)}) == len(points(place)) == 7


@pytest.mark.slow
def test_a_point_that_hangs_a_second_worker_is_given_up(script, place):
    """The point of most tokens hangs whoever measures it: the second worker begins with it."""
    run(script, place, point=3, mishap="hang:64")
    header, records = sidecar(place)
    assert header["measured"] >= 6
    assert {record["status"] for record in records} == {"ok", "timeout", "not_applicable"}
    assert all(record["T"] == 64 for record in records if record["status"] == "timeout")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_lock_and_nothing_is_measured_twice(script, place, number):
    process = start(script, place)
    wait_for(lambda: helpers(place) and len(points(place)) >= 3)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    wait_for(all_free, 10)
    before = points(place)
    assert len(before) < 8
    run(script, place, nap="0")
    measured = [what for what, _ in points(place)]
    assert [what for what, _ in before] == measured[: len(before)]
    assert len(measured) == len(set(measured)) == 8
    assert sidecar(place)[0]["status"] == "ok"


@pytest.mark.slow
def test_a_second_worker_gives_way_to_a_benchmark_that_waits(script, place):
    process = start(script, place)
    wait_for(lambda: helpers(place) and at_work(place, helpers(place)[0]))
    second = helpers(place)[0]
    with gpus.take_one([GPUS[1]], timeout=30, poll=0.02):
        ended = len([1 for _, worker in points(place) if worker == second])
        assert process.poll() is None and ended >= 1
        process.communicate(timeout=120)
        theirs = [worker for _, worker in points(place)]
        assert theirs.count(second) == ended and set(theirs) - {second}
    assert process.returncode == 0
    assert sidecar(place)[0]["status"] == "ok"


@pytest.mark.slow
def test_two_runs_help_each_other_on_no_gpu_twice(script, place, tmp_path):
    """Two kernels, three GPUs: only one of them gets the third, and no point is measured on a GPU that is taken."""
    other = tmp_path / "other" / "results"
    processes = [start(script, place, count=3), start(script, other, count=3)]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    for folder in (place, other):
        measured = [what for what, _ in points(folder)]
        assert len(measured) == len(set(measured)) == 8
    spans = {}
    for folder in (place, other):
        cards = {r["worker"]: r["gpu"] for r in book(folder) if r["type"] == "attempt"}
        for record in book(folder):
            if record["type"] in ("start", "point"):
                spans.setdefault(cards[record["worker"]], []).append((record["time"], record["worker"]))
    for moments in spans.values():
        workers = [worker for _, worker in sorted(moments, key=lambda moment: moment[0])]
        changes = sum(one != two for one, two in zip(workers, workers[1:], strict=False))
        assert changes == len(set(workers)) - 1, "two workers took turns on one GPU"


@pytest.fixture
def checked_script(tmp_path):
    """The toy whose outputs are compared with a reference."""
    return write_toy(tmp_path / "checked")


def checks(place):
    return [(r["op"], r["phase"], r["size"]) for r in book(place) if r["type"] == "check"]


@pytest.mark.slow
def test_checks_are_made_once_for_all_workers(checked_script, place):
    run(checked_script, place, nap="2")
    assert len({worker for _, worker in points(place)}) == 2
    assert len(checks(place)) == len(set(checks(place))) == 4
    lines = [json.loads(line) for line in (place / "toy.jsonl").read_text().splitlines()]
    found = [(line["phase"], line["size"], line["status"]) for line in lines if line["type"] == "check"]
    assert found == [(phase, size, "ok") for phase in ("decode", "prefill") for size in ("small", "large")]


@pytest.mark.slow
def test_a_wrong_output_that_the_second_worker_finds_ends_it_for_all(checked_script, place):
    run(checked_script, place, nap="5", mishap="wrong:64")  # the second worker must get there first
    second = [r for r in book(place) if r["type"] == "check_end" and r["status"] == "incorrect"]
    assert [record["worker"] for record in second] == helpers(place)
    header, records = sidecar(place)
    assert header["status"] == "incorrect" and "plain (prefill, B=" in header["reason"]
    assert {record["status"] for record in records} == {"not_measured", "not_applicable"}
    assert (place / "toy.csv").read_text().count("\n") == 1


def claim(path, worker):
    return Board(Journal(path, "k", "a", worker=worker).open(lock=False)).refresh()


def test_of_two_that_begin_a_point_at_once_the_first_has_it(tmp_path):
    path = tmp_path / "toy.jsonl"
    where = {"op": "a", "phase": "decode", "B": 1, "S": 1, "L": 1}
    one, two = claim(path, 1), claim(path, 2)
    # Worker 1 writes between the look and the record of worker 2.
    with contextlib.closing(one.journal), contextlib.closing(two.journal):
        append = two.journal.append

        def late(kind, **fields):
            if kind == "start":
                assert one.begin("start", **where)
            append(kind, **fields)

        two.journal.append = late
        assert not two.begin("start", **where)
        assert two.elsewhere(journal.identity_of(where)) and not one.refresh().elsewhere(journal.identity_of(where))
        one.journal.append("left", **where)
        two.journal.append = append
        assert two.begin("start", **where) and not one.begin("start", **where)
        two.journal.append("point", **where, status="failed")
        assert not one.begin("start", **where) and one.points


def test_a_record_after_a_torn_one_is_written_again(tmp_path):
    path = tmp_path / "toy.jsonl"
    one, two = claim(path, 1), claim(path, 2)
    one.journal.append("note")
    os.write(two.journal.fd, b'{"type": "point", "key": "k"')
    one.journal.append("note", text="whole")
    one.journal.append("note", text="next")
    texts = [record.get("text") for record in journal.read(path)]
    assert texts == [None, "whole", "next"]
