"""Bookkeeping of mixture-of-experts: from the experts of each token to what grouped kernels read.

`ids` is an integer tensor [T, topk] on the CPU (Random.routing makes one) with experts 0 ... E-1. A routed row is one
pair of token and expert; there are R = T * topk of them, row i belongs to token i // topk. All results are on the CPU.
"""

from .torch_or_none import torch

# Rows to which the scale factors of one expert are padded, so that each begins a tile of 128 x 4.
SCALE_ROWS = 128

# Scores whose relative difference is less may change places in a kernel that uses float32 and fast exponentials.
TIE = 1e-5


def rows_per_expert(ids, E):
    """How many rows each expert gets: int64 [E]."""
    return torch.bincount(ids.reshape(-1).long(), minlength=E)


def _offsets(counts):
    offsets = torch.zeros(counts.numel() + 1, dtype=torch.int32, device=counts.device)
    offsets[1:] = counts.cumsum(0)
    return offsets


def expert_offsets(ids, E):
    """First row of each expert when rows are sorted by expert, and R at the end: int32 [E+1]."""
    return _offsets(rows_per_expert(ids, E))


def blockscale_offsets(ids, E):
    """First row of each expert's scale factors, every expert padded to 128 rows: int32 [E+1]."""
    return _offsets((rows_per_expert(ids, E) + SCALE_ROWS - 1) // SCALE_ROWS * SCALE_ROWS)


def problem_sizes(ids, E, N, K):
    """M, N and K of each expert's product: int32 [E, 3]."""
    sizes = torch.empty((E, 3), dtype=torch.int32, device=ids.device)
    sizes[:, 0] = rows_per_expert(ids, E)
    sizes[:, 1] = N
    sizes[:, 2] = K
    return sizes


def permutations(ids, E):
    """The two maps between tokens and rows sorted by expert, both int32 [R].

    Returns (input_permutation, output_permutation): sorted row p holds token input_permutation[p], and row i of the
    token order went to sorted row output_permutation[i]. Rows of an expert keep the order of their tokens.
    """
    topk = ids.shape[1]
    source = ids.reshape(-1).long().argsort(stable=True)
    target = torch.empty_like(source)
    target[source] = torch.arange(source.numel(), device=ids.device)
    return (source // topk).to(torch.int32), target.to(torch.int32)


def active_experts(ids, E=None):
    """How many different experts occur: the weights that a kernel must read."""
    return int(ids.unique().numel())


def expected_active_experts(T, E, topk):
    """Expected number of different experts of T independent tokens: E * (1 - (1 - topk/E)^T)."""
    return E * (1.0 - (1.0 - topk / E) ** T)


def blockscale_capacity(R, E):
    """Rows that the scale factors of R routed rows can need at worst, each of at most min(R, E) experts padded."""
    return (R + (SCALE_ROWS - 1) * min(R, E)) // SCALE_ROWS * SCALE_ROWS


def aligned_blocks(R, E, block):
    """Blocks that R routed rows can need at worst when each expert is padded to a multiple of `block`.

    At most min(R, E + 1) groups have rows: experts, and one group of filtered tokens. Each wastes at most block - 1.
    """
    return -(-(R + min(R, E + 1) * (block - 1)) // block)


def choose(scores, topk):
    """The topk best of each row of scores [T, E], for comparison with a kernel that works in lower precision.

    Returns ids int64 [T, topk] and, bool [T], the rows in which the last chosen and the first not chosen are so close
    that rounding decides.
    """
    best = scores.topk(min(topk + 1, scores.shape[1]), dim=1)
    if best.values.shape[1] == topk:
        return best.indices, torch.zeros(scores.shape[0], dtype=torch.bool, device=scores.device)
    last, next_best = best.values[:, topk - 1], best.values[:, topk]
    return best.indices[:, :topk], last - next_best < TIE * last.abs()


def compare_choice(actual, expected, tolerance):
    """Mismatches between the choice of a kernel and the expected one, whatever the order within a row.

    actual: {"ids": [T, topk], "weights": [T, topk]}. expected: {"ids": [T, topk], "close": bool [T], rows whose ids
    may differ; "scores": [T, E], what the weights are made of; "normalise": bool, to a sum of 1}.
    """
    ids, weights, scores = actual["ids"].long(), actual["weights"].double(), expected["scores"].double()
    T, E = scores.shape
    outside = (ids < 0) | (ids >= E)
    if bool(outside.any()):
        return [f"ids: {int(outside.sum())} of {ids.numel()} are not experts 0 ... {E - 1}"]
    problems = []
    ordered = ids.sort(dim=1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
    if bool(repeated.any()):
        problems.append(f"ids: {int(repeated.sum())} of {T} tokens have an expert twice")
    other = (ordered != expected["ids"].sort(dim=1).values).any(dim=1) & ~expected["close"]
    if bool(other.any()):
        row = int(other.nonzero()[0])
        problems.append(
            f"ids: {int(other.sum())} of {T} tokens have other experts, "
            f"token {row} {ordered[row].tolist()} and not {expected['ids'][row].sort().values.tolist()}"
        )
    wanted = scores.gather(1, ids)
    if expected["normalise"]:
        wanted = wanted / wanted.sum(dim=1, keepdim=True)
    near = (weights - wanted).abs() <= tolerance.atol + tolerance.rtol * wanted.abs()  # NaN is never near
    if not bool(near.all()):
        row, column = (~near).nonzero()[0].tolist()
        problems.append(
            f"weights: {int((~near).sum())} of {near.numel()} differ, of token {row} and expert "
            f"{int(ids[row, column])} {float(weights[row, column]):.6g} and not {float(wanted[row, column]):.6g}"
        )
    return problems
