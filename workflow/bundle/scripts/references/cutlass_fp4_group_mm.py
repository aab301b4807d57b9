"""Matrix products of dequantised NVFP4 operands in float32, one for each expert that has rows."""

import torch

from benchlib import nvfp4

# The function makes its output: there is nothing to poison.
POISON = ()


def expected(x, dims):
    """alpha[e] * a[rows of e] times b[e] transposed; returns {"out": [R, N] float32}."""
    a, b, params = x["a_fp4"], x["b_fp4"], x["params"]
    K = a.shape[1] * 2
    out = torch.empty((a.shape[0], b.shape[1]), dtype=torch.float32, device=a.device)
    counts = params["problem_sizes"][:, 0].tolist()
    offsets, blocks = params["expert_offsets"].tolist(), params["blockscale_offsets"].tolist()
    for expert, (count, first, block) in enumerate(zip(counts, offsets, blocks, strict=True)):
        if count == 0:
            continue
        scales = x["a_blockscale"][block : block + nvfp4.scale_shape(count, K)[0]]
        rows = nvfp4.dequantise(a[first : first + count], scales)
        weight = nvfp4.dequantise(b[expert], x["b_blockscale"][expert])
        out[first : first + count] = rows @ weight.T * x["alphas"][expert]
    return {"out": out}


def actual(x, result):
    """The output is what the function returns."""
    return {"out": result}


def simulate(x, dims):
    """Return what the function would return."""
    return expected(x, dims)["out"].to(torch.bfloat16)
