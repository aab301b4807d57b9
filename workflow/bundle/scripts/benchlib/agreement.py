"""Comparison of an output with its reference where a limit on single elements says too little.

An attention output is a mean over many tokens: it is small, and within 0.1 of nothing at all. So each vector (the last
dimension) must also point the way of its reference and have its length.
"""

from benchlib.torch_or_none import torch

# Rows compared at once: a large output is float32 here, and its differences are too.
CHUNK = 2**24


def mismatches(actual, expected, tolerance):
    """What disagrees between two dicts of tensors of equal names, as a list of messages; empty where all agree.

    tolerance: rtol and atol for elements; cosine for vectors along the last dimension, whose norms may differ by rtol;
    match_fraction, the part of elements and of vectors that must pass, 1 unless given. A vector of zeros passes only
    where zeros are expected. NaN and infinity never pass.
    """
    found = []
    for name, want in expected.items():
        have = actual.get(name)
        if have is None or tuple(have.shape) != tuple(want.shape):
            shape = None if have is None else list(have.shape)
            found.append(f"{name}: shape {shape}, expected {list(want.shape)}")
            continue
        found += [f"{name}: {message}" for message in _compare(have, want, tolerance)]
    return found


def _compare(have, want, tolerance):
    width = want.shape[-1]
    have, want = have.reshape(-1, width), want.reshape(-1, width)
    step = max(1, CHUNK // width)
    elements = vectors = unusable = 0
    worst_difference, worst_cosine = 0.0, 1.0
    for first in range(0, want.shape[0], step):
        h, w = have[first : first + step].float(), want[first : first + step].float()
        unusable += int((~torch.isfinite(h)).sum())
        difference = (h - w).abs()
        elements += int((difference <= tolerance.atol + tolerance.rtol * w.abs()).sum())
        worst_difference = max(worst_difference, float(difference.nan_to_num(nan=float("inf")).max()))
        if tolerance.cosine is not None:
            cosine, close = _directions(h, w, tolerance)
            vectors += int(close.sum())
            worst_cosine = min(worst_cosine, float(cosine.nan_to_num(nan=-1.0).min()))
    required = 1.0 if tolerance.match_fraction is None else tolerance.match_fraction
    messages = []
    if unusable:
        messages.append(f"{unusable} of {want.numel()} values are NaN or infinite")
    if elements < required * want.numel():
        messages.append(
            f"{want.numel() - elements} of {want.numel()} values differ by more than {tolerance.atol} + "
            f"{tolerance.rtol} * |expected|; largest difference {worst_difference:.3g}"
        )
    if tolerance.cosine is not None and vectors < required * want.shape[0]:
        messages.append(
            f"{want.shape[0] - vectors} of {want.shape[0]} vectors differ in direction (cosine below "
            f"{tolerance.cosine}) or in length (by more than {tolerance.rtol}); least cosine {worst_cosine:.4f}"
        )
    return messages


def _directions(h, w, tolerance):
    """Cosine of each pair of vectors, and whether both cosine and length agree."""
    long_h, long_w = h.norm(dim=-1), w.norm(dim=-1)
    both_zero = (long_h == 0) & (long_w == 0)
    cosine = torch.where(both_zero, 1.0, (h * w).sum(-1) / (long_h * long_w).clamp_min(1e-30))
    same_length = (long_h - long_w).abs() <= tolerance.rtol * long_w
    return cosine, (cosine >= tolerance.cosine) & same_length
