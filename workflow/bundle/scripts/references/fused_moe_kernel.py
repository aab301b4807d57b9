"""Mixture of experts in float32: the weighted sum of down(silu(gate) * up) over each token's experts."""

import torch

from benchlib import agreement

# The function makes its output: there is nothing to poison.
POISON = ()


def expected(x, dims):
    """hidden_states [T, H] through w1, rows [gate; up], and w2 of its experts; returns {"out": [T, H] float32}."""
    hidden, ids, weights = x["hidden_states"], x["topk_ids"], x["topk_weights"]
    out = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    for expert in ids.unique().tolist():
        tokens, slots = (ids == expert).nonzero(as_tuple=True)
        gate, up = (hidden[tokens].float() @ x["w1"][expert].float().T).chunk(2, dim=-1)
        down = torch.nn.functional.silu(gate).mul_(up) @ x["w2"][expert].float().T
        out.index_add_(0, tokens, down.mul_(weights[tokens, slots, None]))
    return {"out": out}


def actual(x, result):
    """The output is what the function returns."""
    return {"out": result}


# Each token's output has the direction and the length of its reference.
compare = agreement.mismatches


def simulate(x, dims):
    """Return what the function would return."""
    return expected(x, dims)["out"].to(torch.bfloat16)
