"""Contract of topk_softmax: what it computes, from its logical dimensions alone."""

from roofbench.contracts import _routed


def flops(d):
    """5 operations for each token and expert."""
    return 5 * d["T"] * d["E"]


def check(call, d):
    """Tokens must prefer different experts."""
    logits = call.values.get("gating_output")
    if logits is not None:
        yield from _routed.check_logits("gating_output", logits, d)
