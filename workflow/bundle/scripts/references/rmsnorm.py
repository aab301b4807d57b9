"""RMSNorm in float32 (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

POISON = ("output",)


def expected(x, dims):
    """y = x / sqrt(mean(x^2) + eps) * weight for x [T, D]; returns {"output": [T, D] float32}."""
    rows = x["input"].float()
    scale = rows.pow(2).mean(-1, keepdim=True).add(x["eps"]).rsqrt()
    return {"output": rows * scale * x["weight"].float()}


def actual(x, result):
    """The kernel writes into its first argument and returns nothing."""
    return {"output": x["output"]}


def simulate(x, dims):
    """Write what the kernel would write."""
    x["output"].copy_(expected(x, dims)["output"])
