"""The journal survives what happens to processes and disks."""

import json

import pytest

from benchlib import journal
from benchlib.journal import Board, Journal


def point(T, status="ok"):
    return {"op": "a", "phase": "decode", "B": T, "S": 1, "L": 1, "status": status}


def test_records_are_read_back_by_key(tmp_path):
    path = tmp_path / "k.jsonl"
    for key in ("one", "two"):
        book = Journal(path, key, "x").open()
        book.append("point", **point(1))
        book.close()
    assert len(list(Journal(path, "one").records("point"))) == 1


def test_a_torn_line_is_skipped_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "k.jsonl"
    book = Journal(path, "k", "x").open()
    book.append("point", **point(1))
    book.close()
    with path.open("a") as stream:
        stream.write('{"type": "point", "key": "k", "op": "a", "B"')
    book = Journal(path, "k", "y").open()
    book.append("point", **point(2))
    assert [record["B"] for record in book.records("point")] == [1, 2]
    book.close()


def test_measured_points_stay_and_failures_are_tried_again(tmp_path):
    path = tmp_path / "k.jsonl"
    book = Journal(path, "k", "first").open()
    book.append("point", **point(1))
    book.append("point", **point(2, "failed"))
    assert {identity[2] for identity in Board(book).refresh().points} == {1, 2}
    book.close()
    later = Journal(path, "k", "second")
    assert {identity[2] for identity in Board(later).refresh().points} == {1}
    assert Board(later, resume=False).refresh().points == {}


def test_a_second_writer_is_refused(tmp_path):
    book = Journal(tmp_path / "k.jsonl").open()
    with pytest.raises(journal.JournalBusy, match="another run"):
        Journal(tmp_path / "k.jsonl").open()
    book.close()
    Journal(tmp_path / "k.jsonl").open().close()


def test_no_nan_in_the_file(tmp_path):
    book = Journal(tmp_path / "k.jsonl").open()
    book.append("point", x=float("nan"))
    book.close()
    assert json.loads((tmp_path / "k.jsonl").read_text())["x"] is None


def test_the_key_follows_script_stack_and_device(tmp_path):
    script = tmp_path / "bench_x.py"
    script.write_text("a")
    arguments = (script, "none", {}, {"packages": {"torch": "2.11"}}, "H100")
    first = journal.key(*arguments)
    assert journal.key(*arguments) == first
    script.write_text("b")
    assert journal.key(*arguments) != first
    script.write_text("a")
    assert journal.key(*arguments[:3], {"packages": {"torch": "2.12"}}, "H100") != first
    assert journal.key(*arguments[:4], "H200") != first


def test_memory_only(tmp_path):
    book = Journal(None, "k", "x").open()
    book.append("point", **point(1))
    assert len(list(book.records("point"))) == 1
