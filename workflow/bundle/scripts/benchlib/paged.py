"""Paged KV caches: tables that say which page of a pool holds which tokens of a request.

A cache is a pool [pages, page, width] or [pages, 1, page, width]; row b of a page table lists the pages of request b in
the order of its tokens. Pages lie in random order, as in a server that has been running for a while, and no two entries
of a table are equal: a page that two requests share would be in the cache when the second one reads it.
"""

from benchlib.torch_or_none import torch


def pages_per_request(length, page, multiple=1):
    """Pages for `length` tokens, rounded up to a multiple that a kernel may ask for."""
    pages = -(-length // page)
    return -(-pages // multiple) * multiple


def page_table(rng, requests, pages):
    """A random assignment of requests * pages different pages: int32 [requests, pages] on the CPU."""
    return rng.permutation(requests * pages).to(torch.int32).reshape(requests, pages)


def lengths(requests, length):
    """The same length for every request: int32 [requests] on the CPU."""
    return torch.full((requests,), length, dtype=torch.int32, device="cpu")


def cumulative(lengths):
    """Where each request begins when all are packed one after another, and the total: int32 [requests + 1]."""
    offsets = torch.zeros(lengths.numel() + 1, dtype=torch.int32, device=lengths.device)
    offsets[1:] = lengths.cumsum(0)
    return offsets


def gather(cache, pages, length):
    """The tokens of one request in order: [length, width], from a pool and the int tensor of its pages."""
    return cache[pages.long()].reshape(-1, cache.shape[-1])[:length]
