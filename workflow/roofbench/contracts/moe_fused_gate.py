"""Contract of moe_fused_gate: what it computes, from its logical dimensions alone."""

from roofbench.contracts import _routed


def flops(d):
    """5 operations for each token and expert."""
    return 5 * d["T"] * d["E"]


def check(call, d):
    """Tokens must prefer different experts, and the bias must leave them their choice."""
    logits, bias = call.values.get("input_tensor"), call.values.get("bias")
    if logits is not None:
        yield from _routed.check_logits("input_tensor", logits, d)
    if bias is not None:
        yield from _routed.check_bias("bias", bias)
