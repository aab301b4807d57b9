"""Contract of trtllm_fp4_block_scale_moe: what it computes and moves, from its logical dimensions alone."""


def flops(d):
    """Gate, up and down of every routed row, one multiply-add each."""
    return 6 * d["T"] * d["topk"] * d["H"] * d["I"]
