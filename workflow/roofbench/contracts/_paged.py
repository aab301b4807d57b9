"""Checks of values that all kernels with a paged KV cache share. Findings are (argument, found, expected)."""


def check(call, table, cache, lengths, page, width, tokens):
    """Findings on a page table, a pool of pages and the lengths of the requests.

    `table`, `cache` and `lengths` are parameter names; `page` is tokens a page, `width` the numbers of a token,
    `tokens` the length that every request must have.
    """
    pool = call.tensors.get(cache)
    if pool is not None and (pool.shape[-2] != page or pool.shape[-1] != width):
        yield cache, f"pages of {pool.shape[-2]} tokens of {pool.shape[-1]}", f"pages of {page} tokens of {width}"
    values = call.values.get(table)
    if values is not None and values.dim() == 2:
        yield from _check_table(table, values, -(-tokens // page), None if pool is None else pool.shape[0])
    values = call.values.get(lengths)
    if values is not None and not bool((values == tokens).all()):
        yield lengths, f"lengths {int(values.min())} to {int(values.max())}", f"{tokens} for every request"


def _check_table(table, values, needed, pool):
    """Each request has pages of its own, all of them in the pool, and not in the order of memory."""
    used = values[:, :needed]
    if used.shape[1] < needed:
        yield table, f"{used.shape[1]} pages a request", f"at least {needed}"
    distinct = used.unique().numel()
    if distinct != used.numel():
        yield table, f"{distinct} different pages in {used.numel()} entries", "no page twice"
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or (pool is not None and high >= pool):
        yield table, f"pages {low} to {high}", f"pages 0 to {pool - 1}" if pool else "no negative page"
    if used.numel() >= 16 and bool((used.flatten().diff() == 1).all()):
        yield table, "pages in the order of memory", "pages in random order, as a server has them"
