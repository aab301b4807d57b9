"""NVFP4: 4-bit floats (E2M1) with one 8-bit scale (E4M3) for 16 neighbours in a row, and one float32 scale for all.

A value is `e2m1 * block_scale / global_scale`. The global scale is a multiplier: 448 * 6 / amax makes the largest block
scale 448, the largest E4M3. Two elements share a byte, the first (even) one in the low nibble.

Tensor cores read scales in the swizzled order "128x4": the matrix of scales [M, K/16], padded to a multiple of 128 rows
and 4 columns, is cut into tiles of 128 x 4, tiles in row-major order; within a tile, the scale of row r and column c
is byte (r % 32) * 16 + (r // 32) * 4 + c.
See https://docs.nvidia.com/cuda/parallel-thread-execution/ (tcgen05 block scaling, scale-factor layouts).

All functions take tensors on any device, meta too, and any number of leading dimensions.
"""

from .torch_or_none import torch

BLOCK = 16
E2M1_MAX = 6.0
E4M3_MAX = 448.0
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
BYTES_PER_ELEMENT = 0.5 + 1 / BLOCK

# Standard deviation of the elements that Random.nvfp4 makes, for a global scale of 1.
RANDOM_STD = 3.39


def round_up(value, multiple):
    return (value + multiple - 1) // multiple * multiple


def scale_shape(rows, cols):
    """Shape of the swizzled scales of a matrix [rows, cols]: padded to whole tiles of 128 rows and 4 scales."""
    return round_up(rows, 128), round_up(cols // BLOCK, 4)


def global_scale(x):
    """The multiplier that uses the whole range: 448 * 6 / amax, a float32 scalar tensor."""
    return E4M3_MAX * E2M1_MAX / x.abs().max().float()


def alpha(a_global_scale, b_global_scale):
    """What a product of two quantised matrices must be multiplied with: 1 / (gs_a * gs_b), float32."""
    return 1.0 / (a_global_scale.float() * b_global_scale.float())


def to_e4m3(x):
    """Cast to float8_e4m3fn as GPUs do: to nearest, ties to even, saturating at 448, where torch's cast makes NaN."""
    return x.float().clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def encode(x):
    """E2M1 codes 0 ... 15 (uint8) of x, to nearest with ties to the even code, saturating at 6; bit 3 is the sign."""
    magnitude = x.abs()
    code = (magnitude > 0.25).to(torch.uint8)
    # At a tie the even code wins: the upper one at 0.75, 1.75 and 3.5, the lower one at the others.
    for tie, upper_is_even in ((0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False)):
        code += (magnitude >= tie) if upper_is_even else (magnitude > tie)
    return code | (torch.signbit(x).to(torch.uint8) << 3)


def decode(codes):
    """float32 values of E2M1 codes (uint8, 0 ... 15)."""
    table = torch.tensor(E2M1_VALUES + tuple(-v for v in E2M1_VALUES), dtype=torch.float32, device=codes.device)
    return table[codes.long()]


def pack(codes):
    """Codes [..., K] to bytes [..., K/2], the even element in the low nibble."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack(packed):
    """Bytes [..., K/2] to codes [..., K]."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


def swizzle(scales):
    """Scales [..., M, K/16] in the order of tensor cores: [..., round_up(M, 128), round_up(K/16, 4)], zeros added."""
    rows, cols = scales.shape[-2:]
    padded_rows, padded_cols = round_up(rows, 128), round_up(cols, 4)
    lead = scales.shape[:-2]
    # Through bytes: not every operation exists for float8 on every device.
    padded = torch.zeros((*lead, padded_rows, padded_cols), dtype=torch.uint8, device=scales.device)
    padded[..., :rows, :cols] = scales.contiguous().view(torch.uint8)
    tiles = padded.reshape(-1, padded_rows // 128, 4, 32, padded_cols // 4, 4).permute(0, 1, 4, 3, 2, 5)
    return tiles.reshape(*lead, padded_rows, padded_cols).view(scales.dtype)


def unswizzle(swizzled, rows, cols):
    """The inverse: swizzled scales of a matrix [rows, cols] to [..., rows, cols/16]."""
    padded_rows, padded_cols = scale_shape(rows, cols)
    if tuple(swizzled.shape[-2:]) != (padded_rows, padded_cols):
        raise ValueError(
            f"swizzled scales of a matrix [{rows}, {cols}] have shape [{padded_rows}, {padded_cols}], "
            f"not {list(swizzled.shape[-2:])}"
        )
    lead = swizzled.shape[:-2]
    tiles = swizzled.contiguous().view(torch.uint8).reshape(-1, padded_rows // 128, padded_cols // 4, 32, 4, 4)
    linear = tiles.permute(0, 1, 4, 3, 2, 5).reshape(*lead, padded_rows, padded_cols)
    return linear[..., :rows, : cols // BLOCK].contiguous().view(swizzled.dtype)


def _per_matrix(scale, x, trailing):
    """A global scale (a number, a scalar, or one for each leading index of x) ready to multiply x."""
    scale = torch.as_tensor(scale, dtype=torch.float32, device=x.device)
    if scale.numel() == 1:
        return scale.reshape(())
    return scale.reshape(scale.shape + (1,) * trailing)


def quantise(x, global_scale, swizzled=True):
    """Quantise x [..., M, K], K a multiple of 16, with a global scale (scalar, or one for each leading index).

    Returns the packed values uint8 [..., M, K/2] and the block scales float8_e4m3fn, swizzled or [..., M, K/16].
    It uses reciprocals in float32 where GPUs do, since they and not the division decide at ties.
    """
    if x.shape[-1] % BLOCK:
        raise ValueError(f"the last dimension must be a multiple of {BLOCK}, not {x.shape[-1]}")
    blocks = x.float().unflatten(-1, (-1, BLOCK))
    gs = _per_matrix(global_scale, x, 2)
    sixth = torch.tensor(1.0 / E2M1_MAX, dtype=torch.float32, device=x.device)
    scales = to_e4m3(gs * (blocks.abs().amax(-1) * sixth))
    stored = scales.float()
    inverse = torch.where(stored == 0, 0.0, (stored * gs.reciprocal()).reciprocal())
    packed = pack(encode(blocks * inverse.unsqueeze(-1)).flatten(-2))
    return packed, swizzle(scales) if swizzled else scales


def dequantise(packed, scales, global_scale=1.0, swizzled=True):
    """float32 [..., M, K] of packed values uint8 [..., M, K/2], block scales as from quantise(), and global scale."""
    rows, cols = packed.shape[-2], packed.shape[-1] * 2
    linear = unswizzle(scales, rows, cols) if swizzled else scales
    values = decode(unpack(packed)).unflatten(-1, (-1, BLOCK))
    return (values * linear.float().unsqueeze(-1)).flatten(-2) / _per_matrix(global_scale, packed, 2)
