"""Gate of DeepSeek-V3 in float64: sigmoid scores, a bias for the choice only, the best groups, top-k within them.

DeepSeek-V3 Technical Report, section 2.1.2 (https://arxiv.org/abs/2412.19437).
"""

from benchlib import moe

# The function makes its outputs: there is nothing to poison.
POISON = ()


def expected(x, dims):
    """Logits [T, E]; returns ids, rows in which ids may differ, and the scores that weights are made of."""
    scores = x["input_tensor"].double().sigmoid()
    biased = scores + x["bias"].double()
    grouped = biased.unflatten(1, (x["num_expert_group"], -1))
    group_scores = grouped.topk(min(2, grouped.shape[2]), dim=2).values.sum(dim=2)
    groups, close_groups = moe.choose(group_scores, x["topk_group"])
    outside = grouped.new_ones(group_scores.shape).scatter_(1, groups, 0.0).bool()
    ids, close = moe.choose(grouped.masked_fill(outside.unsqueeze(2), -1e9).flatten(1), x["topk"])
    return {"ids": ids, "close": close | close_groups, "scores": scores, "normalise": True}


def actual(x, result):
    """The function returns weights [T, topk] and ids [T, topk]."""
    weights, ids = result
    return {"ids": ids, "weights": weights}


# The same experts, in any order within a row, with the right weights.
compare = moe.compare_choice


def simulate(x, dims):
    """Return what the function would return: [weights float32 [T, topk], ids int32 [T, topk]]."""
    choice = expected(x, dims)
    weights = choice["scores"].gather(1, choice["ids"])
    return [(weights / weights.sum(dim=1, keepdim=True)).float(), choice["ids"].int()]
