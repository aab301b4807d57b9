"""MLA decode in float32 from the values that FP8 or bf16 hold; the kernel rounds the probabilities to FP8 as well."""

import torch

from benchlib import agreement, attention

# The function makes its output: there is nothing to poison.
POISON = ()


def expected(x, dims):
    """Queries [B, 1, Nh, 576] against L cached tokens each; returns {"out": [B, 1, Nh, 512] float32}."""
    out = attention.attend_latent(
        x["query"].squeeze(1),
        x["kv_cache"].squeeze(1),
        x["block_tables"],
        x["seq_lens"],
        x["bmm1_scale"],
        latent=x["kv_lora_rank"],
    )
    return {"out": out.unsqueeze(1)}


def actual(x, result):
    """The output is what the function returns."""
    return {"out": result}


# Each head's output has the direction and the length of its reference.
compare = agreement.mismatches


def simulate(x, dims):
    """Return what the function would return."""
    return expected(x, dims)["out"].to(torch.bfloat16)
