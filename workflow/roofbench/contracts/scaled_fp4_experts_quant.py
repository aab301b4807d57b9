"""Contract of scaled_fp4_experts_quant: it only moves data; offsets and map must fit each other."""

from roofbench.contracts import _routed


def flops(d):
    """None that count."""
    return 0


def _rows_per_expert(call):
    offsets = call.values.get("expert_offsets")
    return None if offsets is None else offsets[1:].long() - offsets[:-1].long()


def counts(call, d):
    """Experts that have rows."""
    rows = _rows_per_expert(call)
    return {} if rows is None else {"active_experts": int((rows > 0).sum())}


def check(call, d):
    """Offsets are exclusive prefix sums of rows and of rows padded to 128; the map names each token topk times."""
    offsets, scale_offsets = call.values.get("expert_offsets"), call.values.get("blockscale_offsets")
    rows = _rows_per_expert(call)
    fits = rows is not None and rows.numel() == d["E"]
    if fits:
        if int(offsets[0]) != 0:
            yield "expert_offsets", f"[0] = {int(offsets[0])}", "[0] = 0"
        yield from _routed.check_row_counts("expert_offsets", rows, d, getattr(call, "routing", None))
    if fits and scale_offsets is not None and scale_offsets.numel() == d["E"] + 1:
        blocks = scale_offsets[1:].long() - scale_offsets[:-1].long()
        if int(scale_offsets[0]) != 0:
            yield "blockscale_offsets", f"[0] = {int(scale_offsets[0])}", "[0] = 0"
        wanted = _routed.padded(rows, 128)
        difference = _routed.first_difference(blocks, wanted)
        if difference:
            index, found, expected = difference
            yield (
                "blockscale_offsets",
                f"{found} rows of scale factors for expert {index}",
                f"{expected}: its {int(rows[index])} rows, rounded up to 128",
            )
    yield from _check_map(call, d, offsets if fits else None)


def _check_map(call, d, offsets):
    T, topk, gathered = d["T"], d["topk"], d["Kd"] == d["H"]
    given = call.tensors.get("expert_map") is not None
    if gathered and not given:
        yield "expert_map", "not given", f"the token of each of the {T * topk} rows: hidden states are gathered"
    if not gathered and given:
        yield "expert_map", "given", "nothing: the intermediate is sorted by expert already"
    tokens = call.values.get("expert_map") if given else None
    if tokens is None or tokens.numel() != T * topk:
        return
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= T:
        yield "expert_map", f"tokens from {low} to {high}", f"tokens from 0 to {T - 1}"
        return
    uses = tokens.flatten().bincount(minlength=T)
    if int(uses.min()) != topk or int(uses.max()) != topk:
        yield "expert_map", f"tokens used {int(uses.min())} to {int(uses.max())} times", f"each token {topk} times"
    elif offsets is not None and int(offsets[0]) == 0 and bool((offsets[1:] >= offsets[:-1]).all()):
        # Rows of one expert belong to different tokens: pairs of expert and token occur once.
        rows = (offsets[1:] - offsets[:-1]).long()
        if int(rows.sum()) == T * topk:
            expert = rows.new_tensor(range(d["E"])).repeat_interleave(rows)
            pairs = int((expert * T + tokens.flatten()).unique().numel())
            if pairs != T * topk:
                yield "expert_map", f"{T * topk - pairs} rows repeat a token within an expert", "different tokens"
