"""Sigmoid scores in float64; the best top-k of each token by score plus bias, weights without the bias."""

from benchlib import moe

POISON = ("topk_weights", "topk_ids")


def expected(x, dims):
    """sigmoid(logits [T, E]); returns ids, rows in which ids may differ, and the scores that weights are made of."""
    scores = x["gating_output"].double().sigmoid()
    ids, close = moe.choose(scores + x["correction_bias"].double(), x["topk_ids"].shape[1])
    return {"ids": ids, "close": close, "scores": scores, "normalise": x["renormalize"]}


def actual(x, result):
    """The kernel writes weights and ids, and returns nothing."""
    return {"ids": x["topk_ids"], "weights": x["topk_weights"]}


# The same experts, in any order within a row, with the right weights.
compare = moe.compare_choice


def simulate(x, dims):
    """Write what the kernel would write."""
    scores = x["gating_output"].sigmoid()
    ids = (scores + x["correction_bias"]).topk(x["topk_ids"].shape[1], dim=1).indices
    weights = scores.gather(1, ids)
    x["topk_weights"].copy_(weights / weights.sum(dim=1, keepdim=True) if x["renormalize"] else weights)
    x["topk_ids"].copy_(ids)
