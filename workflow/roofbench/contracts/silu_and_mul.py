"""Contract of silu_and_mul: what it computes, from its logical dimensions alone."""


def flops(d):
    """4 operations an output element: exponential, addition, division, and the product of gate and up."""
    return 4 * d["T"] * d["per_token"] * d["D"]
