"""Contract of topk_sigmoid: what it computes, from its logical dimensions alone."""


def flops(d):
    """5 operations for each token and expert."""
    return 5 * d["T"] * d["E"]
