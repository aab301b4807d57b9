"""Contract of trtllm_fp4_block_scale_moe: what it computes and moves, from its logical dimensions alone."""

from roofbench.contracts import _routed

TUNER = "flashinfer.autotuner:autotune"


def flops(d):
    """Gate, up and down of every routed row, one multiply-add each."""
    return 6 * d["T"] * d["topk"] * d["H"] * d["I"]


def check(call, d):
    """Tiles are tuned before the timing, for this many tokens; tokens prefer different experts."""
    tuned = getattr(call, "helpers", {}).get(TUNER, [])
    if tuned and tuned[-1]["tune_mode"] is not True:
        yield "warm_up", f"autotune({tuned[-1]['tune_mode']})", "autotune(True), once a point before it is timed"
    logits, bias = call.values.get("routing_logits"), call.values.get("routing_bias")
    if logits is not None:
        yield from _routed.check_logits("routing_logits", logits, d)
    if bias is not None:
        yield from _routed.check_bias("routing_bias", bias.float())
