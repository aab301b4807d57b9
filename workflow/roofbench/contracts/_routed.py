"""Checks of routed experts that several contracts share.

Values are integer CPU tensors; findings are (argument, found, expected).
"""

# A power law over experts activates at least half as many as uniform routing does on average; all tokens on the
# same experts activate far fewer.
SPREAD = 0.4

# How unevenly experts are used, as a multiple of what independent tokens without preferences do (about 1): dealing
# them out evenly leaves almost nothing, a power law is far above. Judged from so many tokens, rows and experts on.
EVEN, UNEVEN = 0.3, 3.0
TOKENS_TO_JUDGE, ROWS_TO_JUDGE, EXPERTS_TO_JUDGE = 64, 4, 64


def expected_active(T, E, topk):
    return E * (1.0 - (1.0 - topk / E) ** T)


def check_spread(argument, active, d):
    """Tokens must be spread over experts as a router would do it."""
    T, E, topk = d["T"], d["E"], d["topk"]
    expected = expected_active(T, E, topk)
    if active < max(min(topk, E), SPREAD * expected):
        yield (
            argument,
            f"{active} of {E} experts have rows",
            f"about {expected:.0f}, as {T} independent tokens with {topk} experts each have",
        )


def check_kind(argument, counts, d, kind):
    """Rows per expert must look like the routing that the results say they have: uniform, balanced or power_law."""
    T, E, topk = d["T"], d["E"], d["topk"]
    mean = T * topk / E
    if kind is None or T < TOKENS_TO_JUDGE or mean < ROWS_TO_JUDGE or E < EXPERTS_TO_JUDGE:
        return
    uneven = float(((counts.double() - mean) ** 2).sum()) / mean / (E - 1) / (1 - topk / E)
    looks = "balanced" if uneven < EVEN else "uniform" if uneven < UNEVEN else "power_law"
    if looks != kind:
        least, most = int(counts.min()), int(counts.max())
        yield (
            argument,
            f"{looks} routing: {least} to {most} rows for each expert",
            f"{kind} routing, about {mean:.3g} rows",
        )


def check_logits(argument, logits, d):
    """The best experts of each token, by logits [T, E], must be spread over the experts."""
    if tuple(logits.shape) == (d["T"], d["E"]):
        yield from check_spread(argument, int(logits.float().topk(d["topk"], dim=1).indices.unique().numel()), d)


def check_bias(argument, bias):
    """A bias that outweighs the scores, which lie between 0 and 1, would send all tokens to the same experts."""
    width = float(bias.max() - bias.min())
    if width > 1.0:
        yield argument, f"a range of {width:.2f}", "at most 1: sigmoid scores lie in 0 ... 1"


def check_ids(argument, ids, d, kind=None):
    """Ids [T, topk] must be experts, distinct within a row, and spread over the experts as `kind` of routing does."""
    E, topk = d["E"], d["topk"]
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= E:
        yield argument, f"ids from {low} to {high}", f"ids from 0 to {E - 1}"
        return
    ordered = ids.sort(dim=-1).values
    repeated = (ordered[..., 1:] == ordered[..., :-1]).any(dim=-1).nonzero()
    if len(repeated):
        one = ids[tuple(repeated[0])].tolist()
        found = f"{len(repeated)} of {d['T']} tokens with an expert more than once, the first of them {one}"
        yield argument, found, f"{topk} different experts for each token"
        return
    counts = ids.flatten().long().bincount(minlength=E)
    spread = list(check_spread(argument, int((counts > 0).sum()), d))
    yield from spread or check_kind(argument, counts, d, kind)


def counts_of_ids(call, d):
    """A contract's counts() where the kernel is given topk_ids: experts that have rows."""
    ids = call.values.get("topk_ids")
    return {} if ids is None else {"active_experts": int(ids.unique().numel())}


def check_given_ids(call, d):
    """A contract's check() where the kernel is given topk_ids: distinct in a token, and spread."""
    ids = call.values.get("topk_ids")
    if ids is not None:
        yield from check_ids("topk_ids", ids, d, getattr(call, "routing", None))


def check_row_counts(argument, counts, d, kind=None):
    """Rows per expert [E] must sum to T*topk, and no expert can have more rows than there are tokens."""
    T, R = d["T"], d["T"] * d["topk"]
    total, least, most = int(counts.sum()), int(counts.min()), int(counts.max())
    if least < 0:
        yield argument, f"{least} rows for expert {int(counts.argmin())}", "offsets that do not decrease"
    elif total != R:
        yield argument, f"{total} rows in all experts", f"T*topk = {R}"
    elif most > T:
        found = f"{most} of {R} rows for expert {int(counts.argmax())}"
        yield argument, found, f"at most T = {T}, as a token has an expert once, and about {R / d['E']:.3g} on average"
    else:
        spread = list(check_spread(argument, int((counts > 0).sum()), d))
        yield from spread or check_kind(argument, counts, d, kind)


def exclusive_sum(counts):
    """Sum of all counts before each."""
    return counts.cumsum(0) - counts


def padded(counts, multiple):
    return (counts + multiple - 1) // multiple * multiple


def first_difference(found, expected):
    """Index, found and expected value of the first difference of two vectors, or None."""
    differs = (found != expected).nonzero()
    if not len(differs):
        return None
    index = int(differs[0, 0])
    return index, int(found[index]), int(expected[index])


def check_vector(argument, found, expected, meaning):
    """Two integer vectors of one length must be equal."""
    if found.shape != expected.shape:
        return
    difference = first_difference(found, expected)
    if difference:
        index, value, wanted = difference
        yield argument, f"[{index}] = {value}", f"[{index}] = {wanted}: {meaning}"
