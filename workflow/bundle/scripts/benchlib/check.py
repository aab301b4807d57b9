"""Is the output right? Before an op is timed, it runs at a small and a large point against a torch reference.

References are references/{catalogue}.py: `expected(x, dims)` in higher precision from inputs the kernel has not seen
yet, `actual(x, result)` from what it wrote, POISON the outputs that it must overwrite, optionally `compare`.
"""

import importlib
import os

from benchlib.torch_or_none import torch

# e4m3fn has one NaN code for each sign.
FP8_NAN = 0x7F


def reference_of(catalogue):
    """The reference module, or None where there is none."""
    try:
        return importlib.import_module(f"references.{catalogue}")
    except ModuleNotFoundError as error:
        if error.name in ("references", f"references.{catalogue}"):
            return None
        raise


def fresh_seed():
    """A seed that no earlier run has used."""
    return int.from_bytes(os.urandom(4), "little") % (2**31)


def poison(tensor):
    """Fill an output so that an element which is not written shows: NaN, or -1 (all bits set) in integers."""
    if tensor.dtype.is_floating_point:
        if tensor.element_size() == 1:
            tensor.view(torch.uint8).fill_(FP8_NAN)
        else:
            tensor.fill_(float("nan"))
    elif tensor.dtype == torch.bool:
        tensor.fill_(True)
    else:
        tensor.fill_(FP8_NAN if tensor.dtype == torch.uint8 else -1)


def run_check(benchmark, kernel, reference, op, point, runtime, seed):
    """Compare one call with the reference. Returns (mismatches, measures): an empty list means that it is right."""
    x = benchmark.make_inputs(op, point, runtime.device, seed)
    dims = {**op.dims, "T": point.T, "B": point.B, "S": point.S, "L": point.L}
    if benchmark.warm_up:
        benchmark.warm_up(kernel, x)  # it may change x in place: what is expected is computed after it
    expected = reference.expected(x, dims)
    for name in reference.POISON:
        poison(x[name])
    result = benchmark.call_kernel(kernel, x)
    runtime.synchronize()
    actual = reference.actual(x, result)
    compare = getattr(reference, "compare", compare_all)
    return list(compare(actual, expected, benchmark.tolerance)), errors_of(actual, expected)


def compare_all(actual, expected, tolerance):
    """Mismatches of all outputs, as sentences. NaN never passes."""
    found = []
    for name, want in expected.items():
        have = actual.get(name)
        if have is None:
            found.append(f"{name}: the kernel gave no such output")
        elif tuple(have.shape) != tuple(want.shape):
            found.append(f"{name}: found shape {tuple(have.shape)}, expected {tuple(want.shape)}")
        else:
            found += compare_one(name, have, want, tolerance)
    return found


def compare_one(name, have, want, tolerance):
    """Mismatches of one output: all elements within tolerance, or match_fraction of them; cosine where asked for."""
    if not have.dtype.is_floating_point and not want.dtype.is_floating_point:
        wrong = have.to(torch.int64) != want.to(torch.int64)
        return [_worst(name, wrong, have, want)] if wrong.any() else []
    have, want = have.float(), want.float()
    # not <= : a NaN on either side counts as wrong
    wrong = ~((have - want).abs() <= tolerance.atol + tolerance.rtol * want.abs())
    found = []
    share = 1.0 - wrong.float().mean().item() if wrong.numel() else 1.0
    if share < (tolerance.match_fraction or 1.0):
        found.append(_worst(name, wrong, have, want))
    elif not torch.isfinite(have).all() and torch.isfinite(want).all():
        found.append(f"{name}: has values that are not finite")
    if tolerance.cosine is not None and have.numel():
        cosine = torch.nn.functional.cosine_similarity(have.flatten(), want.flatten(), dim=0, eps=1e-30).item()
        if not cosine >= tolerance.cosine:
            found.append(f"{name}: cosine similarity {cosine:.6f}, expected at least {tolerance.cosine}")
    return found


def _worst(name, wrong, have, want):
    count, total = int(wrong.sum()), wrong.numel()
    place = [int(i) for i in torch.unravel_index(wrong.flatten().to(torch.uint8).argmax(), wrong.shape)]
    found, expected = have[tuple(place)].item(), want[tuple(place)].item()
    return f"{name}: {count} of {total} elements differ, first at {place}: found {found:.6g}, expected {expected:.6g}"


def errors_of(actual, expected):
    """Largest absolute error of each output, and the largest relative to the output's largest value."""
    found = {}
    for name, want in expected.items():
        have = actual.get(name)
        if have is None or tuple(have.shape) != tuple(want.shape) or not want.numel():
            continue
        difference = (have.float() - want.float()).abs().max().item()
        largest = want.float().abs().max().item()
        found[name] = {"max_abs": difference, "max_rel": difference / largest if largest else None}
    return found


def not_finite(reference, x, result):
    """Names of outputs that hold NaN or infinity: what an in-place kernel shows when its data drift away."""
    outputs = reference.actual(x, result)
    return [
        name
        for name, value in outputs.items()
        if value.dtype.is_floating_point and not torch.isfinite(value.float()).all().item()
    ]


def small_and_large(op, points):
    """The points of an op to check: ("small", point) and ("large", point), by tokens times KV length; one may do."""
    if not points:
        return []
    ordered = sorted(points, key=lambda point: (point.T * max(1, point.L), point.T))
    chosen = [("small", ordered[0])]
    return chosen if len(ordered) == 1 else [*chosen, ("large", ordered[-1])]
