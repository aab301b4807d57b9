"""Contract of moe_fused_gate: what it computes, from its logical dimensions alone."""


def flops(d):
    """5 operations for each token and expert."""
    return 5 * d["T"] * d["E"]


def check(call, d):
    """A bias that outweighs the scores, which lie between 0 and 1, would send all tokens to the same experts."""
    bias = call.values.get("bias")
    if bias is not None and float(bias.max() - bias.min()) > 1.0:
        yield "bias", f"a range of {float(bias.max() - bias.min()):.2f}", "at most 1: sigmoid scores lie in 0 ... 1"
