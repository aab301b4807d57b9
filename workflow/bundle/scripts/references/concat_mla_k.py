"""Each head's own key part, followed by the rotary part that all heads share: a copy, so it is exact."""

import torch

POISON = ("k",)


def expected(x, dims):
    """k_nope [T, Nh, Dn] beside k_rope [T, 1, Dr] repeated for every head; returns {"k": [T, Nh, Dn+Dr] bf16}."""
    heads = x["k_nope"].shape[1]
    return {"k": torch.cat((x["k_nope"], x["k_rope"].expand(-1, heads, -1)), dim=-1)}


def actual(x, result):
    """The kernel writes into its first argument and returns nothing."""
    return {"k": x["k"]}


def simulate(x, dims):
    """Write what the kernel would write."""
    x["k"].copy_(expected(x, dims)["k"])
