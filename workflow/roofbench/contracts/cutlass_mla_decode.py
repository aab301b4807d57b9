"""Contract of cutlass_mla_decode: what it computes and moves, from its logical dimensions alone."""

from roofbench.contracts import _paged

PAGE = 128
SIZE = "sgl_kernel:cutlass_mla_get_workspace_size"


def flops(d):
    """Scores of 576 and a weighted sum of 512, one multiply-add each, for every query, head and cached token."""
    return 2 * d["B"] * d["Nh"] * d["L"] * (d["Lkv"] + d["Dr"] + d["Lkv"])


def check(call, d):
    """Findings on the page table, the pool and the lengths, and on how the size of the workspace was asked for."""
    yield from _paged.check(call, "page_table", "kv_c_and_k_pe_cache", "seq_lens", PAGE, d["Lkv"] + d["Dr"], d["L"])
    asked = getattr(call, "helpers", {}).get(SIZE)
    if asked:
        yield from _check_size(asked[-1], call.argument("num_kv_splits", 1), d)


def _check_size(asked, splits, d):
    """The size depends on the splits, on the requests and on the longest row of the page table, and on nothing else."""
    room = -(-d["L"] // PAGE) * PAGE
    wanted = {"max_seq_len": room, "num_batches": d["B"], "sm_count": 0, "num_kv_splits": splits}
    for name, value in wanted.items():
        if asked.get(name) != value:
            hint = ", the third position; num_kv_splits is given by its name" if name == "sm_count" else ""
            yield "workspace", f"the size of {SIZE.partition(':')[2]}({_shown(asked)})", f"{name}={value}{hint}"


def _shown(asked):
    names = ("max_seq_len", "num_batches", "sm_count", "num_kv_splits")
    return ", ".join(f"{name}={asked.get(name)}" for name in names)
