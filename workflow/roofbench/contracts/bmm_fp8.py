"""Contract of bmm_fp8: what it computes, from its logical dimensions alone."""


def flops(d):
    """A multiplication and an addition for each element of the inner dimension, at every output element and batch."""
    return 2 * d["Nb"] * d["T"] * d["N"] * d["Kd"]
