"""Contract of trtllm_ragged_attention_deepseek: what it computes and moves, from its logical dimensions alone."""


def flops(d):
    """Only the pairs that the causal mask leaves: query i of a request sees i keys."""
    pairs = d["B"] * sum(range(1, d["S"] + 1))
    return 2 * pairs * d["Nh"] * (d["Dq"] + d["Dv"])


def check(call, d):
    """Findings on the lengths and on where requests begin."""
    lengths = call.values.get("seq_lens")
    if lengths is not None and not bool((lengths == d["S"]).all()):
        yield "seq_lens", f"lengths {int(lengths.min())} to {int(lengths.max())}", f"{d['S']} for every request"
    for name in ("cum_seq_lens_q", "cum_seq_lens_kv"):
        starts = call.values.get(name)
        if starts is None:
            continue
        expected = [d["S"] * request for request in range(d["B"] + 1)]
        if starts.tolist() != expected:
            yield name, _short(starts.tolist()), f"{_short(expected)}: multiples of {d['S']} up to {d['B'] * d['S']}"


def _short(numbers):
    return str(numbers) if len(numbers) <= 6 else f"[{', '.join(map(str, numbers[:4]))}, ..., {numbers[-1]}]"
