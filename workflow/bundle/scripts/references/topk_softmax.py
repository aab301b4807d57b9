"""Softmax over the experts in float64, and the best top-k of each token."""

from benchlib import moe

POISON = ("topk_weights", "topk_ids")


def expected(x, dims):
    """softmax(logits [T, E]); returns ids, rows in which ids may differ, and the scores that weights are made of."""
    scores = x["gating_output"].double().softmax(dim=1)
    ids, close = moe.choose(scores, x["topk_ids"].shape[1])
    return {"ids": ids, "close": close, "scores": scores, "normalise": x["renormalize"]}


def actual(x, result):
    """The kernel writes weights and ids, and returns nothing."""
    return {"ids": x["topk_ids"], "weights": x["topk_weights"]}


# The same experts, in any order within a row, with the right weights.
compare = moe.compare_choice


def simulate(x, dims):
    """Write what the kernel would write."""
    scores = x["gating_output"].softmax(dim=1)
    weights, ids = scores.topk(x["topk_ids"].shape[1], dim=1)
    x["topk_weights"].copy_(weights / weights.sum(dim=1, keepdim=True) if x["renormalize"] else weights)
    x["topk_ids"].copy_(ids)
