"""The sum of input and residual, and its RMSNorm, in float32 (https://arxiv.org/abs/1910.07467)."""

# Both tensors are inputs as well: there is nothing to poison.
POISON = ()


def expected(x, dims):
    """residual = input + residual, input = residual / sqrt(mean(residual^2) + eps) * weight.

    Returns {"residual": [T, D] float32, "input": [T, D] float32}. The sum that is normalised is not rounded.
    """
    total = x["input"].float() + x["residual"].float()
    scale = total.pow(2).mean(-1, keepdim=True).add(x["eps"]).rsqrt()
    return {"residual": total, "input": total * scale * x["weight"].float()}


def actual(x, result):
    """The kernel works in place and returns nothing."""
    return {"residual": x["residual"], "input": x["input"]}


def simulate(x, dims):
    """Write what the kernel would write."""
    for name, value in expected(x, dims).items():
        x[name].copy_(value)
