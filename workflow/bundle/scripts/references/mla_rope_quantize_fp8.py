"""Rotary embedding of neighbouring pairs in float32 (Su et al. 2021, https://arxiv.org/abs/2104.09864), then FP8."""

import torch

from benchlib import nvfp4

POISON = ("q_rope_out", "k_rope_out", "q_nope_out", "k_nope_out")


def expected(x, dims):
    """The four parts as the float32 values that FP8 (e4m3) can hold, both scales being 1."""
    cos, sin = x["cos_sin_cache"][x["pos_ids"]].chunk(2, dim=-1)
    parts = {
        "q_rope_out": _rotate(x["q_rope"].float(), cos[:, None], sin[:, None]),
        "k_rope_out": _rotate(x["k_rope"].float(), cos, sin),
        "q_nope_out": x["q_nope"],
        "k_nope_out": x["k_nope"],
    }
    return {name: nvfp4.to_e4m3(part).float() for name, part in parts.items()}


def _rotate(x, cos, sin):
    """Pair i, elements 2i and 2i + 1, turned by the angle of frequency i; x [..., Dr], cos and sin [..., Dr/2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def actual(x, result):
    """The kernel writes four outputs, two of them slices of one query."""
    return {name: x[name] for name in POISON}


def simulate(x, dims):
    """Write what the kernel would write, and return it as the function does."""
    for name, value in expected(x, dims).items():
        x[name].copy_(value)
    return tuple(x[name] for name in POISON)
