"""NVFP4 quantisation of each expert's rows with its own global scale; compared byte by byte."""

import torch

from benchlib import nvfp4

# The function makes its outputs: there is nothing to poison.
POISON = ()

# Rows of the scale buffer that the function allocates, times topk.
BUFFER_ROWS = 65536


def _experts(x):
    """First and last row, and first row of the scale factors, of each expert that has rows."""
    offsets = x["expert_offsets"].tolist()
    for expert, block in enumerate(x["blockscale_offsets"].tolist()[:-1]):
        if offsets[expert + 1] > offsets[expert]:
            yield expert, slice(offsets[expert], offsets[expert + 1]), block


def expected(x, dims):
    """Packed values uint8 [R, Kd/2] and block scales float8_e4m3fn [R, Kd/16], not swizzled."""
    tokens, source = x["expert_map"], x["input_tensor"]
    R, K = x["topk"] * source.shape[0] if tokens is not None else source.shape[0], source.shape[1]
    packed = torch.empty((R, K // 2), dtype=torch.uint8, device=source.device)
    scales = torch.empty((R, K // nvfp4.BLOCK), dtype=torch.float8_e4m3fn, device=source.device)
    for expert, rows, _ in _experts(x):
        part = source[rows] if tokens is None else source[tokens[rows].long()]
        packed[rows], scales[rows] = nvfp4.quantise(part, x["input_global_scale"][expert], swizzled=False)
    return {"packed": packed, "scales": scales}


def actual(x, result):
    """Packed values as returned; scales out of the buffer, each expert's from its own offset, unswizzled."""
    packed, buffer = result
    K = packed.shape[1] * 2
    scales = torch.empty((packed.shape[0], K // nvfp4.BLOCK), dtype=torch.float8_e4m3fn, device=packed.device)
    for _, rows, block in _experts(x):
        count = rows.stop - rows.start
        padded = nvfp4.scale_shape(count, K)[0]
        scales[rows] = nvfp4.unswizzle(buffer[block : block + padded], count, K)
    return {"packed": packed, "scales": scales}


def compare(actual, expected, tolerance):
    """At least the asked fraction of the elements and of the scales must be the same bits."""
    problems = []
    for name, unpack in (("packed", nvfp4.unpack), ("scales", lambda scales: scales.view(torch.uint8))):
        if actual[name].shape != expected[name].shape:
            problems.append(f"{name}: shape {list(actual[name].shape)} and not {list(expected[name].shape)}")
            continue
        same = total = 0
        for a, b in zip(actual[name].split(4096), expected[name].split(4096), strict=True):
            equal = unpack(a) == unpack(b)
            same, total = same + int(equal.sum()), total + equal.numel()
        if same < (tolerance.match_fraction or 1.0) * total:
            problems.append(f"{name}: {total - same} of {total} differ, {same / total:.2%} are the same")
    return problems


def simulate(x, dims):
    """Return what the function would return."""
    wanted = expected(x, dims)
    K = x["input_tensor"].shape[1]
    buffer = torch.empty(
        (BUFFER_ROWS * x["topk"], nvfp4.scale_shape(1, K)[1]), dtype=torch.float8_e4m3fn, device=wanted["packed"].device
    )
    for _, rows, block in _experts(x):
        swizzled = nvfp4.swizzle(wanted["scales"][rows])
        buffer[block : block + swizzled.shape[0]] = swizzled
    return wanted["packed"], buffer
