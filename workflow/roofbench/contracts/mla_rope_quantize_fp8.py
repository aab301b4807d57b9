"""Contract of mla_rope_quantize_fp8: what it computes and moves, from its logical dimensions alone."""

from roofbench.contracts import _rope


def flops(d):
    """4 operations for each rotated element of all query heads and of the one key; the conversion is not counted."""
    return 4 * d["T"] * (d["Nh"] + 1) * d["Dr"]


def check(call, d):
    """Findings on the positions: inside the table, and different, so that each token reads a row of its own."""
    table = call.values.get("cos_sin_cache")
    if table is not None:
        yield from _rope.check_table("cos_sin_cache", table)
    positions = call.values.get("pos_ids")
    if positions is None or positions.numel() == 0:
        return
    rows = call.tensors["cos_sin_cache"].shape[0]
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= rows:
        yield "pos_ids", f"positions {low} to {high}", f"0 to {rows - 1}, the rows of cos_sin_cache"
    distinct = positions.unique().numel()
    if distinct < positions.numel() and rows >= 2 * positions.numel():
        yield "pos_ids", f"{distinct} different positions of {positions.numel()}", "one of its own for each token"
    else:
        yield from _rope.check_order("pos_ids", positions)
