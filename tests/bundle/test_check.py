"""Poison, comparison, and the choice of points to check."""

import pytest

from benchlib import check
from benchlib.model import Op, Point, Tolerance

torch = pytest.importorskip("torch")
CLOSE = Tolerance(rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_poisoned_floats_are_nan(dtype):
    x = torch.zeros(5, dtype=getattr(torch, dtype))
    check.poison(x)
    assert torch.isnan(x.float()).all()


@pytest.mark.parametrize(("dtype", "value"), [("int32", -1), ("int64", -1), ("uint8", 0x7F)])
def test_poisoned_integers(dtype, value):
    x = torch.zeros(5, dtype=getattr(torch, dtype))
    check.poison(x)
    assert (x == value).all()


def test_equal_outputs_pass():
    x = torch.randn(4, 3)
    assert check.compare_all({"y": x.bfloat16()}, {"y": x}, CLOSE) == []


def test_a_single_nan_fails():
    x = torch.ones(100, 100)
    y = x.clone()
    y[3, 7] = float("nan")
    (found,) = check.compare_all({"y": y}, {"y": x}, CLOSE)
    assert "1 of 10000" in found and "[3, 7]" in found and "nan" in found


def test_a_nan_fails_even_where_some_elements_may_differ():
    x = torch.ones(1000)
    y = x.clone()
    y[0] = float("nan")
    assert check.compare_all({"y": y}, {"y": x}, Tolerance(0.1, 0.1, match_fraction=0.9))


def test_match_fraction_and_cosine():
    x = torch.randn(1000)
    y = x.clone()
    y[:50] += 1
    loose = Tolerance(0.01, 0.01, match_fraction=0.9)
    assert check.compare_all({"y": y}, {"y": x}, loose) == []
    assert check.compare_all({"y": y}, {"y": x}, Tolerance(0.01, 0.01, match_fraction=0.99))
    assert "cosine" in check.compare_all({"y": y}, {"y": x}, Tolerance(9, 9, cosine=0.9999))[0]


def test_integers_must_be_equal():
    x = torch.arange(5, dtype=torch.int32)
    assert check.compare_all({"y": x.long()}, {"y": x}, CLOSE) == []
    assert check.compare_all({"y": x + 1}, {"y": x}, CLOSE)


def test_missing_and_misshapen_outputs():
    assert "no such output" in check.compare_all({}, {"y": torch.ones(2)}, CLOSE)[0]
    assert "found shape (2,)" in check.compare_all({"y": torch.ones(2)}, {"y": torch.ones(3)}, CLOSE)[0]


def test_the_smallest_and_the_largest_point_are_checked():
    op = Op("x", "prefill")
    points = [Point.of(op, B, S) for B in (2, 1) for S in (64, 16)]
    assert [(size, p.T) for size, p in check.small_and_large(op, points)] == [("small", 16), ("large", 128)]
    assert len(check.small_and_large(op, points[:1])) == 1
    kv = Op("mqa", "decode")
    points = [Point.of(kv, B, 1, L) for B in (1, 8) for L in (128, 2048)]
    assert [(p.B, p.L) for _, p in check.small_and_large(kv, points)] == [(1, 128), (8, 2048)]
