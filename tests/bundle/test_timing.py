"""Rotation, counts and statistics, on a device made of Python."""

import math

import pytest
from fakes import FakeRuntime

from benchlib import sets, timing

MB = 1 << 20


def measure(runtime, count, budget=timing.COLD, evicted=0, evict_ms=0.0):
    evict = runtime.evictor(evicted) if evicted else None
    return timing.measure(runtime, runtime.kernel, list(range(count)), budget, evicted, evict_ms, evict)


@pytest.mark.parametrize("count", [1, 3, 64])
def test_one_call_takes_what_it_takes(count):
    stats = measure(FakeRuntime(call_ms=0.002), count)
    assert stats.median_ms == pytest.approx(0.002, rel=0.01)
    assert stats.calls >= timing.LEAST_CALLS
    assert stats.calls_per_replay % count == 0 and stats.sets == count
    assert stats.replays == 20


def test_a_graph_of_short_kernels_runs_for_the_wanted_time_but_is_bounded():
    stats = measure(FakeRuntime(call_ms=0.002), 1)
    assert 0.9 * timing.MOST_CAPTURED <= stats.calls_per_replay <= 1.3 * timing.MOST_CAPTURED
    slow = measure(FakeRuntime(call_ms=7.5), 1)
    assert 10 <= slow.calls_per_replay <= 12 and slow.replays == 10 and slow.calls >= 100


def test_every_graph_holds_at_least_as_many_calls_as_sets():
    runtime = FakeRuntime(call_ms=1.0)
    stats = measure(runtime, 64)
    assert stats.calls_per_replay >= 64


def test_a_short_capture_is_repeated_with_more_time():
    class Miser(FakeRuntime):
        def bench(self, fn, rep):
            return super().bench(fn, rep / 3)

    runtime = Miser(call_ms=0.5)
    stats = measure(runtime, 1)
    assert stats.calls >= timing.LEAST_CALLS and len(runtime.benches) > 1


def test_too_few_calls_are_an_error():
    class One(FakeRuntime):
        def bench(self, fn, rep):
            return super().bench(fn, 0)

    with pytest.raises(timing.TooFewCalls, match="asked for 10 rotations of 1 sets"):
        measure(One(), 1)


def test_evicting_is_subtracted():
    runtime = FakeRuntime(call_ms=0.002, evict_ms=0.06)
    evict, evict_ms = timing.Evictor(runtime).of(150 * MB)
    assert evict_ms == pytest.approx(0.06, rel=0.01)
    stats = timing.measure(runtime, runtime.kernel, list(range(64)), timing.COLD, 150 * MB, evict_ms, evict)
    assert stats.median_ms == pytest.approx(0.002, rel=0.02)
    assert (stats.evicted_bytes, stats.sets) == (150 * MB, 64)


def test_a_call_that_vanishes_beside_evicting_has_no_latency():
    runtime = FakeRuntime(call_ms=0.0, evict_ms=0.06)
    evict = runtime.evictor(150 * MB)
    with pytest.raises(timing.TooShort, match="1 calls cannot be told from the 0.0620 ms of evicting"):
        timing.measure(runtime, runtime.kernel, [0], timing.COLD, 150 * MB, 0.062, evict)


def test_warm_up_calls_each_set_in_turn():
    seen = []
    timing.warm_up(FakeRuntime(), seen.append, ["a", "b", "c"])
    assert seen == list("abcabcabca")


def test_quantiles_and_spread():
    assert timing.quantile([1, 2, 3, 4, 5], 0.2) == pytest.approx(1.8)
    assert timing.quantile([7], 0.8) == 7
    stats = timing.summarise([1.0, 1.1, 0.9, 1.0, 5.0], 100, 4)
    assert stats.median_ms == 1.0 and stats.min_ms == 0.9 and stats.calls == 500
    assert stats.spread == pytest.approx((timing.quantile([1.0, 1.1, 0.9, 1.0, 5.0], 0.8) - 0.98) / 1.0)


def test_launch_floor():
    assert timing.launch_floor(FakeRuntime(call_ms=0.001)).median_ms == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize(
    ("touched", "free", "expected"),
    [
        (200 * MB, None, (1, 0)),  # fills a 50 MB cache three times by itself
        (150 * MB, None, (1, 0)),
        (149 * MB, None, (2, 0)),
        (40 * MB, None, (4, 0)),
        (3 * MB, None, (50, 0)),
        (1 * MB, None, (64, 150 * MB)),  # 64 sets are not enough: the rest is read
        (3000, None, (64, 150 * MB)),
        (40 * MB, 70 * MB, (2, 150 * MB)),  # memory for one more set only
        (40 * MB, 0, (1, 150 * MB)),
    ],
)
def test_number_of_sets(touched, free, expected):
    assert sets.wanted(touched, 50 * MB, touched, free) == expected


@pytest.mark.parametrize(
    ("touched", "repeated", "expected"),
    [
        (40 * MB, 30 * MB, (12, 0)),  # 12 sets of 10 MB, and 30 MB that all write to
        (149 * MB, 100 * MB, (2, 0)),
        (200 * MB, 190 * MB, (1, 0)),  # a call by itself touches enough, whose memory it is does not matter
        (40 * MB, 39 * MB, (64, 150 * MB)),
        (40 * MB, 90 * MB, (64, 150 * MB)),  # more is allocated than written: nothing is known
    ],
)
def test_memory_that_every_call_writes_to_counts_once(touched, repeated, expected):
    assert sets.wanted(touched, 50 * MB, touched, None, repeated) == expected


def test_only_outputs_that_the_kernel_allocated_are_counted_as_such():
    torch = pytest.importorskip("torch")
    x = {"a": torch.empty(8), "out": torch.empty(4)}
    assert sets.bytes_beside((x["out"][:2], [torch.empty(16)], None), x) == 64
    assert sets.bytes_beside(None, x) == sets.bytes_beside(x["a"], x) == 0


def test_without_a_cache_one_set_will_do():
    assert sets.wanted(10, 0, 10, None) == (1, 0)


def test_sets_are_independent_and_keep_layout():
    torch = pytest.importorskip("torch")

    def draw(i):
        base = torch.full((4, 6), float(i))
        return {"a": base[:, :4], "b": base[:, 4:], "t": torch.zeros(3, 2).t(), "n": (i, [torch.ones(1)])}

    found = sets.more_sets(draw(0), 9, draw)
    assert len(found) == 9
    pointers = {x["a"].untyped_storage().data_ptr() for x in found}
    assert len(pointers) == 9
    for i, x in enumerate(found):
        assert x["a"].untyped_storage().data_ptr() == x["b"].untyped_storage().data_ptr()
        assert x["a"].stride() == (6, 1) and x["t"].stride() == (1, 2)
        assert x["a"][0, 0] == i % sets.DRAWN_SETS
    assert sets.allocated_bytes(found[0]) == 4 * (24 + 6 + 1)
    meta = {"a": torch.empty(8, device="meta"), "b": torch.empty(16, device="meta")}
    assert sets.allocated_bytes(meta) == 96
    assert not math.isnan(float(found[0]["a"].sum()))


def test_a_set_that_cannot_be_copied_is_drawn():
    import sys

    drawn = []

    def draw(i):
        drawn.append(i)
        return {"module": sys}

    assert len(sets.more_sets(draw(0), 6, draw)) == 6
    assert drawn == [0, 1, 2, 3, 4, 5]
