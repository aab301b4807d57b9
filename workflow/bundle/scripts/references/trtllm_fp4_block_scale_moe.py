"""NVFP4 mixture of experts in float32 from dequantised operands, with the routing of DeepSeek-V3.

Weights come in the kernel's layout, which is undone here: rows of gemm1 are up and gate alternately, then rows of both
are shuffled in blocks of 32; scales follow their rows and are swizzled. The activation between the two products is
rounded to NVFP4, as the kernel stores it. Routing: DeepSeek-V3, https://arxiv.org/abs/2412.19437, section 2.1.2.
"""

import torch

from benchlib import agreement, nvfp4

POISON = ("output",)

GROUPS, CHOSEN_GROUPS = 8, 4
ROUTED_SCALING_FACTOR = 2.5
SHUFFLE_BLOCK = 32


def expected(x, dims):
    """hidden_states [T, H/2] with logits [T, E]; returns {"output": [T, H] float32}."""
    ids, weights = route(x["routing_logits"], x["routing_bias"], x["top_k"])
    hidden = nvfp4.dequantise(x["hidden_states"], x["hidden_states_scale"], swizzled=False)
    out = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    for expert in ids.unique().tolist():
        tokens, slots = (ids == expert).nonzero(as_tuple=True)
        result = _expert(x, expert, hidden[tokens])
        out.index_add_(0, tokens, result * weights[tokens, slots, None])
    return {"output": out}


def route(logits, bias, topk):
    """Experts and weights of each token: int64 and float32 [T, topk].

    Experts compete by sigmoid(logit) + bias, at first in groups: the 4 of 8 groups with the largest sums of their two
    best. Weights are the sigmoids of the chosen, normalised, times the scaling factor.
    """
    scores = logits.float().sigmoid()
    ranks = (scores + bias.float()).unflatten(-1, (GROUPS, -1))
    groups = ranks.topk(2, dim=-1).values.sum(-1).topk(CHOSEN_GROUPS, dim=-1).indices
    allowed = torch.zeros(ranks.shape[:-1], dtype=torch.bool, device=logits.device).scatter_(-1, groups, True)
    ids = ranks.masked_fill(~allowed[..., None], float("-inf")).flatten(-2).topk(topk, dim=-1).indices
    chosen = scores.gather(-1, ids)
    return ids, chosen / chosen.sum(-1, keepdim=True) * ROUTED_SCALING_FACTOR


def shuffled_rows(rows):
    """Which row of a matrix lies at each row of its shuffled form: int64 [rows]; rows is a multiple of 32.

    In a block of 32, row r moves to (r % 4) * 8 + r // 4.
    """
    source = torch.arange(rows).reshape(-1, SHUFFLE_BLOCK // 4, 4)
    return source.transpose(1, 2).reshape(-1)


def interleaved_rows(rows):
    """Which row of [up; gate] lies at each row of the interleaved form: up 0, gate 0, up 1, gate 1, ..."""
    return torch.arange(rows).reshape(2, -1).T.reshape(-1)


def _weights(packed, scales, order):
    """float32 matrix of one expert in its original row order; order says which original row each stored row is."""
    stored = nvfp4.dequantise(packed, scales)
    matrix = torch.empty_like(stored)
    matrix[order.to(stored.device)] = stored
    return matrix


def _expert(x, expert, hidden):
    """One expert applied to its tokens, hidden float32 [m, H] in units of the tokens' global scale; float32 [m, H]."""
    gemm1, gemm2 = x["gemm1_weights"][expert], x["gemm2_weights"][expert]
    order = interleaved_rows(gemm1.shape[0])[shuffled_rows(gemm1.shape[0])]
    up, gate = (hidden @ _weights(gemm1, x["gemm1_weights_scale"][expert], order).T).chunk(2, dim=-1)
    alpha = x["output1_scale_gate_scalar"][expert]
    # output1_scale_scalar is alpha times the global scale with which the activation is quantised.
    quantised_scale = x["output1_scale_scalar"][expert] / alpha
    activation = torch.nn.functional.silu(gate * alpha) * (up * alpha)
    packed, scales = nvfp4.quantise(activation, quantised_scale, swizzled=False)
    activation = nvfp4.dequantise(packed, scales, swizzled=False)
    down = _weights(gemm2, x["gemm2_weights_scale"][expert], shuffled_rows(gemm2.shape[0]))
    return activation @ down.T * x["output2_scale_scalar"][expert]


def actual(x, result):
    """The kernel writes the output that it is given."""
    return {"output": x["output"]}


# Most tokens' outputs have the direction of their references; a tie in the routing may change one.
compare = agreement.mismatches


def simulate(x, dims):
    """Write what the kernel would write, and return it as the function does."""
    return [x["output"].copy_(expected(x, dims)["output"])]
