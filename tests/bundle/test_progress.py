"""What somebody who watches a run sees, and that nobody else sees anything."""

import io
import sys

import pytest

from benchlib import progress


@pytest.fixture
def without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)


def test_nothing_is_written_where_nobody_watches():
    stream = io.StringIO()
    with progress.Progress(3, "rmsnorm", stream=stream) as shown:
        shown.advance("input_layernorm B=1")
    assert stream.getvalue() == "" and shown.done == 1


def test_kernel_point_rate_and_time_left(without_tqdm, monkeypatch):
    stream, clock = io.StringIO(), iter([100.0, 102.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Progress(5, "rmsnorm", stream=stream, shown=True) as shown:
        shown.advance("input_layernorm B=1", count=4)
    assert stream.getvalue().strip() == "rmsnorm 4/5, 2.0 points/s, 0 s left  input_layernorm B=1"
