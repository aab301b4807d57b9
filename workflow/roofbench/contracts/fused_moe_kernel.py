"""Contract of fused_moe_kernel (sglang's fused_moe): what it computes and moves, from its logical dimensions alone."""

from roofbench.contracts import _routed

IDS = "topk_output.topk_ids"


def flops(d):
    """Gate, up and down of every routed row, one multiply-add each."""
    return 6 * d["T"] * d["topk"] * d["H"] * d["I"]


def counts(call, d):
    """How many experts the routed ids really activate."""
    ids = call.values.get(IDS)
    return {} if ids is None else {"active_experts": int(ids.unique().numel())}


def check(call, d):
    """Ids are experts, distinct within a token and spread."""
    ids = call.values.get(IDS)
    if ids is not None:
        yield from _routed.check_ids(IDS, ids, d, getattr(call, "routing", None))
