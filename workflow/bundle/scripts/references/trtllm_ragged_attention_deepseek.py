"""Causal attention in float32, one request at a time; heads are taken in groups to bound the memory."""

import torch

from benchlib import agreement, attention

POISON = ("out",)


def expected(x, dims):
    """query and key [T, Nh, 192], value [T, Nh, 128], requests packed; returns {"out": [T, Nh, 128] float32}."""
    out = torch.empty(x["out"].shape, dtype=torch.float32, device=x["out"].device)
    starts_q, starts_kv = x["cum_seq_lens_q"].tolist(), x["cum_seq_lens_kv"].tolist()
    for request in range(x["batch_size"]):
        queries = slice(starts_q[request], starts_q[request + 1])
        keys = slice(starts_kv[request], starts_kv[request + 1])
        out[queries] = attention.attend(
            x["query"][queries], x["key"][keys], x["value"][keys], x["bmm1_scale"], causal=True
        )
    return {"out": out}


def actual(x, result):
    """The kernel writes the output that it is given."""
    return {"out": x["out"]}


# Each head's output has the direction and the length of its reference.
compare = agreement.mismatches


def simulate(x, dims):
    """Write what the kernel would write, and return it as the function does."""
    return x["out"].copy_(expected(x, dims)["out"])
