"""Routing and grouped kernels of a mixture of experts: inputs, calls, contracts, references and costs on the CPU.

Each kernel is replaced by a second formulation in plain Python with the real function's signature. The script's own
call_kernel calls it, so a wrong argument, a wrong layout or a wrong reference shows as a difference.
"""

import importlib
import inspect
import math
import types
from pathlib import Path

import pytest

from roofbench import grammar, render
from roofbench.catalogue import load_entry

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
DTYPES = {
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp8_e4m3": torch.float8_e4m3fn,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
}

REAL = {
    "topk_softmax": {"E": 256, "topk": 8},
    "topk_sigmoid": {"E": 256, "topk": 8},
    "moe_fused_gate": {"E": 256, "topk": 8},
    "prepare_moe_input": {"H": 7168, "topk": 8, "E": 256, "I": 2048},
    "moe_align_block_size": {"topk": 8, "E": 256},
    "apply_shuffle_mul_sum": {"H": 7168, "E": 256, "topk": 8},
    "scaled_fp4_experts_quant": {"Kd": 7168, "E": 256, "H": 7168, "topk": 8},
    "cutlass_fp4_group_mm": {"Kd": 7168, "N": 4096, "E": 256, "topk": 8},
}
SMALL = {
    "topk_softmax": {"E": 16, "topk": 3},
    "topk_sigmoid": {"E": 16, "topk": 3},
    "moe_fused_gate": {"E": 64, "topk": 8},
    "prepare_moe_input": {"H": 64, "topk": 3, "E": 16, "I": 32},
    "moe_align_block_size": {"topk": 3, "E": 16},
    "apply_shuffle_mul_sum": {"H": 48, "E": 16, "topk": 3},
    "scaled_fp4_experts_quant": {"Kd": 64, "E": 4, "H": 64, "topk": 2},
    "cutlass_fp4_group_mm": {"Kd": 64, "N": 128, "E": 4, "topk": 2},
}
KERNELS = sorted(REAL)
ROUTED = [k for k in KERNELS if k in ("prepare_moe_input", "moe_align_block_size")] + [
    "scaled_fp4_experts_quant",
    "cutlass_fp4_group_mm",
]
# The second quantisation, of the experts' intermediate, has sorted rows and no map.
INTERMEDIATE = {
    "real": {**REAL["scaled_fp4_experts_quant"], "Kd": 2048},
    "small": {"Kd": 64, "E": 4, "H": 128, "topk": 2},
}
CASES = [(k, SMALL[k]) for k in KERNELS] + [("scaled_fp4_experts_quant", INTERMEDIATE["small"])]
REAL_CASES = [(k, REAL[k]) for k in KERNELS] + [
    ("scaled_fp4_experts_quant", INTERMEDIATE["real"]),
    ("cutlass_fp4_group_mm", {"Kd": 2048, "N": 7168, "E": 256, "topk": 8}),
]


def entry_of(kernel):
    return load_entry(ROOT / "config" / "kernels" / f"{kernel}.yaml").data


def reference_of(kernel):
    return importlib.import_module(f"references.{kernel}")


def contract_of(kernel):
    return importlib.import_module(f"roofbench.contracts.{kernel}")


def script_of(kernel, dims, routing="uniform"):
    """The rendered script of one kernel with one op, as a module."""
    entry = entry_of(kernel)
    op = {
        "op": "some_op",
        "phase": "decode",
        "dims": dims,
        "shapes": {"inputs": "[B, H]", "outputs": "same"},
        "points": [],
    }
    spec = {
        "kernel": kernel,
        "catalogue": kernel,
        "source": "sgl-kernel",
        "compute_dtype": entry["compute_dtype"],
        "options": {},
        "sweep": {"kind": "tokens", "batch_sizes": [1, 2], "seq_lens": [128]},
        "ops": [op],
    }
    if entry.get("active_experts"):
        spec["routing"] = routing
    text = render.render_kernel(spec, entry, ROOT / "workflow" / "templates")
    module = types.ModuleType(f"bench_{kernel}")
    module.__file__ = f"bench_{kernel}.py"
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return module


def point(T):
    return types.SimpleNamespace(B=T, S=1, L=1, T=T)


def all_dims(dims, T):
    return {**dims, "T": T, "B": T, "S": 1, "L": 1}


def tolerance_of(kernel):
    written = entry_of(kernel)["tolerance"]
    return types.SimpleNamespace(**{"cosine": None, "match_fraction": None, **written})


class Kernel:
    """A resolved provider: a callable that knows the module it comes from, and checks the real signature."""

    def __init__(self, function, module="sgl_kernel"):
        self.function, self.module = function, module

    def __call__(self, *args, **kwargs):
        bound = inspect.signature(self.function).bind(*args, **kwargs)
        self.given = bound.arguments
        return self.function(*args, **kwargs)


# Second formulations: the signatures of the wheels, plain Python inside.


def write(tensor, values):
    tensor.copy_(torch.tensor(values).reshape(tensor.shape))


def best(scores, k):
    return sorted(range(len(scores)), key=lambda e: -scores[e])[:k]


def topk_softmax(topk_weights, topk_ids, gating_output, renormalize=False, moe_softcapping=0.0, correction_bias=None):
    assert moe_softcapping == 0.0 and correction_bias is None
    for t, row in enumerate(gating_output.tolist()):
        total = sum(math.exp(v) for v in row)
        scores = [math.exp(v) / total for v in row]
        ids = best(scores, topk_ids.shape[1])[::-1]  # the order within a row is free
        norm = sum(scores[e] for e in ids) if renormalize else 1.0
        write(topk_ids[t], ids)
        write(topk_weights[t], [scores[e] / norm for e in ids])


def topk_sigmoid(topk_weights, topk_ids, gating_output, renormalize=False, correction_bias=None):
    bias = correction_bias.tolist()
    for t, row in enumerate(gating_output.tolist()):
        scores = [1 / (1 + math.exp(-v)) for v in row]
        ids = best([s + b for s, b in zip(scores, bias, strict=True)], topk_ids.shape[1])
        norm = sum(scores[e] for e in ids) if renormalize else 1.0
        write(topk_ids[t], ids)
        write(topk_weights[t], [scores[e] / norm for e in ids])


def moe_fused_gate(
    input_tensor,
    bias,
    num_expert_group,
    topk_group,
    topk,
    num_fused_shared_experts=0,
    routed_scaling_factor=0,
    apply_routed_scaling_factor_on_output=False,
):
    assert num_fused_shared_experts == 0 and not apply_routed_scaling_factor_on_output and routed_scaling_factor == 2.5
    weights, ids = [], []
    size = input_tensor.shape[1] // num_expert_group
    for row in input_tensor.tolist():
        scores = [1 / (1 + math.exp(-v)) for v in row]
        biased = [s + b for s, b in zip(scores, bias.tolist(), strict=True)]
        groups = [sum(sorted(biased[g * size : (g + 1) * size])[-2:]) for g in range(num_expert_group)]
        kept = best(groups, topk_group)
        ids.append(best([b if e // size in kept else -9.0 for e, b in enumerate(biased)], topk))
        norm = sum(scores[e] for e in ids[-1])
        weights.append([scores[e] / norm for e in ids[-1]])
    return [torch.tensor(weights), torch.tensor(ids, dtype=torch.int32)]


def prepare_moe_input(
    topk_ids,
    expert_offsets,
    problem_sizes1,
    problem_sizes2,
    input_permutation,
    output_permutation,
    num_experts,
    n,
    k,
    blockscale_offsets=None,
):
    flat = topk_ids.flatten().tolist()
    counts = [flat.count(e) for e in range(num_experts)]
    write(expert_offsets, [sum(counts[:e]) for e in range(num_experts + 1)])
    write(blockscale_offsets, [sum(-(-c // 128) * 128 for c in counts[:e]) for e in range(num_experts + 1)])
    write(problem_sizes1, [[c, 2 * n, k] for c in counts])
    write(problem_sizes2, [[c, k, n] for c in counts])
    # Atomics: the rows of an expert in reverse order of the tokens.
    order = sorted(range(len(flat)), key=lambda i: (flat[i], -i))
    write(input_permutation, [i // topk_ids.shape[1] for i in order])
    write(output_permutation, [order.index(i) for i in range(len(flat))])


def moe_align_block_size(
    topk_ids,
    num_experts,
    block_size,
    sorted_token_ids,
    experts_ids,
    num_tokens_post_pad,
    cumsum_buffer,
    pad_sorted_token_ids=False,
):
    assert cumsum_buffer.numel() == num_experts + 1 and pad_sorted_token_ids
    flat = topk_ids.flatten().tolist()
    out, blocks = [], []
    for slot in range(num_experts):  # slot 0 holds filtered tokens, whose id is -1
        rows = [i for i, e in enumerate(flat) if e + 1 == slot][::-1]
        rows += [len(flat)] * (-len(rows) % block_size)
        blocks += [slot - 1] * (len(rows) // block_size)
        out += rows
    write(num_tokens_post_pad, [len(out)])
    write(experts_ids[: len(blocks)], blocks)
    write(sorted_token_ids, out + [len(flat)] * (sorted_token_ids.numel() - len(out)))


def apply_shuffle_mul_sum(input, output, permutation, factors):
    topk = factors.shape[1]
    for t in range(output.shape[0]):
        rows = [input[int(permutation[t * topk + j])].double() * float(factors[t, j]) for j in range(topk)]
        output[t] = torch.stack(rows).sum(0)


def address(row, column, columns):
    """Byte of a scale in the swizzled layout of a matrix with this many columns of scales."""
    return (row // 128 * -(-columns // 4) + column // 4) * 512 + row % 32 * 16 + row % 128 // 32 * 4 + column % 4


GRID = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def scaled_fp4_experts_quant(
    input_tensor, input_global_scale, expert_offsets, blockscale_offsets, topk, expert_map=None
):
    rows = input_tensor if expert_map is None else input_tensor[expert_map.long()]
    R, K = rows.shape
    packed = torch.zeros((R, K // 2), dtype=torch.uint8)
    scales = torch.zeros(65536 * topk * (K // 16), dtype=torch.uint8)
    for expert in range(input_global_scale.numel()):
        gs = input_global_scale[expert]
        for inner, r in enumerate(range(int(expert_offsets[expert]), int(expert_offsets[expert + 1]))):
            for block in range(K // 16):
                values = rows[r, 16 * block : 16 * block + 16].float()
                scale = (gs * (values.abs().max() * torch.tensor(1 / 6))).clamp(max=448.0).to(torch.float8_e4m3fn)
                inverse = 1 / (scale.float() * (1 / gs))
                codes = []
                for v in (values * inverse).tolist():
                    code = min(range(8), key=lambda c: (abs(GRID[c] - abs(v)), c % 2))
                    codes.append(code + (8 if math.copysign(1, v) < 0 else 0))
                packed[r, 8 * block : 8 * block + 8] = torch.tensor(codes[0::2]) + 16 * torch.tensor(codes[1::2])
                place = int(blockscale_offsets[expert]) * (K // 16) + address(inner, block, K // 16)
                scales[place] = scale.view(torch.uint8)
    return packed, scales.view(torch.float8_e4m3fn).reshape(65536 * topk, K // 16)


def nvfp4_by_hand(packed, flat_scales, rows, K):
    """Values of some rows of packed codes; scales are found by their address in a list."""
    out = []
    for inner, codes in enumerate(packed[rows].tolist()):
        line = []
        for c in range(K):
            code = codes[c // 2] >> (4 * (c % 2)) & 0xF
            scale = flat_scales[address(inner, c // 16, K // 16)]
            line.append((-1 if code & 8 else 1) * GRID[code & 7] * scale)
        out.append(line)
    return torch.tensor(out, dtype=torch.float64)


def group_mm(a_fp4, b_fp4, a_blockscale, b_blockscale, alphas, out_dtype, params):
    R, K, N = a_fp4.shape[0], a_fp4.shape[1] * 2, b_fp4.shape[1]
    assert set(params["ab_strides"].tolist()) == {K} and set(params["c_strides"].tolist()) == {N}
    out = torch.full((R, N), math.nan, dtype=out_dtype)
    sizes = params["problem_sizes"].tolist()
    for e, (m, n, k) in enumerate(sizes):
        assert (n, k) == (N, K)
        first, block = int(params["expert_offsets"][e]), int(params["blockscale_offsets"][e])
        if m:
            a_scales = a_blockscale.float().flatten().tolist()[block * (K // 16) :]
            b_scales = b_blockscale[e].float().flatten().tolist()
            a = nvfp4_by_hand(a_fp4, a_scales, slice(first, first + m), K)
            b = nvfp4_by_hand(b_fp4[e], b_scales, slice(0, N), K)
            out[first : first + m] = torch.einsum("mk,nk->mn", a, b) * float(alphas[e])
    return out


def cutlass_fp4_group_mm(a_fp4, b_fp4, a_blockscale, b_blockscale, alphas, out_dtype, device, params):
    assert device == a_fp4.device
    return group_mm(a_fp4, b_fp4, a_blockscale, b_blockscale, alphas, out_dtype, params)


SECOND = {kernel: globals()[kernel] for kernel in KERNELS}


def prepared(kernel, dims, T, seed=7, routing="uniform"):
    module, reference = script_of(kernel, dims, routing), reference_of(kernel)
    x = module.make_inputs(module.OPS[0], point(T), "cpu", seed=seed)
    for name in reference.POISON:
        x[name].fill_(math.nan if x[name].is_floating_point() else -77)
    return module, reference, x


def mismatches(kernel, reference, actual, expected):
    compare = getattr(reference, "compare", None)
    if compare:
        return compare(actual, expected, tolerance_of(kernel))
    limits, wrong = tolerance_of(kernel), []
    assert actual.keys() == expected.keys()
    for name, want in expected.items():
        have, want = actual[name].double(), want.double()
        if have.shape != want.shape or not bool(((have - want).abs() <= limits.atol + limits.rtol * want.abs()).all()):
            wrong.append(name)
    return wrong


def case_ids(case):
    return case if isinstance(case, str) else None


# References.


@pytest.mark.parametrize(("kernel", "dims"), CASES, ids=case_ids)
@pytest.mark.parametrize("T", [1, 21])
def test_reference_agrees_with_a_second_formulation(kernel, dims, T):
    module, reference, x = prepared(kernel, dims, T)
    expected = reference.expected(x, all_dims(dims, T))
    result = module.call_kernel(Kernel(SECOND[kernel]), x)
    assert mismatches(kernel, reference, reference.actual(x, result), expected) == []


@pytest.mark.parametrize(("kernel", "dims"), CASES, ids=case_ids)
def test_simulated_kernel_passes_and_expected_changes_nothing(kernel, dims):
    module, reference, x = prepared(kernel, dims, 150 if kernel != "cutlass_fp4_group_mm" else 70)
    flat = {**x, **x.get("params", {})}
    before = {name: value.clone() for name, value in flat.items() if isinstance(value, torch.Tensor)}
    expected = reference.expected(x, all_dims(dims, 150))
    for name, value in before.items():
        assert flat[name].contiguous().view(torch.uint8).equal(value.contiguous().view(torch.uint8)), name
    result = reference.simulate(x, all_dims(dims, 150))
    assert mismatches(kernel, reference, reference.actual(x, result), expected) == []


@pytest.mark.parametrize("kernel", [k for k in KERNELS if reference_of(k).POISON])
def test_a_kernel_that_writes_nothing_is_seen(kernel):
    module, reference, x = prepared(kernel, SMALL[kernel], 9)
    expected = reference.expected(x, all_dims(SMALL[kernel], 9))
    assert mismatches(kernel, reference, reference.actual(x, None), expected)


@pytest.mark.parametrize("kernel", [k for k in KERNELS if reference_of(k).POISON])
def test_each_output_counts(kernel):
    for name in reference_of(kernel).POISON:
        module, reference, x = prepared(kernel, SMALL[kernel], 9)
        expected = reference.expected(x, all_dims(SMALL[kernel], 9))
        reference.simulate(x, all_dims(SMALL[kernel], 9))
        x[name].reshape(-1)[0] += 1
        assert mismatches(kernel, reference, reference.actual(x, None), expected), name


def test_prepare_finds_rows_that_changed_places_between_experts():
    module, reference, x = prepared("prepare_moe_input", SMALL["prepare_moe_input"], 9)
    expected = reference.expected(x, {})
    reference.simulate(x, {})
    ids = x["topk_ids"].flatten()
    other = int((ids != ids[0]).nonzero()[0])
    order = x["output_permutation"]
    order[[0, other]] = order[[other, 0]]
    x["input_permutation"][order.long()] = torch.arange(ids.numel(), dtype=torch.int32) // 3
    assert "expert" in reference.compare(reference.actual(x, None), expected, None)[0]


def test_align_finds_the_last_expert_lost_when_num_experts_is_one_too_small():
    module, reference, x = prepared("moe_align_block_size", SMALL["moe_align_block_size"], 40)
    expected = reference.expected(x, {})
    x["topk_ids"][x["topk_ids"] == 15] = 14
    reference.simulate(x, {})
    assert reference.compare(reference.actual(x, None), expected, None)


def test_quantiser_compares_bytes():
    dims = SMALL["scaled_fp4_experts_quant"]
    module, reference, x = prepared("scaled_fp4_experts_quant", dims, 30)
    expected = reference.expected(x, all_dims(dims, 30))
    packed, scales = reference.simulate(x, all_dims(dims, 30))
    swapped = (packed << 4) | (packed >> 4)
    for result in ((swapped, scales), (packed, scales.roll(1, 0))):
        assert reference.compare(reference.actual(x, result), expected, tolerance_of("scaled_fp4_experts_quant"))


def test_group_mm_output_is_large_against_the_absolute_tolerance():
    dims = {"Kd": 512, "N": 128, "E": 4, "topk": 2}
    module, reference, x = prepared("cutlass_fp4_group_mm", dims, 40)
    out = reference.expected(x, all_dims(dims, 40))["out"]
    assert 0.5 < out.std().item() < 2.0


def test_group_mm_call_has_no_device_in_the_sglang_version():
    dims = SMALL["cutlass_fp4_group_mm"]
    module, reference, x = prepared("cutlass_fp4_group_mm", dims, 5)
    jit = Kernel(group_mm, module="sglang.jit_kernel.nvfp4")
    expected = reference.expected(x, all_dims(dims, 5))
    result = module.call_kernel(jit, x)
    assert mismatches("cutlass_fp4_group_mm", reference, reference.actual(x, result), expected) == []
    assert "device" not in jit.given


# Arguments, against the catalogue.


def argument(given, name):
    head, *rest = name.split(".")
    value = given.get(head)
    for part in rest:
        value = None if value is None else value.get(part)
    return value


def recorded(kernel, dims, T, device="cpu", routing="uniform", seed=0):
    """What the script calls the kernel with, by parameter name, and the inputs."""
    module = script_of(kernel, dims, routing)
    x = module.make_inputs(module.OPS[0], point(T), device, seed=seed)
    signature = inspect.signature(SECOND[kernel])
    given = {}

    def record(*args, **kwargs):
        given.update(signature.bind(*args, **kwargs).arguments)

    record.module = "sgl_kernel"
    module.call_kernel(record, x)
    return module, x, given


@pytest.mark.parametrize(("kernel", "dims"), REAL_CASES, ids=case_ids)
@pytest.mark.parametrize("T", [1, 16, 2048])
def test_arguments_at_full_size_are_those_of_the_catalogue(kernel, dims, T):
    _, x, given = recorded(kernel, dims, T, "meta")
    env = all_dims(dims, T)
    listed = set()
    for item in entry_of(kernel)["arguments"]:
        value = argument(given, item["name"])
        listed.add(item["name"].split(".")[0])
        if "shape" in item:
            if value is None:
                assert item.get("optional")
                continue
            shape = [grammar.evaluate(e, env) for e in item["shape"]]
            if item.get("min_shape"):
                assert all(a >= b for a, b in zip(value.shape, shape, strict=True))
            else:
                assert list(value.shape) == shape, item["name"]
            assert value.dtype == DTYPES[item["dtype"]] and value.is_contiguous() and value.is_meta
        elif isinstance(item["value"], str) and item["value"].startswith("="):
            assert value == grammar.evaluate(item["value"][1:], env)
        elif item["name"] not in ("device", "out_dtype") and not item.get("optional"):
            assert value == item["value"] and type(value) is type(item["value"])
    assert set(given) <= listed


def traffic(kernel, given, env):
    total = 0
    entry = entry_of(kernel)
    for item in entry["arguments"] + entry.get("returns", []):
        if "shape" not in item or item["role"] == "workspace":
            continue
        returned = item in entry.get("returns", [])
        value = None if returned else argument(given, item["name"])
        if "traffic" in item:
            total += grammar.evaluate(item["traffic"], env)
        elif returned:
            shape = [grammar.evaluate(e, env) for e in item["shape"]]
            total += math.prod(shape) * DTYPES[item["dtype"]].itemsize
        elif value is not None:
            total += value.numel() * value.element_size()
    return total


@pytest.mark.parametrize(("kernel", "dims"), REAL_CASES, ids=case_ids)
@pytest.mark.parametrize("T", [1, 16, 2048])
def test_costs_are_the_traffic_of_the_arguments_and_the_contracts_flops(kernel, dims, T):
    module, x, given = recorded(kernel, dims, T, "meta")
    env = {**all_dims(dims, T), "active_experts": x.get("active_experts")}
    cost = module.cost(module.OPS[0], point(T), x)
    assert cost.bytes == traffic(kernel, given, env)
    assert cost.flops == contract_of(kernel).flops(env)


def test_costs_by_hand():
    def cost(kernel, T, dims=None):
        module, x, _ = recorded(kernel, dims or REAL[kernel], T, "meta")
        made = module.cost(module.OPS[0], point(T), x)
        return made.flops, made.bytes

    assert cost("topk_softmax", 3) == (5 * 3 * 256, 3 * 256 * 4 + 3 * 8 * 8)
    assert cost("moe_fused_gate", 3) == (5 * 3 * 256, 3 * 256 * 4 + 256 * 4 + 3 * 8 * 8)
    assert cost("apply_shuffle_mul_sum", 2) == (2 * 16 * 7168, 16 * 7168 * 2 + 2 * 7168 * 2 + 16 * 6)
    assert cost("prepare_moe_input", 2) == (0, 16 * 12 + 256 * 24 + 257 * 8)
    assert cost("scaled_fp4_experts_quant", 2) == (
        0,
        2 * 7168 * 2 + 16 * 4 + 256 * 4 + 257 * 8 + 16 * 7168 // 2 + 16 * 7168 // 16,
    )
    assert cost("scaled_fp4_experts_quant", 2, INTERMEDIATE["real"]) == (
        0,
        16 * 2048 * 2 + 256 * 4 + 257 * 8 + 16 * 2048 // 2 + 16 * 2048 // 16,
    )
    # One token: 8 experts' weights at 9/16 bytes, not 256.
    flops, moved = cost("cutlass_fp4_group_mm", 1)
    assert flops == 2 * 8 * 4096 * 7168
    assert moved == (8 * 4096 * 7168 + 8 * 7168) * 9 // 16 + 8 * 4096 * 2 + 40 * 256


# Contracts.


def observed(kernel, dims, T, **options):
    """The call as a contract sees it, with all integer values known."""
    _, x, given = recorded(kernel, dims, T, **options)
    call = types.SimpleNamespace(values={}, tensors={})
    for item in entry_of(kernel)["arguments"]:
        value = argument(given, item["name"])
        if isinstance(value, torch.Tensor):
            call.tensors[item["name"]] = value
            call.values[item["name"]] = None if value.is_floating_point() else value.clone()
    return call, x


def findings(kernel, call, env):
    check = getattr(contract_of(kernel), "check", None)
    return list(check(call, env)) if check else []


CONTRACT_DIMS = {
    "scaled_fp4_experts_quant": {"Kd": 64, "E": 256, "H": 64, "topk": 8},
    "cutlass_fp4_group_mm": {"Kd": 64, "N": 128, "E": 256, "topk": 8},
    "prepare_moe_input": {"H": 64, "topk": 8, "E": 256, "I": 32},
    "moe_align_block_size": {"topk": 8, "E": 256},
    "apply_shuffle_mul_sum": {"H": 64, "E": 256, "topk": 8},
}


@pytest.mark.parametrize("kernel", sorted(CONTRACT_DIMS))
@pytest.mark.parametrize("routing", ["uniform", "balanced", "power_law"])
def test_contracts_pass_good_inputs(kernel, routing):
    for T in (1, 2, 4, 8, 32, 128, 1024):
        call, x = observed(kernel, CONTRACT_DIMS[kernel], T, routing=routing, seed=T)
        assert findings(kernel, call, all_dims(CONTRACT_DIMS[kernel], T)) == []


def test_contract_of_the_quantiser_passes_the_intermediate():
    dims = {"Kd": 64, "E": 256, "H": 128, "topk": 8}
    call, _ = observed("scaled_fp4_experts_quant", dims, 16)
    assert findings("scaled_fp4_experts_quant", call, all_dims(dims, 16)) == []


@pytest.mark.parametrize("kernel", ROUTED)
def test_contracts_count_the_experts_that_the_script_counts(kernel):
    for T in (1, 8, 100):
        call, x = observed(kernel, CONTRACT_DIMS[kernel], T)
        assert contract_of(kernel).counts(call, all_dims(CONTRACT_DIMS[kernel], T)) == {
            "active_experts": x["active_experts"]
        }


def rows_to(ids, experts):
    ids[:] = torch.arange(experts - ids.shape[1], experts, dtype=ids.dtype)


def two_sets(T):
    """Where rows go when tokens take turns with one of two sets of experts."""
    from benchlib.moe import permutations

    return permutations(torch.randperm(256)[:16].view(2, 8).repeat(T // 2, 1), 256)[1]


SPOILS = {
    ("prepare_moe_input", "topk_ids"): {
        "all tokens to the last experts": lambda v, t: rows_to(v, 256),
        "one expert for all": lambda v, t: v.fill_(255),
        "id out of range": lambda v, t: v[3].fill_(256),
        "negative id": lambda v, t: v[3, 0].fill_(-1),
        "an expert twice": lambda v, t: v[3, 0].copy_(v[3, 1]),
    },
    ("moe_align_block_size", "topk_ids"): {
        "all tokens to the first experts": lambda v, t: rows_to(v, 8),
        "id out of range": lambda v, t: v[3, 0].fill_(999),
    },
    ("apply_shuffle_mul_sum", "permutation"): {
        "a row twice": lambda v, t: v[0].copy_(v[1]),
        "out of range": lambda v, t: v[0].fill_(v.numel()),
        "random with repetition": lambda v, t: v.copy_(torch.randint(0, v.numel(), v.shape)),
        "in order": lambda v, t: v.copy_(torch.arange(v.numel())),
        "the same experts for all tokens": lambda v, t: v.copy_(torch.arange(v.numel()).view(8, -1).T.reshape(-1)),
        "two sets of experts": lambda v, t: v.copy_(two_sets(v.numel() // 8)),
    },
    ("scaled_fp4_experts_quant", "expert_offsets"): {
        "all rows at the last expert": lambda v, t: v[:-1].fill_(0),
        "does not begin at zero": lambda v, t: v[0].fill_(1),
        "ends early": lambda v, t: v[-1].sub_(1),
        "decreases": lambda v, t: v[10].fill_(500),
    },
    ("scaled_fp4_experts_quant", "blockscale_offsets"): {
        "not padded": lambda v, t: v.copy_(t["expert_offsets"]),
        "padded to 64": lambda v, t: v.div_(2, rounding_mode="floor"),
        "shifted": lambda v, t: v.add_(128),
    },
    ("scaled_fp4_experts_quant", "expert_map"): {
        "rows, not tokens": lambda v, t: v.copy_(torch.arange(v.numel())),
        "token left out": lambda v, t: v.masked_fill_(v == 3, 2),
        "in order of tokens": lambda v, t: v.copy_(v.sort().values),
    },
    ("cutlass_fp4_group_mm", "params.problem_sizes"): {
        "all rows at expert 255": lambda v, t: (v[:, 0].fill_(0), v[255, 0].fill_(512)),
        "N and K exchanged": lambda v, t: v[:, 1:].copy_(v[:, 1:].flip(1)),
        "a row lost": lambda v, t: v[v[:, 0].argmax(), 0].sub_(1),
        "padded rows": lambda v, t: v[:, 0].copy_((v[:, 0] + 127) // 128 * 128),
    },
    ("cutlass_fp4_group_mm", "params.expert_offsets"): {
        "inclusive": lambda v, t: v.copy_(v.roll(-1)),
        "zeros": lambda v, t: v.fill_(0),
    },
    ("cutlass_fp4_group_mm", "params.blockscale_offsets"): {
        "not padded": lambda v, t: v.copy_(t["params.expert_offsets"]),
    },
    ("cutlass_fp4_group_mm", "params.ab_strides"): {"packed length": lambda v, t: v.floor_divide_(2)},
    ("cutlass_fp4_group_mm", "params.c_strides"): {"inner length": lambda v, t: v.fill_(64)},
}


@pytest.mark.parametrize(
    ("kernel", "name", "what"), [(kernel, name, what) for (kernel, name), group in SPOILS.items() for what in group]
)
def test_contracts_find(kernel, name, what):
    dims = CONTRACT_DIMS[kernel]
    call, _ = observed(kernel, dims, 64)
    SPOILS[kernel, name][what](call.values[name], call.values)
    found = findings(kernel, call, all_dims(dims, 64))
    assert found
    for argument_name, is_value, wanted in found:
        assert argument_name in call.values and isinstance(is_value, str) and isinstance(wanted, str)
    assert any(argument_name.split(".")[0] == name.split(".")[0] for argument_name, _, _ in found)


def test_contracts_say_nothing_about_values_that_are_unknown():
    for kernel, dims in CONTRACT_DIMS.items():
        call, _ = observed(kernel, dims, 16)
        call.values = dict.fromkeys(call.values)
        assert findings(kernel, call, all_dims(dims, 16)) == []


def test_quantiser_needs_the_map_for_hidden_states_and_only_for_them():
    dims = CONTRACT_DIMS["scaled_fp4_experts_quant"]
    call, _ = observed("scaled_fp4_experts_quant", dims, 16)
    call.tensors.pop("expert_map"), call.values.pop("expert_map")
    assert [name for name, _, _ in findings("scaled_fp4_experts_quant", call, all_dims(dims, 16))] == ["expert_map"]
    call, _ = observed("scaled_fp4_experts_quant", dims, 16)
    found = findings("scaled_fp4_experts_quant", call, all_dims({**dims, "H": 128}, 16))
    assert [name for name, _, _ in found] == ["expert_map"]


def test_group_mm_scales_must_hold_every_experts_padded_rows():
    dims = CONTRACT_DIMS["cutlass_fp4_group_mm"]
    call, _ = observed("cutlass_fp4_group_mm", dims, 16)
    call.tensors["a_blockscale"] = torch.empty((128, 4), dtype=torch.float8_e4m3fn)
    assert [name for name, _, _ in findings("cutlass_fp4_group_mm", call, all_dims(dims, 16))] == ["a_blockscale"]


# Inputs.


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_seeds_are_two_independent_sets(kernel):
    module = script_of(kernel, SMALL[kernel])
    one, two = (module.make_inputs(module.OPS[0], point(20), "cpu", seed=seed) for seed in (0, 1))
    written = set(reference_of(kernel).POISON) | {"cumsum_buffer"}
    different = [
        name
        for name in one
        if isinstance(one[name], torch.Tensor)
        and name not in written
        and not one[name].view(torch.uint8).equal(two[name].view(torch.uint8))
    ]
    assert different
    pointers = [x[name].data_ptr() for x in (one, two) for name in x if isinstance(x[name], torch.Tensor)]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("kernel", ["topk_softmax", "topk_sigmoid", "moe_fused_gate"])
def test_gates_spread_tokens_over_the_experts(kernel):
    module, reference = script_of(kernel, REAL[kernel]), reference_of(kernel)
    x = module.make_inputs(module.OPS[0], point(128), "cpu")
    chosen = reference.expected(x, all_dims(REAL[kernel], 128))
    assert chosen["ids"].unique().numel() > 230
    assert chosen["close"].sum() <= 1


def test_limits():
    module = script_of("moe_fused_gate", REAL["moe_fused_gate"])
    assert module.not_applicable(module.OPS[0], point(16384)) is None
    assert "32 experts" in script_of("moe_fused_gate", {"E": 512, "topk": 8}).not_applicable(
        types.SimpleNamespace(E=512, topk=8), point(1)
    )
    module = script_of("cutlass_fp4_group_mm", {**REAL["cutlass_fp4_group_mm"], "Kd": 100})
    assert "64" in module.not_applicable(module.OPS[0], point(1))
