"""Contract of cutlass_fp4_group_mm: FLOPs, activated experts, and sizes, offsets and strides that fit each other."""

from roofbench.contracts import _routed


def flops(d):
    """A multiplication and an addition for each element of the inner dimension, at every output element."""
    return 2 * d["T"] * d["topk"] * d["N"] * d["Kd"]


def counts(call, d):
    """Experts that have rows: only their weights are read."""
    sizes = call.values.get("params.problem_sizes")
    return {} if sizes is None else {"active_experts": int((sizes[:, 0] > 0).sum())}


def check(call, d):
    """Sizes are (rows, N, K) of each expert; offsets are exclusive prefix sums of rows and of rows padded to 128."""
    E, N, Kd = d["E"], d["N"], d["Kd"]
    for name, wanted in (("params.ab_strides", Kd), ("params.c_strides", N)):
        values = call.values.get(name)
        if values is not None and bool((values != wanted).any()):
            meaning = "elements in a row of the operands" if wanted == Kd else "elements in a row of the output"
            yield name, f"{int(values[values != wanted][0])}", f"{wanted}: {meaning}"
    sizes = call.values.get("params.problem_sizes")
    if sizes is None or tuple(sizes.shape) != (E, 3):
        return
    for column, name, wanted in ((1, "N", N), (2, "K", Kd)):
        wrong = sizes[:, column] != wanted
        if bool(wrong.any()):
            yield "params.problem_sizes", f"{name} = {int(sizes[wrong][0, column])}", f"{name} = {wanted}"
    rows = sizes[:, 0].long()
    yield from _routed.check_row_counts("params.problem_sizes", rows, d, getattr(call, "routing", None))
    blocks = _routed.padded(rows, 128)
    for name, each, meaning in (
        ("params.expert_offsets", rows, "the rows of all experts before"),
        ("params.blockscale_offsets", blocks, "the rows of all experts before, each rounded up to 128"),
    ):
        values = call.values.get(name)
        if values is not None:
            yield from _routed.check_vector(name, values.long(), _routed.exclusive_sum(each), meaning)
    scales = call.tensors.get("a_blockscale")
    if scales is not None and len(scales.shape) == 2:
        needed = int(blocks.sum())
        if scales.shape[0] < needed:
            yield "a_blockscale", f"{scales.shape[0]} rows", f"at least {needed}: each expert's padded to 128"
        width = -(-Kd // 64) * 4
        if scales.shape[1] != width:
            yield "a_blockscale", f"{scales.shape[1]} columns", f"{width}: one for 16 elements"
