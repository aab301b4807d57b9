"""Contract of apply_shuffle_mul_sum: FLOPs, and a permutation that comes from routed tokens."""

from roofbench.contracts import _routed

# From here on, tokens that choose on their own never all choose the same experts, nor experts in ascending order.
MANY_TOKENS = 8
MANY_ROWS = 32
MANY_CHOICES = 64  # tokens times experts that one does not choose

# Runs of rows whose tokens ascend, as a part of the experts that are expected to have rows. Neighbouring experts with
# few rows can ascend together, which halves the runs, and a power law activates half of the experts.
RUNS = 0.2


def flops(d):
    """A multiplication and an addition for each element of each routed row."""
    return 2 * d["T"] * d["topk"] * d["H"]


def check(call, d):
    """Every sorted row is read once, and rows are gathered from different places, as independent tokens do it."""
    permutation = call.values.get("permutation")
    T, topk = d["T"], d["topk"]
    R = T * topk
    if permutation is None or permutation.numel() != R:
        return
    rows = permutation.flatten().long()
    ordered = rows.sort().values
    low, high = int(ordered[0]), int(ordered[-1])
    distinct = int((ordered[1:] != ordered[:-1]).sum()) + 1
    if low != 0 or high != R - 1 or distinct != R:
        yield "permutation", f"{distinct} different rows from {low} to {high}", f"each row of 0 ... {R - 1} once"
    elif T >= MANY_TOKENS and R >= MANY_ROWS and bool((rows.diff() > 0).all()):
        yield "permutation", "rows in order", "a token's rows at different experts, so not next to each other"
    elif T >= MANY_TOKENS and topk > 1 and T * (d["E"] - topk) >= MANY_CHOICES:
        yield from _check_spread(rows.view(T, topk), d)


def _check_spread(rows, d):
    """Rows sorted by expert are runs of ascending tokens, one run or less for each expert that has rows."""
    T, E, topk = d["T"], d["E"], d["topk"]
    of_token = rows.sort(dim=1).values
    if bool((of_token.diff(dim=0) == 1).all()):
        found = f"each token's rows right behind those of the token before: all {T} have the same experts"
        yield "permutation", found, f"{T} tokens that choose {topk} of {E} experts independently"
        return
    tokens = rows.new_empty(T * topk)
    tokens[rows.flatten()] = rows.new_ones((T, topk)).cumsum(0).flatten()
    runs = int((tokens.diff() <= 0).sum()) + 1
    expected = _routed.expected_active(T, E, topk)
    if runs < RUNS * expected:
        wanted = f"about {expected:.0f}, as {T} independent tokens with {topk} experts each have"
        yield "permutation", f"rows of at most {runs} of {E} experts", wanted
