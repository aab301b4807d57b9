"""Contract of apply_rope_with_cos_sin_cache_inplace: what it computes, and which rows of the table it may read."""

from roofbench.contracts import _rope


def flops(d):
    """4 operations an element of query and key: two products, a sum, and a share of the pair's other half."""
    return 4 * d["T"] * (d["Nh"] + d["Kh"]) * d["Dr"]


def check(call, d):
    """The table is as wide as a head, and the positions are distinct rows of it.

    They are distinct because the bytes count a row of the table for each token. Values that cannot be known are
    not checked here.
    """
    table = call.tensors.get("cos_sin_cache")
    if table is None:
        return
    rows, width = tuple(table.shape)
    if width != d["Dr"]:
        yield "cos_sin_cache", f"{width} columns", f"{d['Dr']} columns: cosines, then sines"
    values = call.values.get("cos_sin_cache")
    if values is not None:
        yield from _rope.check_table("cos_sin_cache", values)
    positions = call.values.get("positions")
    if positions is None or positions.numel() == 0:
        return
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= rows:
        yield "positions", f"values from {low} to {high}", f"rows of the table, 0 to {rows - 1}"
    distinct = positions.unique().numel()
    if distinct != positions.numel():
        yield "positions", f"{distinct} distinct values", f"{positions.numel()}, one for each token"
    elif d.get("S") == 1:
        yield from _rope.check_order("positions", positions)
