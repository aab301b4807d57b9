"""The comparison with other timers: what stands in the table where a timer is not there."""

import importlib.metadata
import warnings

import pytest
from fakes import FakeRuntime

from benchlib import crosscheck, timing
from benchlib.point import Context


def version_of(monkeypatch, version):
    def answer(package):
        assert package == "cupti-python"
        if version is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(importlib.metadata, "version", answer)


def falls_back(**options):
    """What flashinfer's timer does where CUPTI cannot be imported."""
    warnings.warn("CUPTI is broken. Falling back to CUDA events for benchmarking.", UserWarning, stacklevel=2)
    return [4.0, 4.0]


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (None, "cupti-python is not installed"),
        ("12.8.1", "cupti-python 12.8.1 is older than 13"),
        ("13.0.2", "CUPTI did not work: CUPTI is broken. Falling back to CUDA events for benchmarking."),
    ],
)
def test_events_are_never_called_cupti(monkeypatch, version, reason):
    version_of(monkeypatch, version)
    assert crosscheck.try_timers({"CUPTI": crosscheck.with_cupti(falls_back)}, fn=None) == {"CUPTI": reason}


def test_cupti_is_timed_where_it_is_there(monkeypatch):
    version_of(monkeypatch, "13.1.0")
    timer = crosscheck.with_cupti(lambda **options: [0.003, 0.001, 0.002])
    assert crosscheck.try_timers({"CUPTI": timer}, fn=None) == {"CUPTI": 0.002}


def test_rotated_calls_take_one_set_after_the_other_without_a_flush():
    def timer(fn, cold_l2_cache):
        assert not cold_l2_cache
        for _ in range(5):
            fn()
        return [0.25]

    seen = []
    assert crosscheck.rotated(timer, seen.append, ["a", "b"], True)(fn=None, cold_l2_cache=True) == [0.25]
    assert seen == ["a", "b", "a", "b", "a"]


class Overlapping(FakeRuntime):
    """A device on which a call takes 2 µs less where the kernel ahead of it is of the same kind."""

    def __init__(self, **options):
        super().__init__(**options)
        self.last = None

    def launch(self, kind, ms):
        self.spent += ms - 0.002 * (kind == self.last == "dependent")
        self.last = kind

    def _work(self, fn):
        self.spent, evictions = 0.0, self.evictions
        fn()
        return self.spent + (self.evictions - evictions) * self.evict_ms

    def null_kernel(self):
        return lambda: self.launch("empty", 0.001)


@pytest.mark.parametrize(("kind", "cold"), [("dependent", 0.008), ("plain", 0.010)])
@pytest.mark.parametrize(("count", "evicted"), [(7, 0), (1, 0), (64, 150 << 20)])
def test_calls_kept_apart_take_their_whole_time(kind, cold, count, evicted):
    runtime = Overlapping()
    context = Context(None, None, runtime, timing.Evictor(runtime))
    runtime.spent = 0.0

    def call(x):
        runtime.launch(kind, 0.010)

    together = timing.measure(runtime, call, list(range(count)), timing.COLD)
    assert together.median_ms == pytest.approx(cold, rel=0.02)
    assert crosscheck.apart(context, call, list(range(count)), evicted) == pytest.approx(0.010, rel=0.02)


def test_sets_that_leave_the_cache_warm_are_not_timed():
    timer = crosscheck.rotated(lambda **options: [1.0], print, ["a"], False)
    assert crosscheck.try_timers({"rotated": timer}, fn=None) == {"rotated": "the sets do not fill the cache"}


def test_a_timer_that_fails_leaves_its_reason():
    def broken(**options):
        raise MemoryError("no room\nfor it")

    timers = {"graph": broken, "events": lambda **options: [0.5]}
    assert crosscheck.try_timers(timers, fn=None) == {"graph": "MemoryError: no room", "events": 0.5}


def test_the_table_has_ratios_and_reasons():
    missing = "cupti-python is not installed"
    others = {"apart": 0.0101, "graph": 0.0105, "events": 0.015, "CUPTI, flushed": missing, "CUPTI, rotated": 0.009}
    head, rule, row = crosscheck.table([("bmm_fp8:q,1,1", 0.010, 0.008, others)]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == 9
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    shown = ["10.10 (1.01)", "10.50 (1.05)", "15.00 (1.50)", missing, "9.00 (0.90)"]
    assert cells == ["bmm_fp8:q,1,1", "10.00", "8.00", *shown]
