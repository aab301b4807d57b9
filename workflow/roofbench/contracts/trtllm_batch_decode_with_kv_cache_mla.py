"""Contract of trtllm_batch_decode_with_kv_cache_mla: what it computes and moves, from its logical dimensions alone."""

from roofbench.contracts import _paged

PAGE = 64


def flops(d):
    """Scores of 576 and a weighted sum of 512, one multiply-add each, for every query, head and cached token."""
    return 2 * d["B"] * d["Nh"] * d["L"] * (d["Lkv"] + d["Dr"] + d["Lkv"])


def check(call, d):
    """Findings on the block table, the pool and the lengths."""
    yield from _paged.check(call, "block_tables", "kv_cache", "seq_lens", PAGE, d["Lkv"] + d["Dr"], d["L"])
