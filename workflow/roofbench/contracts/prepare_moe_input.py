"""Contract of prepare_moe_input: it only moves data; the routed ids must be a router's."""

from roofbench.contracts import _routed


def flops(d):
    """None that count."""
    return 0


def counts(call, d):
    """Experts that have rows."""
    ids = call.values.get("topk_ids")
    return {} if ids is None else {"active_experts": int(ids.unique().numel())}


def check(call, d):
    """Ids are experts, distinct within a token and spread."""
    ids = call.values.get("topk_ids")
    if ids is not None:
        yield from _routed.check_ids("topk_ids", ids, d, getattr(call, "routing", None))
