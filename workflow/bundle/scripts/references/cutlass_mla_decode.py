"""MLA decode in float32: softmax(sm_scale * q k^T) times the first 512 numbers of k, over the pages of each request."""

import torch

from benchlib import agreement, attention

# The function makes its output: there is nothing to poison.
POISON = ()


def expected(x, dims):
    """Queries [B, Nh, 512 + 64] against L cached tokens each; returns {"out": [B, Nh, 512] float32}."""
    query = torch.cat((x["q_nope"], x["q_pe"]), dim=-1)
    out = attention.attend_latent(
        query, x["kv_cache"], x["page_table"], x["seq_lens"], x["sm_scale"], latent=x["q_nope"].shape[-1]
    )
    return {"out": out}


def actual(x, result):
    """The output is what the function returns."""
    return {"out": result}


# Each head's output has the direction and the length of its reference.
compare = agreement.mismatches


def simulate(x, dims):
    """Return what the function would return."""
    return expected(x, dims)["out"].to(torch.bfloat16)
