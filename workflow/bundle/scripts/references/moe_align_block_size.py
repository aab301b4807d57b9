"""Routed rows sorted by expert, each expert filled up to whole blocks."""

import torch

from benchlib import moe

POISON = ("sorted_token_ids", "experts_ids", "num_tokens_post_pad")


def expected(x, dims):
    """Length and experts of blocks have one right value; for the sorted rows, what they must fit is returned."""
    ids, block = x["topk_ids"], x["block_size"]
    # One slot of num_experts is for filtered tokens, of which there are none.
    rows = moe.rows_per_expert(ids, x["num_experts"] - 1)
    blocks = (rows + block - 1) // block
    experts = torch.arange(rows.numel(), device=ids.device).repeat_interleave(blocks)
    return {"rows": rows, "experts_ids": experts, "length": int(blocks.sum()) * block, "topk_ids": ids.clone()}


def actual(x, result):
    """The kernel writes the sorted rows, the expert of each block, and the length."""
    return {name: x[name] for name in POISON}


def compare(actual, expected, tolerance):
    """Length and experts of blocks exactly; sorted rows as a set for each expert, padding (T*topk) behind them."""
    length = int(actual["num_tokens_post_pad"])
    if length != expected["length"]:
        return [f"num_tokens_post_pad: {length} and not {expected['length']}"]
    problems = []
    experts = expected["experts_ids"]
    wrong = actual["experts_ids"][: experts.numel()].long() != experts
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        problems.append(
            f"experts_ids: {int(wrong.sum())} of {experts.numel()} blocks differ, block {at} is of expert "
            f"{int(actual['experts_ids'][at])} and not {int(experts[at])}"
        )
    ids, rows = expected["topk_ids"].reshape(-1).long(), expected["rows"]
    R, block = ids.numel(), length // max(experts.numel(), 1)
    ordered = actual["sorted_token_ids"].long()
    if bool((ordered[length:] != R).any()):
        problems.append(f"sorted_token_ids: entries behind the last block are not the padding {R}")
    ordered = ordered[:length]
    is_row = ordered != R
    if ordered[is_row].sort().values.tolist() != list(range(R)):
        return [*problems, f"sorted_token_ids: not each of the rows 0 ... {R - 1} once"]
    of_block = experts.repeat_interleave(block)
    misplaced = int((ids[ordered[is_row]] != of_block[is_row]).sum())
    if misplaced:
        problems.append(f"sorted_token_ids: {misplaced} of {R} rows are in a block of another expert")
    padded = (rows + block - 1) // block * block
    place = torch.arange(length, device=ids.device) - (padded.cumsum(0) - padded)[of_block]
    if not misplaced and bool((is_row != (place < rows[of_block])).any()):
        problems.append("sorted_token_ids: padding stands before rows of its expert")
    return problems


def simulate(x, dims):
    """Write what the kernel would write, the rows of an expert in the order of their tokens."""
    wanted = expected(x, dims)
    ids, rows, block = x["topk_ids"].reshape(-1).long(), wanted["rows"], x["block_size"]
    padded = (rows + block - 1) // block * block
    order = ids.argsort(stable=True)
    place = torch.arange(order.numel(), device=ids.device) - (rows.cumsum(0) - rows)[ids[order]]
    x["sorted_token_ids"].fill_(order.numel())
    x["sorted_token_ids"][(padded.cumsum(0) - padded)[ids[order]] + place] = order.int()
    x["experts_ids"][: wanted["experts_ids"].numel()] = wanted["experts_ids"].int()
    x["num_tokens_post_pad"].fill_(wanted["length"])
