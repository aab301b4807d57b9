"""Matrix product of dequantised NVFP4 operands in float32."""

import torch

from benchlib import nvfp4

# The function makes its output: there is nothing to poison.
POISON = ()

# Rows of the weight that are dequantised at a time, which bounds the memory that the check takes.
CHUNK = 2048


def expected(x, dims):
    """alpha * a [T, Kd] times b [N, Kd] transposed, both dequantised; returns {"out": [T, N] float32}."""
    a = _dequantise(x["a"], x["block_scale_a"])
    return {"out": a @ _dequantise(x["b"], x["block_scale_b"]).T * x["alpha"]}


def _dequantise(packed, scales):
    rows, cols = packed.shape[0], packed.shape[1] * 2
    linear = nvfp4.unswizzle(scales, rows, cols)
    out = torch.empty((rows, cols), dtype=torch.float32, device=packed.device)
    for start in range(0, rows, CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = nvfp4.dequantise(packed[part], linear[part], swizzled=False)
    return out


def actual(x, result):
    """The output is what the function returns."""
    return {"out": result}


def simulate(x, dims):
    """Return what the function would return."""
    return expected(x, dims)["out"].to(torch.bfloat16)
