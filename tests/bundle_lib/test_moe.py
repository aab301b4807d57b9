"""Bookkeeping of routed rows: worked examples, and plain Python at random."""

import types

import pytest
import torch

from benchlib import moe
from benchlib.random_inputs import Random

# Four tokens, three experts each of five; expert 4 has no row.
IDS = torch.tensor([[2, 0, 3], [1, 2, 3], [0, 3, 2], [3, 1, 2]], dtype=torch.int32)


def test_worked_example():
    assert moe.rows_per_expert(IDS, 5).tolist() == [2, 2, 4, 4, 0]
    assert moe.expert_offsets(IDS, 5).tolist() == [0, 2, 4, 8, 12, 12]
    assert moe.blockscale_offsets(IDS, 5).tolist() == [0, 128, 256, 384, 512, 512]
    assert moe.problem_sizes(IDS, 5, 7, 9).tolist() == [[2, 7, 9], [2, 7, 9], [4, 7, 9], [4, 7, 9], [0, 7, 9]]
    source, target = moe.permutations(IDS, 5)
    assert source.tolist() == [0, 2, 1, 3, 0, 1, 2, 3, 0, 1, 2, 3]
    assert target.tolist() == [4, 0, 8, 2, 5, 9, 1, 10, 6, 11, 3, 7]
    assert moe.active_experts(IDS) == 4


def test_everything_is_int32():
    for tensor in (moe.expert_offsets(IDS, 5), moe.blockscale_offsets(IDS, 5), moe.problem_sizes(IDS, 5, 1, 1)):
        assert tensor.dtype == torch.int32
    assert all(t.dtype == torch.int32 for t in moe.permutations(IDS, 5))


@pytest.mark.parametrize("kind", ["uniform", "balanced", "power_law"])
def test_agrees_with_plain_python(kind):
    T, E, topk = 300, 32, 4
    ids = Random("cpu", 9).routing(T, E, topk, kind)
    flat = ids.flatten().tolist()
    rows = [flat.count(e) for e in range(E)]
    offsets, blocks = [0], [0]
    for n in rows:
        offsets.append(offsets[-1] + n)
        blocks.append(blocks[-1] + 128 * ((n + 127) // 128))
    assert moe.expert_offsets(ids, E).tolist() == offsets
    assert moe.blockscale_offsets(ids, E).tolist() == blocks
    assert blocks[-1] <= moe.blockscale_capacity(T * topk, E)
    order = sorted(range(T * topk), key=lambda i: (flat[i], i))
    source, target = moe.permutations(ids, E)
    assert source.tolist() == [i // topk for i in order]
    assert [order[p] for p in target.tolist()] == list(range(T * topk))


def test_capacities_are_reached_in_the_worst_case():
    # 8 rows of 8 experts need 8 blocks; with R = 130 and 2 experts, 129 + 1 rows need 256 + 128.
    assert moe.blockscale_capacity(8, 256) == 1024
    assert moe.blockscale_capacity(130, 2) == 384
    assert moe.blockscale_capacity(1, 1) == 128
    assert moe.aligned_blocks(8, 256, 64) == 8
    assert moe.aligned_blocks(1024, 256, 64) == -(-(1024 + 257 * 63) // 64)


def test_expected_active_experts():
    assert moe.expected_active_experts(1, 256, 8) == pytest.approx(8)
    assert moe.expected_active_experts(2, 256, 8) == pytest.approx(15.75)
    assert moe.expected_active_experts(16384, 256, 8) == pytest.approx(256)


TOLERANCE = types.SimpleNamespace(rtol=1e-3, atol=1e-6)


def choice(seed=0, T=64, E=32, topk=4):
    scores = torch.rand((T, E), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ids, close = moe.choose(scores, topk)
    weights = scores.gather(1, ids)
    expected = {"ids": ids, "close": close, "scores": scores, "normalise": True}
    return {"ids": ids.int(), "weights": (weights / weights.sum(1, keepdim=True)).float()}, expected


def test_choice_accepts_any_order():
    actual, expected = choice()
    flipped = {name: tensor.flip(1) for name, tensor in actual.items()}
    assert moe.compare_choice(actual, expected, TOLERANCE) == []
    assert moe.compare_choice(flipped, expected, TOLERANCE) == []


def wrong_id(actual, expected):
    actual["ids"][5, 0] = int(expected["scores"][5].argmin())


def out_of_range(actual, expected):
    actual["ids"][5, 0] = 32


def repeated_id(actual, expected):
    actual["ids"][5, 0] = actual["ids"][5, 1]


def wrong_weight(actual, expected):
    actual["weights"][5, 0] *= 1.01


def nan_weight(actual, expected):
    actual["weights"][5, 0] = float("nan")


def not_normalised(actual, expected):
    actual["weights"] = expected["scores"].gather(1, expected["ids"]).float()


@pytest.mark.parametrize("spoil", [wrong_id, out_of_range, repeated_id, wrong_weight, nan_weight, not_normalised])
def test_choice_finds(spoil):
    actual, expected = choice()
    spoil(actual, expected)
    assert moe.compare_choice(actual, expected, TOLERANCE)


def test_choice_lets_rounding_decide_between_equal_scores():
    scores = torch.tensor([[0.9, 0.5, 0.5 + 1e-9, 0.1]], dtype=torch.float64)
    ids, close = moe.choose(scores, 2)
    assert close.tolist() == [True]
    expected = {"ids": ids, "close": close, "scores": scores, "normalise": False}
    for second in (1, 2):
        actual = {"ids": torch.tensor([[0, second]]), "weights": torch.tensor([[0.9, 0.5]])}
        assert moe.compare_choice(actual, expected, TOLERANCE) == []
