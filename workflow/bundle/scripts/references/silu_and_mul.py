"""SiLU of the gate, times up, in float32 (SwiGLU: Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

POISON = ("out",)


def expected(x, dims):
    """gate / (1 + exp(-gate)) * up for input [rows, 2*D] = (gate, up); returns {"out": [rows, D] float32}."""
    gate, up = x["input"].float().chunk(2, dim=-1)
    return {"out": gate * gate.sigmoid() * up}


def actual(x, result):
    """The kernel writes into `out`, which the function returns again."""
    return {"out": x["out"]}


def simulate(x, dims):
    """Write what the kernel would write."""
    return x["out"].copy_(expected(x, dims)["out"])
