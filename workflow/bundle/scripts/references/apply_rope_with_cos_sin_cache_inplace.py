"""Rotary embedding of neighbouring pairs in float32 (Su et al. 2021, https://arxiv.org/abs/2104.09864)."""

import torch

# Query and key are inputs as well: there is nothing to poison.
POISON = ()


def expected(x, dims):
    """Rotate elements (2i, 2i+1) of each head by the angle of frequency i at the token's position.

    query [T, Nh*Dr] and key [T, Kh*Dr] bf16, cos_sin_cache [rows, Dr] float32 with cosines, then sines, positions [T].
    Returns {"query": float32, "key": float32} in the shapes that came in.
    """
    angles = x["cos_sin_cache"][x["positions"].long()].float().unsqueeze(1)
    cos, sin = angles.chunk(2, dim=-1)
    return {name: _rotate(x[name], cos, sin) for name in ("query", "key")}


def _rotate(tensor, cos, sin):
    pairs = tensor.float().unflatten(-1, (-1, cos.shape[-1], 2))
    even, odd = pairs.unbind(-1)
    rotated = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return rotated.reshape(tensor.shape)


def actual(x, result):
    """The kernel works in place and returns nothing."""
    return {"query": x["query"], "key": x["key"]}


def simulate(x, dims):
    """Write what the kernel would write."""
    for name, value in expected(x, dims).items():
        x[name].copy_(value)
