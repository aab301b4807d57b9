"""Contract of rmsnorm: what it computes, from its logical dimensions alone."""


def flops(d):
    """5 operations an output element: square, add, scale, normalise, weigh."""
    return 5 * d["T"] * d["D"]
