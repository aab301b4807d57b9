"""Attention in float32, one request at a time so that it fits beside large inputs. Used by references, not timed."""

from benchlib import paged
from benchlib.torch_or_none import torch

# Elements of the score matrix that are held at once; 2**28 of float32 are 1 GiB.
SCORES = 2**28


def attend(q, k, v, scale, causal=False):
    """softmax(scale * q k^T) v for heads that each have their own keys.

    q [Tq, H, D], k [Tk, H, D], v [Tk, H, Dv]; returns float32 [Tq, H, Dv]. With causal the last query sees all keys,
    the one before it all but the last, and so on.
    """
    queries, keys = q.shape[0], k.shape[0]
    out = torch.empty((*q.shape[:2], v.shape[-1]), dtype=torch.float32, device=q.device)
    heads_at_once = max(1, SCORES // max(1, queries * keys))
    hidden = None
    if causal:
        last_key = torch.arange(queries, device=q.device) + (keys - queries)
        hidden = torch.arange(keys, device=q.device) > last_key[:, None]
    for first in range(0, q.shape[1], heads_at_once):
        heads = slice(first, first + heads_at_once)
        scores = torch.einsum("qhd,khd->hqk", q[:, heads].float(), k[:, heads].float()).mul_(scale)
        if hidden is not None:
            scores.masked_fill_(hidden, float("-inf"))
        out[:, heads] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[:, heads].float())
    return out


def attend_latent(q, cache, table, seq_lens, scale, latent):
    """MLA decode: every head of a request attends to the same latent vectors, whose first part are also the values.

    q [B, H, D]; cache, a pool of pages whose last dimension is D; table [B, pages]; seq_lens [B]. Returns float32
    [B, H, latent].
    """
    out = torch.empty((*q.shape[:2], latent), dtype=torch.float32, device=q.device)
    for request, length in enumerate(seq_lens.tolist()):
        kv = paged.gather(cache, table[request], length).float()
        weights = (q[request].float() @ kv.T).mul_(scale).softmax(-1)
        out[request] = weights @ kv[:, :latent]
    return out
