"""Norms, activation, RoPE, concatenation and dense products: inputs, calls, references and costs, checked on the CPU.

Each kernel is replaced by a second formulation with the real function's signature. It is called by the script's own
call_kernel, so a wrong argument, a wrong layout or a wrong reference all show as a difference.
"""

import importlib
import inspect
import math
import types
from pathlib import Path

import pytest
import yaml

from roofbench import grammar, render
from roofbench.catalogue import load_entry

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]

DTYPES = {
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp8_e4m3": torch.float8_e4m3fn,
    "uint8": torch.uint8,
    "int64": torch.int64,
}

# Dimensions of an op in the model, and small ones of the same kind.
REAL = {
    "rmsnorm": {"D": 7168},
    "fused_add_rmsnorm": {"D": 7168},
    "silu_and_mul": {"per_token": 8, "D": 2048},
    "apply_rope_with_cos_sin_cache_inplace": {"Nh": 128, "Dr": 64, "Kh": 1},
    "concat_mla_k": {"Nh": 128, "Dn": 128, "Dr": 64, "Dv": 128, "Lkv": 512},
    "dsv3_fused_a_gemm": {"Kd": 7168, "N": 2112},
    "dsv3_router_gemm": {"Kd": 7168, "N": 256},
    "bmm_fp8": {"Nb": 128, "Kd": 512, "N": 128},
    "cutlass_scaled_fp4_mm": {"Kd": 7168, "N": 2112},
}
SMALL = {
    "rmsnorm": {"D": 96},
    "fused_add_rmsnorm": {"D": 96},
    "silu_and_mul": {"per_token": 3, "D": 40},
    "apply_rope_with_cos_sin_cache_inplace": {"Nh": 5, "Dr": 16, "Kh": 1},
    "concat_mla_k": {"Nh": 6, "Dn": 16, "Dr": 8, "Dv": 24, "Lkv": 40},
    "dsv3_fused_a_gemm": {"Kd": 256, "N": 80},
    "dsv3_router_gemm": {"Kd": 256, "N": 32},
    "bmm_fp8": {"Nb": 3, "Kd": 48, "N": 32},
    "cutlass_scaled_fp4_mm": {"Kd": 96, "N": 160},
}
KERNELS = sorted(REAL)
IN_PLACE = ("fused_add_rmsnorm", "apply_rope_with_cos_sin_cache_inplace")


def entry_of(kernel):
    return load_entry(ROOT / "config" / "kernels" / f"{kernel}.yaml").data


def reference_of(kernel):
    return importlib.import_module(f"references.{kernel}")


def contract_of(kernel):
    return importlib.import_module(f"roofbench.contracts.{kernel}")


def script_of(kernel, dims):
    """The rendered script of one kernel with one op in both phases, as a module."""
    entry = entry_of(kernel)
    ops = [
        {"op": "some_op", "phase": phase, "dims": dims, "shapes": {"inputs": "[B, H]", "outputs": "same"}, "points": []}
        for phase in ("prefill", "decode")
    ]
    spec = {
        "kernel": kernel,
        "catalogue": kernel,
        "source": "sgl-kernel",
        "compute_dtype": entry["compute_dtype"],
        "options": {},
        "sweep": {"kind": "tokens", "batch_sizes": [1, 2], "seq_lens": [128]},
        "ops": ops,
    }
    text = render.render_kernel(spec, entry, ROOT / "workflow" / "templates")
    module = types.ModuleType(f"bench_{kernel}")
    module.__file__ = f"bench_{kernel}.py"
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return module


def point(B, S):
    return types.SimpleNamespace(B=B, S=S, L=S, T=B * S)


def all_dims(dims, at):
    return {**dims, "T": at.T, "B": at.B, "S": at.S, "L": at.L}


# Second formulations. Signatures are those of the real functions; sums run in double precision.


def rmsnorm(output, input, weight, eps, enable_pdl):
    assert enable_pdl is True
    output.copy_(torch.nn.functional.rms_norm(input.double(), input.shape[-1:], weight.double(), eps))


def fused_add_rmsnorm(input, residual, weight, eps, enable_pdl):
    assert enable_pdl is True
    for row in range(input.shape[0]):
        total = [a + b for a, b in zip(input[row].tolist(), residual[row].tolist(), strict=True)]
        norm = math.sqrt(sum(v * v for v in total) / len(total) + eps)
        residual[row] = torch.tensor(total)
        input[row] = torch.tensor([v / norm * w for v, w in zip(total, weight.tolist(), strict=True)])


def silu_and_mul(input, out=None):
    half = input.shape[-1] // 2
    wide = input.double()
    return out.copy_(torch.nn.functional.silu(wide[:, :half]) * wide[:, half:])


def apply_rope_with_cos_sin_cache_inplace(positions, query, key, head_size, cos_sin_cache, is_neox=True):
    """Interleaved pairs as complex numbers, multiplied with exp(i * angle)."""
    assert is_neox is False
    assert positions.dtype == torch.int64 and cos_sin_cache.dtype == torch.float32
    half = cos_sin_cache.shape[1] // 2
    turn = torch.complex(cos_sin_cache[:, :half].double(), cos_sin_cache[:, half:].double())[positions]
    for tensor in (query, key):
        pairs = tensor.double().reshape(tensor.shape[0], -1, head_size // 2, 2)
        rotated = torch.view_as_complex(pairs.contiguous()) * turn[:, None]
        tensor.copy_(torch.view_as_real(rotated).reshape(tensor.shape))


def concat_mla_k(k, k_nope, k_rope):
    own = k_nope.shape[2]
    for token in range(k.shape[0]):
        for head in range(k.shape[1]):
            k[token, head, :own] = k_nope[token, head]
            k[token, head, own:] = k_rope[token, 0]


def dsv3_fused_a_gemm(mat_a, mat_b, output=None):
    """Reads mat_b's memory as a row-major weight [N, Kd], as the kernel does."""
    weight = mat_b.as_strided((mat_b.shape[1], mat_b.shape[0]), (mat_b.shape[0], 1))
    return output.copy_(torch.nn.functional.linear(mat_a.double(), weight.double()))


def dsv3_router_gemm(hidden_states, router_weights, out_dtype=torch.bfloat16):
    return torch.einsum("tk,nk->tn", hidden_states.double(), router_weights.double()).to(out_dtype)


def bmm_fp8(A, B, A_scale, B_scale, dtype, out=None):
    """Reads B's memory as [batch, N, Kd], as the kernel does whatever the strides say."""
    batches, inner, columns = B.shape
    weight = B.as_strided((batches, columns, inner), (columns * inner, inner, 1))
    assert A_scale.shape == B_scale.shape == (1,) and out.dtype == dtype
    product = torch.einsum("btk,bnk->btn", A.float().double(), weight.float().double())
    return out.copy_(product * A_scale.item() * B_scale.item())


def cutlass_scaled_fp4_mm(a, b, block_scale_a, block_scale_b, alpha, out_dtype):
    product = nvfp4_by_hand(a, block_scale_a) @ nvfp4_by_hand(b, block_scale_b).T
    return (product * alpha.item()).to(out_dtype)


def nvfp4_by_hand(packed, scales):
    """Element by element from the bits: sign, two bits of exponent, one of mantissa; scales found by their address."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    codes, flat = packed.tolist(), scales.float().flatten().tolist()
    tiles_across = scales.shape[1] // 4
    out = []
    for r in range(rows):
        line = []
        for c in range(columns):
            code = codes[r][c // 2] >> (4 * (c % 2)) & 0xF
            exponent, mantissa = code >> 1 & 3, code & 1
            value = mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2 ** (exponent - 1)
            block = c // 16
            tile = r // 128 * tiles_across + block // 4
            scale = flat[tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + block % 4]
            line.append((-value if code & 8 else value) * scale)
        out.append(line)
    return torch.tensor(out, dtype=torch.float64)


SECOND = {kernel: globals()[kernel] for kernel in KERNELS}


def mismatches(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    wrong = []
    for name, want in expected.items():
        have, want = actual[name].double(), want.double()
        assert have.shape == want.shape
        if not bool(((have - want).abs() <= tolerance["atol"] + tolerance["rtol"] * want.abs()).all()):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("B", "S"), [(3, 1), (2, 5), (1, 131)])
def test_reference_agrees_with_a_second_formulation(kernel, B, S):
    module, reference, at = script_of(kernel, SMALL[kernel]), reference_of(kernel), point(B, S)
    x = module.make_inputs(module.OPS[0], at, "cpu", seed=11)
    for name in reference.POISON:
        x[name].fill_(math.nan)
    expected = reference.expected(x, all_dims(SMALL[kernel], at))
    result = module.call_kernel(SECOND[kernel], x)
    assert mismatches(reference.actual(x, result), expected, entry_of(kernel)["tolerance"]) == []
    for returned in entry_of(kernel).get("returns", []):
        shape = tuple(grammar.evaluate(str(dim), all_dims(SMALL[kernel], at)) for dim in returned["shape"])
        assert (tuple(result.shape), result.dtype) == (shape, DTYPES[returned["dtype"]])


@pytest.mark.parametrize("kernel", KERNELS)
def test_simulated_kernel_passes_and_inputs_stay(kernel):
    module, reference, at = script_of(kernel, SMALL[kernel]), reference_of(kernel), point(2, 3)
    dims = all_dims(SMALL[kernel], at)
    x = module.make_inputs(module.OPS[0], at, "cpu", seed=5)
    for name in reference.POISON:
        x[name].fill_(math.nan)
    before = {name: value.clone() for name, value in x.items() if isinstance(value, torch.Tensor)}
    expected = reference.expected(x, dims)
    for name, value in before.items():
        assert torch.equal(_bits(x[name]), _bits(value)), f"expected() changed {name}"
    result = reference.simulate(x, dims)
    assert mismatches(reference.actual(x, result), expected, entry_of(kernel)["tolerance"]) == []


def _bits(tensor):
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k not in IN_PLACE and "returns" not in entry_of(k)])
def test_poison_left_in_an_output_is_seen(kernel):
    module, reference, at = script_of(kernel, SMALL[kernel]), reference_of(kernel), point(2, 3)
    dims = all_dims(SMALL[kernel], at)
    x = module.make_inputs(module.OPS[0], at, "cpu", seed=5)
    assert reference.POISON
    for name in reference.POISON:
        x[name].fill_(math.nan)
    expected = reference.expected(x, dims)
    assert all(bool(v.float().isfinite().all()) for v in expected.values())
    assert mismatches(reference.actual(x, None), expected, entry_of(kernel)["tolerance"])
    reference.simulate(x, dims)
    first = next(iter(reference.POISON))
    x[first].reshape(-1)[-1] = math.nan
    assert mismatches(reference.actual(x, None), expected, entry_of(kernel)["tolerance"])


@pytest.mark.parametrize("kernel", IN_PLACE)
def test_an_in_place_kernel_that_does_nothing_is_seen(kernel):
    module, reference, at = script_of(kernel, SMALL[kernel]), reference_of(kernel), point(2, 3)
    x = module.make_inputs(module.OPS[0], at, "cpu", seed=5)
    expected = reference.expected(x, all_dims(SMALL[kernel], at))
    assert set(mismatches(reference.actual(x, None), expected, entry_of(kernel)["tolerance"])) == set(expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_outputs_are_large_against_the_absolute_tolerance(kernel):
    """Otherwise a comparison would pass whatever the kernel writes."""
    module, reference, at = script_of(kernel, SMALL[kernel]), reference_of(kernel), point(2, 3)
    x = module.make_inputs(module.OPS[0], at, "cpu", seed=5)
    for value in reference.expected(x, all_dims(SMALL[kernel], at)).values():
        assert value.float().std() > 5 * entry_of(kernel)["tolerance"]["atol"]


# In place: many calls on the same buffers.


def test_fused_add_rmsnorm_reaches_a_fixed_point_after_one_call():
    reference, dims = reference_of("fused_add_rmsnorm"), {"D": 7168}
    module, at = script_of("fused_add_rmsnorm", dims), point(4, 1)
    x = module.make_inputs(module.OPS[1], at, "cpu", seed=3)
    reference.simulate(x, all_dims(dims, at))
    residual, output = x["residual"].clone(), x["input"].clone()
    for _ in range(20):
        reference.simulate(x, all_dims(dims, at))
    assert torch.equal(x["residual"], residual)
    assert torch.allclose(x["input"].float(), output.float(), rtol=1e-2)


def test_rope_keeps_the_norm_over_many_calls():
    kernel = "apply_rope_with_cos_sin_cache_inplace"
    reference, dims = reference_of(kernel), REAL[kernel]
    module, at = script_of(kernel, dims), point(2, 4)
    x = module.make_inputs(module.OPS[0], at, "cpu", seed=3)
    norm = x["query"].float().norm()
    for _ in range(100):
        reference.simulate(x, all_dims(dims, at))
    assert abs(float(x["query"].float().norm() / norm) - 1) < 0.02


# Values and layouts that the contracts ask for.


@pytest.mark.parametrize(("B", "S"), [(1, 1), (128, 1), (8, 2048), (3, 100), (1, 5000)])
def test_rope_positions_are_distinct_rows_in_runs_of_a_request(B, S):
    kernel = "apply_rope_with_cos_sin_cache_inplace"
    module, at = script_of(kernel, SMALL[kernel]), point(B, S)
    x = module.make_inputs(module.OPS[0], at, "cpu", seed=1)
    runs = x["positions"].view(B, S)
    assert bool((runs.diff(dim=1) == 1).all())
    call = types.SimpleNamespace(tensors=x, values={"positions": x["positions"]})
    assert list(contract_of(kernel).check(call, all_dims(SMALL[kernel], at))) == []


def test_rope_table_holds_cosines_then_sines_of_falling_frequencies():
    kernel = "apply_rope_with_cos_sin_cache_inplace"
    module = script_of(kernel, REAL[kernel])
    table = module.make_inputs(module.OPS[1], point(1, 1), "cpu")["cos_sin_cache"]
    for position, i in ((0, 0), (1, 0), (1, 31), (7, 5), (100, 20)):
        angle = position * 10000.0 ** (-2 * i / 64)
        assert table[position, i].item() == pytest.approx(math.cos(angle), abs=1e-4)
        assert table[position, 32 + i].item() == pytest.approx(math.sin(angle), abs=1e-4)


def test_rope_contract_refuses_repeated_positions_positions_outside_and_narrow_tables():
    contract = contract_of("apply_rope_with_cos_sin_cache_inplace")
    dims = {"T": 3, "Nh": 2, "Kh": 1, "Dr": 8}

    def findings(positions, width=8):
        tensors = {"cos_sin_cache": torch.empty((10, width), device="meta")}
        call = types.SimpleNamespace(tensors=tensors, values={"positions": positions})
        return [argument for argument, _, _ in contract.check(call, dims)]

    assert findings(torch.tensor([0, 5, 9])) == []
    assert findings(torch.tensor([0, 5, 5])) == ["positions"]
    assert findings(torch.tensor([0, 5, 10])) == ["positions"]
    assert findings(torch.tensor([-1, 5, 6])) == ["positions"]
    assert findings(None) == []
    assert findings(torch.tensor([0, 1, 2]), width=16) == ["cos_sin_cache"]


def test_concat_contract_refuses_rows_that_are_not_aligned():
    contract = contract_of("concat_mla_k")
    dims = all_dims(REAL["concat_mla_k"], point(2, 3))
    module = script_of("concat_mla_k", REAL["concat_mla_k"])
    x = module.make_inputs(module.OPS[0], point(2, 3), "meta")
    assert list(contract.check(types.SimpleNamespace(tensors=x, values={}), dims)) == []
    shifted = torch.empty((6, 128, 200), dtype=torch.bfloat16, device="meta")[..., 1:129]
    findings = list(contract.check(types.SimpleNamespace(tensors={**x, "k_nope": shifted}, values={}), dims))
    assert [argument for argument, _, _ in findings] == ["k_nope"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("B", "S"), [(1, 1), (16, 1), (8, 2048)])
def test_inputs_at_full_size_have_the_layout_of_the_catalogue(kernel, B, S):
    module, at = script_of(kernel, REAL[kernel]), point(B, S)
    x = module.make_inputs(module.OPS[0], at, "meta")
    dims = all_dims(REAL[kernel], at)
    for argument in entry_of(kernel)["arguments"]:
        if "shape" not in argument:
            continue
        tensor = x[argument["name"]]
        shape = tuple(grammar.evaluate(str(dim), dims) for dim in argument["shape"])
        if argument.get("min_shape"):
            assert all(have >= least for have, least in zip(tensor.shape, shape, strict=True))
        else:
            assert tuple(tensor.shape) == shape
        assert tensor.dtype == DTYPES[argument["dtype"]]
        if "strides" in argument:
            assert tensor.stride() == tuple(grammar.evaluate(str(s), dims) for s in argument["strides"])
        elif argument.get("any_stride"):
            assert tensor.stride(-1) == 1
        else:
            assert tensor.is_contiguous()


# Costs.

# How often each tensor of the inputs moves; what is not listed moves less than itself and is added below.
MOVES = {
    "rmsnorm": {"input": 1, "weight": 1, "output": 1},
    "fused_add_rmsnorm": {"input": 2, "residual": 2, "weight": 1},
    "silu_and_mul": {"input": 1, "out": 1},
    "apply_rope_with_cos_sin_cache_inplace": {"query": 2, "key": 2, "positions": 1},
    "concat_mla_k": {"k": 1, "k_nope": 1, "k_rope": 1},
    "dsv3_fused_a_gemm": {"mat_a": 1, "mat_b": 1, "output": 1},
    "dsv3_router_gemm": {"hidden_states": 1, "router_weights": 1},
    "bmm_fp8": {"A": 1, "B": 1, "out": 1},
    "cutlass_scaled_fp4_mm": {"a": 1, "b": 1},
}


def other_bytes(kernel, d):
    if kernel == "apply_rope_with_cos_sin_cache_inplace":
        return d["T"] * d["Dr"] * 4
    if kernel == "dsv3_router_gemm":
        return d["T"] * d["N"] * 4
    if kernel == "cutlass_scaled_fp4_mm":
        return (d["T"] + d["N"]) * d["Kd"] // 16 + d["T"] * d["N"] * 2
    return 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("B", "S"), [(1, 1), (16, 1), (8, 2048)])
def test_costs_follow_from_the_tensors_and_the_contract(kernel, B, S):
    module, at = script_of(kernel, REAL[kernel]), point(B, S)
    x, dims = module.make_inputs(module.OPS[0], at, "meta"), all_dims(REAL[kernel], at)
    cost = module.cost(module.OPS[0], at)
    moved = sum(x[name].numel() * x[name].element_size() * times for name, times in MOVES[kernel].items())
    assert cost.bytes == moved + other_bytes(kernel, dims)
    assert cost.flops == contract_of(kernel).flops(dims)


@pytest.mark.parametrize(
    ("kernel", "B", "S", "columns", "flops", "bytes_"),
    [
        ("rmsnorm", 128, 1, (128, 7168, 0), 4_587_520, 3_684_352),
        ("fused_add_rmsnorm", 128, 1, (128, 7168, 0), 5_505_024, 7_354_368),
        ("silu_and_mul", 1, 1, (8, 2048, 0), 65_536, 98_304),
        ("apply_rope_with_cos_sin_cache_inplace", 1, 1, (1, 128, 64), 33_024, 33_288),
        ("concat_mla_k", 1, 128, (128, 128, 192), 0, 128 * 82_048),
        ("dsv3_fused_a_gemm", 1, 1, (1, 2112, 7168), 30_277_632, 30_296_192),
        ("dsv3_router_gemm", 1, 1, (1, 256, 7168), 3_670_016, 3_685_376),
        ("bmm_fp8", 1, 1, (1, 128, 512), 16_777_216, 8_486_912),
        ("cutlass_scaled_fp4_mm", 1, 1, (1, 2112, 7168), 30_277_632, 8_523_840),
    ],
)
def test_columns_and_costs_at_a_point_worked_out_by_hand(kernel, B, S, columns, flops, bytes_):
    module, at = script_of(kernel, REAL[kernel]), point(B, S)
    op = module.OPS[0]
    assert module.columns(op, at) == columns
    assert module.cost(op, at) == (flops, bytes_)


@pytest.mark.parametrize("kernel", KERNELS)
def test_limits_hold_where_the_model_runs_the_kernel(kernel):
    module = script_of(kernel, REAL[kernel])
    assert module.not_applicable(module.OPS[1], point(16, 1)) is None
    reason = module.not_applicable(module.OPS[1], point(17, 1))
    assert bool(reason) == kernel.startswith("dsv3_")
    if reason:
        assert reason.startswith("T = 17")


def test_kernels_compiled_for_one_model_refuse_another():
    for kernel, other in (
        ("concat_mla_k", {"Nh": 16}),
        ("dsv3_fused_a_gemm", {"N": 2048}),
        ("dsv3_router_gemm", {"Kd": 4096}),
        ("dsv3_router_gemm", {"N": 128}),
        ("cutlass_scaled_fp4_mm", {"N": 2100}),
    ):
        module = script_of(kernel, REAL[kernel] | other)
        assert module.not_applicable(module.OPS[1], point(1, 1))


# The catalogue.


@pytest.mark.parametrize("kernel", KERNELS)
def test_catalogue_names_the_parameters_of_the_real_functions(kernel):
    """The stand-ins above have the parameters of the real functions; those with a default may be left out."""
    listed = {argument["name"] for argument in entry_of(kernel)["arguments"]}
    parameters = inspect.signature(SECOND[kernel]).parameters
    assert listed <= set(parameters)
    assert {name for name, p in parameters.items() if p.default is inspect.Parameter.empty} <= listed


def test_names_of_the_ops_file_lead_to_the_catalogue():
    data = {kernel: yaml.safe_load((ROOT / "config" / "kernels" / f"{kernel}.yaml").read_text()) for kernel in KERNELS}
    assert data["concat_mla_k"]["aliases"] == ["concat_mla_mha_k"]
    assert data["silu_and_mul"]["ops"]["labels"] == {"silu_and_mul": "experts.act"}
    assert data["cutlass_scaled_fp4_mm"]["ops"]["same_as"] == {"fused_qkv_a_proj": "fused_qkv_a_proj_with_mqa"}
    parts = [part["op"] for part in data["cutlass_scaled_fp4_mm"]["ops"]["composites"]["shared_experts"]]
    parts += [part["op"] for part in data["silu_and_mul"]["ops"]["composites"]["shared_experts"]]
    assert parts == ["shared_experts.gate_up", "shared_experts.down", "shared_experts.act"]
