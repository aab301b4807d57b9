"""Contract of fused_add_rmsnorm: what it computes, from its logical dimensions alone."""


def flops(d):
    """6 operations an element: the addition, and the 5 of RMSNorm."""
    return 6 * d["T"] * d["D"]
