"""The NVFP4 format: worked examples by hand, and a second formulation in plain Python, bit for bit."""

import math
import random
import struct

import pytest
import torch

from benchlib import nvfp4


def nearest_even(value, grid):
    """Index of the nearest grid value; of two as near, the even index. Exact: grid and floats are dyadic."""
    best = min(range(len(grid)), key=lambda i: (abs(grid[i] - value), i % 2))
    return best


E4M3 = [(m / 8) * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7) for e in range(16) for m in range(8)][
    :127
]  # code 127 is NaN; 126 is 448


def f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def quantise_block(values, gs):
    """One block of 16 in plain Python with float32 steps: its scale's byte and its 16 codes."""
    amax = max(abs(v) for v in values)
    scale = nearest_even(min(f32(gs * f32(amax * f32(1 / 6))), 448.0), E4M3)
    inverse = f32(1 / f32(E4M3[scale] * f32(1 / gs))) if scale else 0.0
    codes = []
    for v in values:
        scaled = f32(v * inverse)
        sign = 8 if math.copysign(1.0, scaled) < 0 else 0
        codes.append(sign + nearest_even(min(abs(scaled), 6.0), nvfp4.E2M1_VALUES))
    return scale, codes


def test_e4m3_table_is_torchs():
    assert torch.tensor(E4M3).equal(torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float())
    assert E4M3[126] == 448.0


def test_every_code_round_trips():
    codes = torch.arange(16, dtype=torch.uint8)
    assert nvfp4.decode(codes).tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert nvfp4.encode(nvfp4.decode(codes)).equal(codes)  # -0.0 keeps its sign


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0.0, 0), (0.25, 0), (0.2500001, 1), (0.75, 2), (0.7499999, 1), (1.25, 2), (1.2500001, 3), (1.75, 4),
        (1.7499999, 3), (2.5, 4), (2.5000002, 5), (3.5, 6), (3.4999998, 5), (5.0, 6), (5.0000005, 7), (6.0, 7),
        (1000.0, 7), (-0.25, 8), (-0.75, 10), (-5.0, 14), (-7.0, 15),
    ],
)  # fmt: skip
def test_rounds_to_nearest_with_ties_to_even(value, code):
    assert nvfp4.encode(torch.tensor([value])).item() == code


def test_encode_agrees_with_exhaustive_search():
    values = torch.linspace(-7.0, 7.0, 4097)
    expected = [
        (8 if math.copysign(1, v) < 0 else 0) + nearest_even(min(abs(v), 6.0), nvfp4.E2M1_VALUES)
        for v in values.tolist()
    ]
    assert nvfp4.encode(values).tolist() == expected


def test_even_element_is_the_low_nibble():
    codes = torch.tensor([[0x1, 0x2, 0xF, 0x0]], dtype=torch.uint8)
    packed = nvfp4.pack(codes)
    assert packed.tolist() == [[0x21, 0x0F]]
    assert nvfp4.unpack(packed).equal(codes)


def test_e4m3_saturates():
    assert nvfp4.to_e4m3(torch.tensor([449.0, 464.0, 1e9, -1e9])).float().tolist() == [448, 448, 448, -448]


def test_worked_example():
    # amax 6 and a global scale of 448: the block scale is 448 and a step of the grid is one unit.
    row = torch.tensor([[6.0, -3.0, 0.5, 0.25, 0.75, 1.25, 2.5, 5.0] + [0.0] * 8], dtype=torch.bfloat16)
    packed, scales = nvfp4.quantise(row, 448.0, swizzled=False)
    assert scales.view(torch.uint8).tolist() == [[0x7E]]
    assert nvfp4.unpack(packed).tolist() == [[7, 13, 1, 0, 2, 2, 4, 6] + [0] * 8]
    assert packed.tolist() == [[0xD7, 0x01, 0x22, 0x64, 0, 0, 0, 0]]
    assert nvfp4.dequantise(packed, scales, 448.0, swizzled=False).tolist() == [
        [6.0, -3.0, 0.5, 0.0, 1.0, 1.0, 2.0, 4.0] + [0.0] * 8
    ]


def test_second_worked_example_with_a_rounded_scale():
    # 448*6/amax with amax 10 is 268.8; the second block's maximum is 1, its scale 268.8/6 = 44.8, stored as 44.
    row = torch.tensor([[10.0] + [0.0] * 15 + [1.0, -1.0, 0.5] + [0.0] * 13], dtype=torch.bfloat16)
    gs = nvfp4.global_scale(row)
    assert gs.item() == pytest.approx(268.8)
    packed, scales = nvfp4.quantise(row, gs, swizzled=False)
    assert scales.float().tolist() == [[448.0, 44.0]]
    assert nvfp4.unpack(packed)[0, 16:19].tolist() == [7, 15, 5]
    back = nvfp4.dequantise(packed, scales, gs, swizzled=False)[0]
    assert back[0].item() == pytest.approx(10.0)
    assert back[16].item() == pytest.approx(6 * 44 / 268.8)
    assert back[18].item() == pytest.approx(3 * 44 / 268.8)


def test_zero_block_has_scale_zero_and_no_nan():
    packed, scales = nvfp4.quantise(torch.zeros((2, 32), dtype=torch.bfloat16), 100.0, swizzled=False)
    assert packed.eq(0).all() and scales.view(torch.uint8).eq(0).all()


@pytest.mark.parametrize("gs", [1.0, 37.5, 268.8, 448.0, 2688.0])
def test_quantiser_agrees_bit_for_bit_with_plain_python(gs):
    torch.manual_seed(int(gs))
    x = (torch.randn((16, 64)) * torch.logspace(-3, 1, 16).unsqueeze(1)).to(torch.bfloat16)
    packed, scales = nvfp4.quantise(x, gs, swizzled=False)
    codes, scale_bytes = nvfp4.unpack(packed), scales.view(torch.uint8)
    for r in range(16):
        for block in range(4):
            values = x[r, 16 * block : 16 * block + 16].float().tolist()
            scale, expected = quantise_block(values, f32(gs))
            assert scale_bytes[r, block].item() == scale
            assert codes[r, 16 * block : 16 * block + 16].tolist() == expected


@pytest.mark.parametrize("shape", [(1, 4), (128, 4), (129, 5), (300, 28), (256, 448)])
def test_swizzle_puts_every_byte_where_the_formula_says(shape):
    rows, cols = shape
    scales = torch.randint(0, 127, shape, dtype=torch.uint8).view(torch.float8_e4m3fn)
    swizzled = nvfp4.swizzle(scales)
    assert tuple(swizzled.shape) == nvfp4.scale_shape(rows, cols * 16)
    flat, linear = swizzled.view(torch.uint8).flatten().tolist(), scales.view(torch.uint8).tolist()
    tiles_across = swizzled.shape[1] // 4
    used = set()
    for m in random.Random(0).sample(range(rows), min(rows, 40)) + [0, rows - 1]:
        for k in range(cols):
            place = ((m // 128) * tiles_across + k // 4) * 512 + (m % 32) * 16 + ((m % 128) // 32) * 4 + k % 4
            used.add(place)
            assert flat[place] == linear[m][k]
    assert sum(flat) == sum(map(sum, linear))  # padding is zero
    assert nvfp4.unswizzle(swizzled, rows, cols * 16).view(torch.uint8).equal(scales.view(torch.uint8))


def test_swizzle_worked_example():
    # Row 33, column 2 of one tile: 1*16 + 1*4 + 2.
    scales = torch.zeros((128, 4), dtype=torch.uint8)
    scales[33, 2] = 0x38
    flat = nvfp4.swizzle(scales.view(torch.float8_e4m3fn)).view(torch.uint8).flatten()
    assert flat.nonzero().flatten().tolist() == [22]


def test_leading_dimensions_are_independent_matrices():
    x = torch.randn((3, 130, 96)).to(torch.bfloat16)
    gs = torch.tensor([100.0, 200.0, 300.0])
    packed, scales = nvfp4.quantise(x, gs)
    for e in range(3):
        one, one_scales = nvfp4.quantise(x[e], gs[e])
        assert one.equal(packed[e]) and one_scales.view(torch.uint8).equal(scales[e].view(torch.uint8))
    assert nvfp4.dequantise(packed, scales, gs).equal(
        torch.stack([nvfp4.dequantise(packed[e], scales[e], gs[e]) for e in range(3)])
    )


def test_quantised_matrix_is_near_the_original():
    x = torch.randn((64, 256)).to(torch.bfloat16)
    gs = nvfp4.global_scale(x)
    error = nvfp4.dequantise(*nvfp4.quantise(x, gs), gs) - x.float()
    assert error.norm() / x.float().norm() < 0.12


def test_alpha_restores_a_product():
    a, b = torch.randn((8, 64)), torch.randn((16, 64))
    gs_a, gs_b = nvfp4.global_scale(a), nvfp4.global_scale(b)
    qa, qb = nvfp4.quantise(a, gs_a), nvfp4.quantise(b, gs_b)
    raw = nvfp4.dequantise(*qa) @ nvfp4.dequantise(*qb).T
    real = nvfp4.dequantise(*qa, gs_a) @ nvfp4.dequantise(*qb, gs_b).T
    torch.testing.assert_close(raw * nvfp4.alpha(gs_a, gs_b), real)


def test_meta_tensors_have_shapes():
    packed, scales = nvfp4.quantise(torch.empty((5, 7, 64), device="meta"), torch.empty(5, device="meta"))
    assert (packed.shape, scales.shape) == ((5, 7, 32), (5, 128, 4))
    assert nvfp4.dequantise(packed, scales).shape == (5, 7, 64)


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        nvfp4.quantise(torch.zeros((2, 24)), 1.0)
    with pytest.raises(ValueError, match=r"\[128, 4\]"):
        nvfp4.unswizzle(torch.zeros((128, 8), dtype=torch.uint8), 100, 64)
