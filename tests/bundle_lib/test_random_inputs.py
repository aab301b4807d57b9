"""Seeded inputs: reproducible, the same indices on every device, realistic routing."""

import time

import pytest
import torch

from benchlib import moe, nvfp4
from benchlib.random_inputs import ROUTING_KINDS, Random


def draw(rng):
    return [
        rng.normal((3, 5)),
        rng.uniform((4,), 1.0, 2.0),
        rng.fp8((6,)).view(torch.uint8),
        *(t.view(torch.uint8) for t in rng.nvfp4(5, 32)),
        rng.permutation(10),
        rng.integers((4,), 0, 9),
        rng.routing(4, 16, 2),
    ]


def test_a_seed_gives_the_same_values_and_another_seed_others():
    first, again, other = draw(Random("cpu", 3)), draw(Random("cpu", 3)), draw(Random("cpu", 4))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not any(a.equal(b) for a, b in zip(first, other, strict=True))


def test_meta_gives_the_shapes_and_dtypes_of_the_cpu_and_the_same_indices():
    real, shapes = draw(Random("cpu", 3)), draw(Random("meta", 3))
    assert [(t.shape, t.dtype) for t in real] == [(t.shape, t.dtype) for t in shapes]
    for a, b in zip(real[-3:], shapes[-3:], strict=True):
        assert a.equal(b)
    assert Random("meta").index(torch.arange(3)).is_meta


def test_weights_of_all_experts_take_no_memory_on_meta():
    packed, scales = Random("meta").nvfp4_experts(256, 4096, 7168)
    assert (packed.shape, packed.dtype) == ((256, 4096, 3584), torch.uint8)
    assert (scales.shape, scales.dtype) == ((256, 4096, 448), torch.float8_e4m3fn)


def test_nvfp4_data_are_finite_and_have_the_documented_deviation():
    packed, scales = Random("cpu").nvfp4(512, 2048)
    values = nvfp4.dequantise(packed, scales)
    assert values.isfinite().all()
    assert values.std().item() == pytest.approx(nvfp4.RANDOM_STD, rel=0.01)
    assert len(packed.unique()) == 256


def test_fp8_saturates():
    assert Random("cpu").fp8((1000,), scale=1000.0).float().isfinite().all()


@pytest.mark.parametrize("kind", ROUTING_KINDS)
@pytest.mark.parametrize(
    ("T", "E", "topk"), [(1, 256, 8), (7, 256, 8), (128, 256, 8), (33, 12, 5), (5, 8, 8), (3, 4, 1)]
)
def test_routing_holds_distinct_experts(kind, T, E, topk):
    ids = Random("cpu", 1).routing(T, E, topk, kind)
    assert ids.shape == (T, topk) and ids.dtype == torch.int32 and ids.device.type == "cpu"
    assert ids.min() >= 0 and ids.max() < E
    assert all(len(set(row)) == topk for row in ids.tolist())


def test_routing_does_not_depend_on_what_was_drawn_before():
    fresh, used = Random("cpu", 5), Random("cpu", 5)
    used.permutation(100)
    used.normal((100,))
    assert fresh.routing(64, 256, 8).equal(used.routing(64, 256, 8))


def test_uniform_routing_is_uniform():
    ids = Random("cpu").routing(16384, 256, 8)
    rows = moe.rows_per_expert(ids, 256).double()
    # 512 rows each; chi-square of 255 degrees of freedom, a little less because rows are drawn without replacement
    chi_square = ((rows - 512) ** 2 / 512).sum().item()
    assert 150 < chi_square < 350
    first = torch.bincount(ids[:, 0].long(), minlength=256)
    assert first.min() > 20 and first.max() < 120  # no order within a row


@pytest.mark.parametrize("T", [1, 2, 8, 32, 128])
def test_active_experts_are_near_the_expected_number(T):
    counts = [moe.active_experts(Random("cpu", seed).routing(T, 256, 8)) for seed in range(20)]
    assert sum(counts) / 20 == pytest.approx(moe.expected_active_experts(T, 256, 8), rel=0.03)


def test_balanced_routing_gives_every_expert_as_many_rows():
    for T, E, topk in [(128, 256, 8), (100, 256, 8), (33, 12, 5)]:
        rows = moe.rows_per_expert(Random("cpu").routing(T, E, topk, "balanced"), E)
        assert rows.max() - rows.min() <= 1


def test_power_law_favours_some_experts_and_the_same_at_every_size():
    rng = Random("cpu")
    large = moe.rows_per_expert(rng.routing(4096, 256, 8, "power_law"), 256)
    small = moe.rows_per_expert(rng.routing(512, 256, 8, "power_law"), 256)
    assert large.max() > 20 * large.median()
    assert large.argmax() == small.argmax()


def test_large_routing_is_fast():
    rng = Random("cpu")
    rng.routing(16384, 256, 8)
    start = time.perf_counter()
    rng.routing(16384, 256, 8)
    assert time.perf_counter() - start < 0.5


def test_bad_requests_are_explained():
    with pytest.raises(ValueError, match="uniform, balanced, power_law"):
        Random("cpu").routing(4, 8, 2, "zipf")
    with pytest.raises(ValueError, match="number of experts 4"):
        Random("cpu").routing(4, 4, 5)
    with pytest.raises(ValueError, match="16"):
        Random("cpu").nvfp4(4, 24)
