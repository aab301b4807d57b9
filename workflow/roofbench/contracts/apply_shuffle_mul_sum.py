"""Contract of apply_shuffle_mul_sum: FLOPs, and a permutation that is one."""


def flops(d):
    """A multiplication and an addition for each element of each routed row."""
    return 2 * d["T"] * d["topk"] * d["H"]


def check(call, d):
    """Every sorted row is read once, and rows are gathered from different places."""
    permutation = call.values.get("permutation")
    R = d["T"] * d["topk"]
    if permutation is None or permutation.numel() != R:
        return
    ordered = permutation.flatten().sort().values
    low, high = int(ordered[0]), int(ordered[-1])
    distinct = int((ordered[1:] != ordered[:-1]).sum()) + 1
    if low != 0 or high != R - 1 or distinct != R:
        yield "permutation", f"{distinct} different rows from {low} to {high}", f"each row of 0 ... {R - 1} once"
    elif d["T"] > 1 and bool((permutation.flatten()[1:] > permutation.flatten()[:-1]).all()):
        yield "permutation", "rows in order", "a token's rows at different experts, so not next to each other"
