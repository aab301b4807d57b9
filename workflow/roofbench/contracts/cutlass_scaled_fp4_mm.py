"""Contract of cutlass_scaled_fp4_mm: what it computes, from its logical dimensions alone."""


def flops(d):
    """A multiplication and an addition for each element of the inner dimension, at every output element."""
    return 2 * d["T"] * d["N"] * d["Kd"]
