"""Offsets, problem sizes and permutations of a grouped GEMM, counted from the routed ids."""

import torch

from benchlib import moe

POISON = (
    "expert_offsets",
    "blockscale_offsets",
    "problem_sizes1",
    "problem_sizes2",
    "input_permutation",
    "output_permutation",
)
EXACT = POISON[:4]


def expected(x, dims):
    """Offsets and sizes have one right value; for the permutations, the ids are returned that they must fit."""
    ids, E, n, k = x["topk_ids"], x["num_experts"], x["n"], x["k"]
    return {
        "expert_offsets": moe.expert_offsets(ids, E),
        "blockscale_offsets": moe.blockscale_offsets(ids, E),
        "problem_sizes1": moe.problem_sizes(ids, E, 2 * n, k),
        "problem_sizes2": moe.problem_sizes(ids, E, k, n),
        "topk_ids": ids.clone(),
    }


def actual(x, result):
    """The kernel writes all of its results into its arguments."""
    return {name: x[name] for name in POISON}


def compare(actual, expected, tolerance):
    """Sizes and offsets exactly; permutations as such, since the rows of one expert come in any order."""
    problems = []
    for name in EXACT:
        wrong = actual[name].long() != expected[name].long()
        if bool(wrong.any()):
            at = wrong.nonzero()[0].tolist()
            problems.append(
                f"{name}: {int(wrong.sum())} of {wrong.numel()} differ, at {at} "
                f"{int(actual[name][tuple(at)])} and not {int(expected[name][tuple(at)])}"
            )
    ids = expected["topk_ids"]
    topk, R = ids.shape[1], ids.numel()
    source, target = actual["input_permutation"].long(), actual["output_permutation"].long()
    routed = torch.arange(R, device=ids.device)
    if bool((target.sort().values != routed).any()):
        return [*problems, f"output_permutation: not a permutation of 0 ... {R - 1}"]
    wrong = source[target] != routed // topk
    if bool(wrong.any()):
        problems.append(f"input_permutation: {int(wrong.sum())} of {R} sorted rows hold another token's row")
    experts = ids.reshape(-1).long()
    offsets = expected["expert_offsets"].long()
    misplaced = (target < offsets[experts]) | (target >= offsets[experts + 1])
    if bool(misplaced.any()):
        problems.append(f"output_permutation: {int(misplaced.sum())} of {R} rows lie outside of their expert's")
    return problems


def simulate(x, dims):
    """Write what the kernel would write, the rows of an expert in the order of their tokens."""
    wanted = expected(x, dims)
    for name in EXACT:
        x[name].copy_(wanted[name])
    source, target = moe.permutations(x["topk_ids"], x["num_experts"])
    x["input_permutation"].copy_(source)
    x["output_permutation"].copy_(target)
