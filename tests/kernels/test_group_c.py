"""Attention, MLA RoPE with quantisation and whole mixtures of experts: inputs, calls, references and costs, on the CPU.

Each kernel is replaced by a second formulation, in double precision and from the kernel's own requirements, bound to
the signatures of both stacks. It is called by the script's own call_kernel, so that a wrong argument, a wrong layout or
a wrong reference all show as a difference.
"""

import importlib
import json
import math
import sys
import types
from functools import cache
from pathlib import Path

import pytest

from roofbench import grammar, render
from roofbench.catalogue import load_entry

torch = pytest.importorskip("torch")

from benchlib import agreement, attention, paged  # noqa: E402
from benchlib.random_inputs import Random  # noqa: E402
from roofbench.verify.stack import signature  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
STACKS = ("cu12", "cu13")
DTYPES = {
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8": torch.float8_e4m3fn,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
}

MLA = {"Nh": 128, "Dqk": 576, "Lkv": 512, "Dr": 64, "Dn": 128}
MOE = {"E": 256, "topk": 8, "H": 7168, "I": 2048}
REAL = {
    "cutlass_mla_decode": MLA,
    "trtllm_batch_decode_with_kv_cache_mla": MLA,
    "trtllm_ragged_attention_deepseek": {"Nh": 128, "Dq": 192, "Dv": 128},
    "mla_rope_quantize_fp8": {"Nh": 128, "Lkv": 512, "Dr": 64},
    "trtllm_fp4_block_scale_moe": MOE,
    "fused_moe_kernel": MOE,
}
SMALL_MLA = {"Nh": 3, "Dqk": 40, "Lkv": 32, "Dr": 8, "Dn": 16}
SMALL = {
    "cutlass_mla_decode": SMALL_MLA,
    "trtllm_batch_decode_with_kv_cache_mla": SMALL_MLA,
    "trtllm_ragged_attention_deepseek": {"Nh": 3, "Dq": 24, "Dv": 16},
    "mla_rope_quantize_fp8": {"Nh": 3, "Lkv": 32, "Dr": 8},
    "trtllm_fp4_block_scale_moe": {"E": 16, "topk": 4, "H": 128, "I": 128},
    "fused_moe_kernel": {"E": 16, "topk": 3, "H": 48, "I": 24},
}
KERNELS = sorted(REAL)
DECODE_ATTENTION = ("cutlass_mla_decode", "trtllm_batch_decode_with_kv_cache_mla")
PHASES = {
    "cutlass_mla_decode": ("decode",),
    "trtllm_batch_decode_with_kv_cache_mla": ("decode",),
    "trtllm_ragged_attention_deepseek": ("prefill",),
    "mla_rope_quantize_fp8": ("decode",),
}


def variants():
    """Kernel and options: every kernel as it is by default, decode with a bf16 cache too."""
    yield from ((kernel, {}) for kernel in KERNELS)
    yield "trtllm_batch_decode_with_kv_cache_mla", {"kv_dtype": "bf16"}


VARIANTS = [pytest.param(*v, id="-".join([v[0], *v[1].values()])) for v in variants()]


@cache
def entry_of(kernel):
    return load_entry(ROOT / "config" / "kernels" / f"{kernel}.yaml").data


@cache
def snapshot_of(stack):
    return json.loads((ROOT / "config" / "stacks" / f"{stack}.json").read_text())


def reference_of(kernel):
    return importlib.import_module(f"references.{kernel}")


def contract_of(kernel):
    return importlib.import_module(f"roofbench.contracts.{kernel}")


def options_of(entry, chosen):
    return {name: chosen.get(name, option["default"]) for name, option in entry.get("options", {}).items()}


def script_of(kernel, dims, chosen=None, routing="uniform"):
    """The rendered script of one kernel as a module, with one op in each of its phases."""
    entry = entry_of(kernel)
    options = options_of(entry, chosen or {})
    for name, value in options.items():
        dims = dims | entry["options"][name]["values"][value]
    sweep = {"kind": entry.get("sweep", "tokens"), "batch_sizes": [1, 2], "seq_lens": [128], "kv_lens": [128]}
    spec = {
        "kernel": kernel,
        "catalogue": kernel,
        "source": entry["providers"][0]["source"],
        "compute_dtype": entry["compute_dtype"].format_map(options),
        "options": options,
        "sweep": sweep,
        "ops": [
            {"op": "some_op", "phase": phase, "dims": dims, "points": [], "shapes": {"inputs": "x", "outputs": "y"}}
            for phase in PHASES.get(kernel, ("prefill", "decode"))
        ],
    }
    if entry.get("active_experts") == "counted":
        spec["routing"] = routing
    module = types.ModuleType(f"bench_{kernel}")
    module.__file__ = f"bench_{kernel}.py"
    text = render.render_kernel(spec, entry, ROOT / "workflow" / "templates")
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return module


def point(kernel, B, S):
    """B requests of S tokens; S is the KV length where a kernel sweeps it."""
    if kernel in DECODE_ATTENTION:
        return types.SimpleNamespace(B=B, S=1, L=S, T=B)
    if PHASES.get(kernel) == ("decode",):
        return types.SimpleNamespace(B=B, S=1, L=1, T=B)
    return types.SimpleNamespace(B=B, S=S, L=S, T=B * S)


def all_dims(module, at):
    return {**module.OPS[0].dims, "T": at.T, "B": at.B, "S": at.S, "L": at.L}


class Namespace(types.SimpleNamespace):
    def __iter__(self):
        return iter(vars(self).values())


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """What scripts import from the kernel packages besides the kernel, with its behaviour and no more."""
    set_up = []

    def module(name, **attributes):
        made = types.ModuleType(name)
        vars(made).update(attributes)
        monkeypatch.setitem(sys.modules, name, made)

    def workspace_size(max_seq_len, num_batches, sm_count=0, num_kv_splits=1):
        assert max_seq_len % 128 == 0 and sm_count == 0
        return num_batches * num_kv_splits * 128 * 513 * 4

    def topk_output(topk_weights, topk_ids, router_logits):
        return Namespace(topk_weights=topk_weights, topk_ids=topk_ids, router_logits=router_logits)

    def config(num_experts=None, num_local_experts=None, inplace=True):
        return Namespace(num_experts=num_experts, num_local_experts=num_local_experts, inplace=inplace)

    module("sgl_kernel", cutlass_mla_get_workspace_size=workspace_size)
    for name in ("sglang", "sglang.srt", "sglang.srt.layers", "sglang.srt.layers.moe"):
        module(name)
    module("sglang.srt.layers.moe.topk", StandardTopKOutput=topk_output)
    module("sglang.srt.layers.moe.moe_runner", MoeRunnerConfig=config)
    module(
        "sglang.srt.server_args",
        ServerArgs=lambda model_path: model_path,
        set_global_server_args_for_scheduler=set_up.append,
    )
    return set_up


# Second formulations, by the parameters that the function is called with.


def softmax(scores):
    """By hand, in double precision."""
    powers = (scores - scores.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def decode(query, pool, table, lengths, scale, latent):
    """Token by token: token t of request b lies in row t % page of page table[b][t // page]."""
    page = pool.shape[-2]
    out = torch.empty((*query.shape[:2], latent), dtype=torch.float64)
    for b, length in enumerate(lengths.tolist()):
        rows = [int(table[b, t // page]) * page + t % page for t in range(length)]
        kv = pool.reshape(-1, pool.shape[-1])[torch.tensor(rows)].double()
        out[b] = softmax(query[b].double() @ kv.T * scale) @ kv[:, :latent]
    return out


def cutlass_mla_decode(d, a):
    assert a["workspace"].numel() >= d["B"] * a["num_kv_splits"] * 128 * 513 * 4
    query = torch.cat((a["q_nope"], a["q_pe"]), -1)
    return decode(
        query, a["kv_c_and_k_pe_cache"], a["page_table"], a["seq_lens"], a["sm_scale"], a["q_nope"].shape[-1]
    ).bfloat16()


def trtllm_batch_decode_with_kv_cache_mla(d, a):
    assert not a["workspace_buffer"].any() and a["block_tables"].shape[1] % 2 == 0 and a["max_seq_len"] == d["L"]
    assert a["qk_nope_head_dim"] == d["Dn"] and a["query"].dtype == a["kv_cache"].dtype
    query, pool = a["query"][:, 0].float(), a["kv_cache"][:, 0].float()
    out = decode(query, pool, a["block_tables"], a["seq_lens"], a["bmm1_scale"], a["kv_lora_rank"])
    return out.bfloat16()[:, None] * a["bmm2_scale"]


def trtllm_ragged_attention_deepseek(d, a):
    """torch's own attention, a request at a time."""
    assert not a["workspace_buffer"].any() and a["workspace_buffer"].numel() >= 8 * 2**20 + 8 * d["T"] * d["Nh"]
    assert a["max_q_len"] == a["max_kv_len"] == int(a["seq_lens"].max()) and a["batch_size"] == len(a["seq_lens"])
    for i in range(a["batch_size"]):
        rows = slice(int(a["cum_seq_lens_q"][i]), int(a["cum_seq_lens_q"][i + 1]))
        q, k, v = (a[name][rows].transpose(0, 1).double() for name in ("query", "key", "value"))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=a["is_causal"], scale=a["bmm1_scale"])
        a["out"][rows] = y.transpose(0, 1)
    return a["out"]


def mla_rope_quantize_fp8(d, a):
    """Pairs as complex numbers, multiplied with exp(i * angle)."""
    assert a["is_neox"] is False and a["cos_sin_cache"].dtype == torch.float32
    half = a["cos_sin_cache"].shape[1] // 2
    table = a["cos_sin_cache"].double()[a["pos_ids"]]
    turn = torch.complex(table[:, :half], table[:, half:])
    for name, angle in (("q_rope", turn[:, None]), ("k_rope", turn)):
        pairs = torch.view_as_complex(a[name].double().unflatten(-1, (half, 2)))
        a[f"{name}_out"].copy_(torch.view_as_real(pairs * angle).flatten(-2).float())
    a["q_nope_out"].copy_(a["q_nope"])
    a["k_nope_out"].copy_(a["k_nope"])


def fused_moe_kernel(d, a):
    """Token by token; gate and up are halves of w1's rows."""
    weights, ids, logits = a["topk_output"]
    config = a["moe_runner_config"]
    assert config.inplace is False and config.num_experts == config.num_local_experts == d["E"] and logits is None
    out = torch.zeros(a["hidden_states"].shape, dtype=torch.float64)
    for t, token in enumerate(a["hidden_states"].double()):
        for expert, weight in zip(ids[t].tolist(), weights[t].tolist(), strict=True):
            w1, w2 = a["w1"][expert].double(), a["w2"][expert].double()
            gate, up = w1[: d["I"]] @ token, w1[d["I"] :] @ token
            out[t] += weight * (w2 @ (gate / (1 + (-gate).exp()) * up))
    return out.bfloat16()


E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def nvfp4_by_hand(packed, scales, swizzled):
    """Value by value; the address of a swizzled scale is computed from its row and column."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    codes = packed.long()[r, c // 2] >> (4 * (c % 2)) & 15
    values = torch.tensor(E2M1, dtype=torch.float64)[codes & 7] * (1 - 2 * (codes >> 3))
    block = c // 16
    where = r * (columns // 16) + block
    if swizzled:
        tile = r // 128 * (columns // 64) + block // 4
        where = tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + block % 4
    return values * scales.float().double().flatten()[where]


def nearest_nvfp4(x, global_scale):
    """Values that NVFP4 can hold, found by comparing with all of them."""
    blocks = x.unflatten(-1, (-1, 16))
    scale = (global_scale * blocks.abs().amax(-1, keepdim=True) / 6).float().to(torch.float8_e4m3fn).double()
    grid = torch.tensor(sorted({s * v for v in E2M1 for s in (1, -1)}), dtype=torch.float64)
    scaled = blocks * global_scale / scale.clamp_min(1e-30)
    rounded = grid[(scaled[..., None] - grid).abs().argmin(-1)]
    return (rounded * scale / global_scale).flatten(-2)


@cache
def original_rows(rows, gated):
    """Which row of [up; gate] each stored row is: blocks of 32 shuffled, then up and gate alternating."""
    found = []
    for stored in range(rows):
        row = stored // 32 * 32 + next(r for r in range(32) if r % 4 * 8 + r // 4 == stored % 32)
        found.append(row // 2 + row % 2 * (rows // 2) if gated else row)
    assert sorted(found) == list(range(rows))
    return torch.tensor(found)


def trtllm_fp4_block_scale_moe(d, a):
    """Token by token with weights put back into their order row by row."""
    fixed = {
        "n_group": 8,
        "topk_group": 4,
        "routing_method_type": 2,
        "routed_scaling_factor": 2.5,
        "activation_type": 3,
    }
    assert {name: a[name] for name in fixed} == fixed and a["routing_logits"].dtype == torch.float32
    assert a["num_experts"] == a["local_num_experts"] == d["E"] and a["local_expert_offset"] == 0
    hidden = nvfp4_by_hand(a["hidden_states"], a["hidden_states_scale"], swizzled=False)
    ready = {}

    def weights(name, expert, gated):
        if (name, expert) not in ready:
            stored = nvfp4_by_hand(a[f"{name}_weights"][expert], a[f"{name}_weights_scale"][expert], swizzled=True)
            ready[name, expert] = torch.zeros_like(stored).index_copy_(0, original_rows(len(stored), gated), stored)
        return ready[name, expert]

    for t in range(d["T"]):
        score = [1 / (1 + math.exp(-v)) for v in a["routing_logits"][t].tolist()]
        rank = [s + b for s, b in zip(score, a["routing_bias"].tolist(), strict=True)]
        size = d["E"] // 8
        best_two = [sum(sorted(rank[g * size : (g + 1) * size])[-2:]) for g in range(8)]
        groups = sorted(range(8), key=lambda g: best_two[g])[-4:]
        chosen = sorted((e for e in range(d["E"]) if e // size in groups), key=lambda e: rank[e])[-a["top_k"] :]
        total = torch.zeros(d["H"], dtype=torch.float64)
        for e in chosen:
            alpha, beta = float(a["output1_scale_gate_scalar"][e]), float(a["output1_scale_scalar"][e])
            both = weights("gemm1", e, True) @ hidden[t] * alpha
            up, gate = both[: d["I"]], both[d["I"] :]
            activation = nearest_nvfp4(gate / (1 + (-gate).exp()) * up, beta / alpha) * (beta / alpha)
            result = weights("gemm2", e, False) @ activation * float(a["output2_scale_scalar"][e])
            total += score[e] / sum(score[c] for c in chosen) * 2.5 * result
        a["output"][t] = total
    return [a["output"]]


SECOND = {kernel: globals()[kernel] for kernel in KERNELS}


def kernel_stub(kernel, dims, stack="cu12", change=None):
    """A callable with the real signature of a stack that runs the second formulation.

    change(arguments) may alter the arguments, to play a kernel that does something else.
    """
    provider = next(p for p in entry_of(kernel)["providers"] if stack in p["stacks"])
    module, _, attribute = provider["target"].partition(":")
    bound = signature(snapshot_of(stack)["modules"][module][attribute])

    def call(*args, **kwargs):
        given = dict(bound.bind(*args, **kwargs).arguments)
        if change:
            change(given)
        return SECOND[kernel](dims, given)

    return call


def prepared(kernel, B, S, chosen=None, seed=11):
    module, at = script_of(kernel, SMALL[kernel], chosen), point(kernel, B, S)
    x = module.make_inputs(module.OPS[0], at, "cpu", seed=seed)
    for name in reference_of(kernel).POISON:
        x[name].copy_(torch.full(x[name].shape, math.nan))
    return module, at, x, all_dims(module, at)


def compare(kernel, module, x, expected, result):
    reference = reference_of(kernel)
    check = getattr(reference, "compare", agreement.mismatches)
    return check(reference.actual(x, result), expected, module.BENCHMARK.tolerance)


@pytest.mark.parametrize(("kernel", "chosen"), VARIANTS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("B", "S"), [(1, 1), (3, 1), (2, 150)])
def test_reference_agrees_with_a_second_formulation(kernel, chosen, stack, B, S):
    S = 9 if "moe" in kernel and S > 1 else S
    module, at, x, dims = prepared(kernel, B, S, chosen)
    expected = reference_of(kernel).expected(x, dims)
    result = module.call_kernel(kernel_stub(kernel, dims, stack), x)
    assert compare(kernel, module, x, expected, result) == []
    for returned in entry_of(kernel).get("returns", []):
        assert list(result.shape) == [grammar.evaluate(str(n), dims) for n in returned["shape"]]
        assert result.dtype == DTYPES[returned["dtype"]]


@pytest.mark.parametrize(("kernel", "chosen"), VARIANTS)
def test_simulated_kernel_passes_and_inputs_stay(kernel, chosen):
    module, at, x, dims = prepared(kernel, 2, 5, chosen)
    before = {name: value.clone() for name, value in x.items() if isinstance(value, torch.Tensor)}
    expected = reference_of(kernel).expected(x, dims)
    for name, value in before.items():
        assert torch.equal(x[name].contiguous().view(torch.uint8), value.contiguous().view(torch.uint8)), name
    assert compare(kernel, module, x, expected, reference_of(kernel).simulate(x, dims)) == []


@pytest.mark.parametrize("kernel", [k for k in KERNELS if "returns" not in entry_of(k)])
def test_an_output_that_is_not_written_is_seen(kernel):
    module, at, x, dims = prepared(kernel, 2, 5)
    reference = reference_of(kernel)
    assert reference.POISON
    expected = reference.expected(x, dims)
    assert compare(kernel, module, x, expected, None)


def roll_pages(name):
    return lambda a: a.update({name: a[name].roll(1, 0)})


def swap_halves(name):
    def change(a):
        half = a[name].shape[1] // 2
        a[name] = torch.cat((a[name][:, half:], a[name][:, :half]), dim=1)

    return change


WRONG = {
    "another request's pages": ("cutlass_mla_decode", roll_pages("page_table")),
    "the scale of 576": ("cutlass_mla_decode", lambda a: a.update(sm_scale=40**-0.5)),
    "one token too few": ("cutlass_mla_decode", lambda a: a.update(seq_lens=a["seq_lens"] - 1)),
    "another request's blocks": ("trtllm_batch_decode_with_kv_cache_mla", roll_pages("block_tables")),
    "no output scale": ("trtllm_batch_decode_with_kv_cache_mla", lambda a: a.update(bmm2_scale=0.0)),
    "half of the output": ("trtllm_batch_decode_with_kv_cache_mla", lambda a: a.update(bmm2_scale=0.5)),
    "no causal mask": ("trtllm_ragged_attention_deepseek", lambda a: a.update(is_causal=False)),
    "the next position": ("mla_rope_quantize_fp8", lambda a: a.update(pos_ids=a["pos_ids"] - 1)),
    "up before gate": ("fused_moe_kernel", swap_halves("w1")),
    "gate before up": ("trtllm_fp4_block_scale_moe", swap_halves("gemm1_weights")),
    "other experts": (
        "trtllm_fp4_block_scale_moe",
        lambda a: a.update(routing_logits=-a["routing_logits"]),
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_kernel_is_seen(mistake):
    kernel, change = WRONG[mistake]
    module, at, x, dims = prepared(kernel, 3, 6 if "moe" in kernel else 20)
    expected = reference_of(kernel).expected(x, dims)
    result = module.call_kernel(kernel_stub(kernel, dims, change=change), x)
    assert compare(kernel, module, x, expected, result)


# Inputs at full size.


def recorded(module, at):
    """The arguments that the script calls the kernel with, on the meta device."""
    given = {}
    x = module.make_inputs(module.OPS[0], at, "meta")
    module.call_kernel(lambda **kwargs: given.update(kwargs), x)
    return given


def lookup(given, name):
    head, *rest = name.split(".")
    value = given.get(head)
    for part in rest:
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(("kernel", "chosen"), VARIANTS)
@pytest.mark.parametrize(("B", "S"), [(1, 128), (5, 200), (8, 2048), (128, 2048)])
def test_arguments_at_full_size_have_the_layout_of_the_catalogue(kernel, chosen, B, S):
    entry = entry_of(kernel)
    module, at = script_of(kernel, REAL[kernel], chosen), point(kernel, B, S)
    dims, given = all_dims(module, at), recorded(module, at)
    options = options_of(entry, chosen)
    listed = {argument["name"].split(".")[0] for argument in entry["arguments"]}
    assert set(given) <= listed
    for argument in entry["arguments"]:
        value = lookup(given, argument["name"])
        if "shape" in argument:
            if value is None and argument.get("optional"):
                continue
            shape = [grammar.evaluate(str(n), dims) for n in argument["shape"]]
            if argument.get("min_shape"):
                assert all(have >= least for have, least in zip(value.shape, shape, strict=True)), argument["name"]
            else:
                assert list(value.shape) == shape, argument["name"]
            assert value.dtype == DTYPES[argument["dtype"].format_map(options)], argument["name"]
            assert value.stride(-1) == 1 or value.shape[-1] == 1
            other = argument.get("any_stride") or argument.get("strides")
            assert other or value.is_contiguous(), argument["name"]
        elif argument["name"].split(".")[0] in given:
            wanted = argument.get("one_of", [argument.get("value")])
            wanted = [grammar.evaluate(w[1:], dims) if isinstance(w, str) and w.startswith("=") else w for w in wanted]
            assert value in wanted, argument["name"]
        else:
            assert argument.get("optional"), argument["name"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_required_parameters_of_both_stacks_are_in_the_catalogue(kernel):
    entry = entry_of(kernel)
    listed = {argument["name"].split(".")[0] for argument in entry["arguments"]}
    for stack in STACKS:
        provider = next(p for p in entry["providers"] if stack in p["stacks"])
        module, _, attribute = provider["target"].partition(":")
        parameters = signature(snapshot_of(stack)["modules"][module][attribute]).parameters
        assert listed <= set(parameters)
        assert {name for name, p in parameters.items() if p.default is p.empty} <= listed


def test_weights_and_workspaces_are_made_once_for_all_sets_and_points():
    for kernel, shared in (
        ("fused_moe_kernel", ("w1", "w2")),
        ("trtllm_fp4_block_scale_moe", ("gemm1_weights", "gemm2_weights", "gemm1_weights_scale")),
        ("trtllm_batch_decode_with_kv_cache_mla", ("workspace",)),
    ):
        module = script_of(kernel, SMALL[kernel])
        first = module.make_inputs(module.OPS[0], point(kernel, 1, 64), "cpu", seed=0)
        other = module.make_inputs(module.OPS[0], point(kernel, 2, 64), "cpu", seed=1)
        assert all(first[name] is other[name] for name in shared)


def test_sets_of_different_seeds_differ_in_values_pages_and_routing():
    for kernel, names in (
        ("cutlass_mla_decode", ("page_table", "q_nope", "kv_cache")),
        ("fused_moe_kernel", ("hidden_states", "topk_ids")),
        ("trtllm_fp4_block_scale_moe", ("routing_logits", "hidden_states")),
        ("mla_rope_quantize_fp8", ("pos_ids", "q_rope")),
    ):
        module, at = script_of(kernel, SMALL[kernel]), point(kernel, 4, 600)
        one, two = (module.make_inputs(module.OPS[0], at, "cpu", seed=seed) for seed in (0, 1))
        assert all(not torch.equal(one[name].float(), two[name].float()) for name in names)


def test_query_parts_are_slices_of_one_query():
    module = script_of("mla_rope_quantize_fp8", REAL["mla_rope_quantize_fp8"])
    x = module.make_inputs(module.OPS[0], point("mla_rope_quantize_fp8", 4, 1), "cpu")
    assert x["q_nope_out"].stride() == x["q_rope_out"].stride() == (128 * 576, 576, 1)
    assert x["q_rope_out"].data_ptr() - x["q_nope_out"].data_ptr() == 512


def test_sglang_is_set_up_once_and_before_the_first_call(packages):
    module, at, x, dims = prepared("fused_moe_kernel", 2, 1)
    assert packages == []
    for _ in range(3):
        module.call_kernel(kernel_stub("fused_moe_kernel", dims), x)
    assert packages == ["dummy"]


def test_trtllm_moe_is_tuned_by_the_same_call(monkeypatch):
    module, at, x, dims = prepared("trtllm_fp4_block_scale_moe", 2, 1)
    events = []

    class autotune:
        def __init__(self, tune_mode=True):
            assert tune_mode is True

        def __enter__(self):
            events.append("tuning")

        def __exit__(self, *error):
            events.append("tuned")

    monkeypatch.setitem(sys.modules, "flashinfer", types.ModuleType("flashinfer"))
    tuner = types.ModuleType("flashinfer.autotuner")
    tuner.autotune = autotune
    monkeypatch.setitem(sys.modules, "flashinfer.autotuner", tuner)
    module.warm_up(lambda **kwargs: events.append(kwargs["tune_max_num_tokens"]), x)
    assert events == ["tuning", 2, "tuned"]
    assert module.BENCHMARK.warm_up is module.warm_up


# Costs.


def by_hand(kernel, d, b, active):
    """FLOPs and bytes as the table of costs has them, for b bytes an element of a KV cache."""
    T, rows = d["T"], d["T"] * d.get("topk", 0)
    if kernel in DECODE_ATTENTION:
        flops = 2 * (576 + 512) * 128 * T * d["L"]
        return flops, T * 128 * 576 * b + T * d["L"] * 576 * b + T * 128 * 512 * 2
    if kernel == "trtllm_ragged_attention_deepseek":
        pairs = sum(i + 1 for _ in range(d["B"]) for i in range(d["S"]))
        return 2 * (192 + 128) * 128 * pairs, T * 128 * (192 + 192 + 128 + 128) * 2
    if kernel == "mla_rope_quantize_fp8":
        return 4 * T * 129 * 64, T * 223_176
    if kernel == "fused_moe_kernel":
        return 6 * rows * 7168 * 2048, active * 88_080_384 + 2 * T * 7168 * 2 + rows * 8
    tokens = T * 7168 * 9 / 16 + T * 256 * 4 + 256 * 2 + T * 7168 * 2
    return 6 * rows * 7168 * 2048, active * (24_772_608 + 12) + tokens


@pytest.mark.parametrize(("kernel", "chosen"), VARIANTS)
@pytest.mark.parametrize(("B", "S"), [(1, 1), (1, 128), (8, 2048)])
def test_cost_is_that_of_the_table(kernel, chosen, B, S):
    module, at = script_of(kernel, REAL[kernel], chosen), point(kernel, B, S)
    op, d = module.OPS[0], all_dims(module, at)
    active = 256 * (1 - (1 - 8 / 256) ** at.T)
    flops, nbytes = by_hand(kernel, d, d.get("b", 2), active)
    cost = module.cost(op, at)
    assert cost.flops == flops == contract_of(kernel).flops(d)
    assert cost.bytes == pytest.approx(nbytes, rel=1e-12)


@pytest.mark.parametrize(("kernel", "chosen"), VARIANTS)
@pytest.mark.parametrize(("B", "S"), [(1, 128), (8, 2048)])
def test_bytes_are_the_traffic_of_the_arguments(kernel, chosen, B, S):
    entry = entry_of(kernel)
    module, at = script_of(kernel, REAL[kernel], chosen), point(kernel, B, S)
    env = all_dims(module, at)
    x = None
    if "active_experts" in entry:
        counted = entry["active_experts"] == "counted"
        x = {"active_experts": 137} if counted else None
        env["active_experts"] = 137 if counted else 256 * (1 - (1 - 8 / 256) ** at.T)
    total = 0
    for item in [*entry["arguments"], *entry.get("returns", [])]:
        if "shape" not in item or item["role"] == "workspace":
            continue
        size = DTYPES[item["dtype"].format_map(options_of(entry, chosen))].itemsize
        whole = math.prod(grammar.evaluate(str(n), env) for n in item["shape"]) * size
        total += grammar.evaluate(item["traffic"], env) if "traffic" in item else whole
    assert module.cost(module.OPS[0], at, x).bytes == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("routing", ["uniform", "balanced", "power_law"])
def test_experts_are_counted_from_the_ids(routing):
    module = script_of("fused_moe_kernel", SMALL["fused_moe_kernel"], routing=routing)
    at = point("fused_moe_kernel", 4, 1)
    x = module.make_inputs(module.OPS[0], at, "cpu", seed=3)
    active = x["topk_ids"].unique().numel()
    d = all_dims(module, at)
    weights = module.cost(module.OPS[0], at, x).bytes - 4 * at.T * d["H"] - 8 * at.T * d["topk"]
    assert weights == active * 3 * d["H"] * d["I"] * 2
    assert bool(torch.isclose(x["topk_weights"].sum(1), torch.ones(4)).all())


@pytest.mark.parametrize("kernel", KERNELS)
def test_columns_and_limits(kernel):
    module = script_of(kernel, REAL[kernel])
    at = point(kernel, 4, 256)
    expected = {
        "cutlass_mla_decode": (4, 256, 576),
        "trtllm_batch_decode_with_kv_cache_mla": (4, 256, 576),
        "trtllm_ragged_attention_deepseek": (1024, 256, 192),
        "mla_rope_quantize_fp8": (4, 128, 576),
        "trtllm_fp4_block_scale_moe": (1024, 7168, 2048),
        "fused_moe_kernel": (1024, 7168, 2048),
    }
    assert module.columns(module.OPS[0], at) == expected[kernel]
    assert module.not_applicable(module.OPS[0], at) is None


@pytest.mark.parametrize(
    ("kernel", "other", "named"),
    [
        ("cutlass_mla_decode", {"Lkv": 256}, "Lkv = 256"),
        ("cutlass_mla_decode", {"Nh": 256}, "Nh = 256"),
        ("trtllm_batch_decode_with_kv_cache_mla", {"Dr": 32}, "Dr = 32"),
        ("trtllm_ragged_attention_deepseek", {"Dq": 128}, "Dq = 128"),
        ("trtllm_fp4_block_scale_moe", {"topk": 10}, "topk = 10"),
        ("trtllm_fp4_block_scale_moe", {"I": 2000}, "I = 2000"),
    ],
)
def test_what_a_kernel_is_not_made_for_is_not_applicable(kernel, other, named):
    module = script_of(kernel, REAL[kernel] | other)
    assert named in module.not_applicable(module.OPS[0], point(kernel, 2, 128))


# Contracts: values.


def findings(kernel, module, at, **changed):
    """Findings of the contract on the script's own arguments, some of them changed."""
    given = {}
    x = module.make_inputs(module.OPS[0], at, "cpu")
    module.call_kernel(lambda **kwargs: given.update(kwargs), x)
    names = [argument["name"] for argument in entry_of(kernel)["arguments"] if "shape" in argument]
    tensors = {name: lookup(given, name) for name in names}
    tensors.update(changed)
    integers = (torch.int32, torch.int64)
    values = {name: t for name, t in tensors.items() if t is not None and t.dtype in integers}
    call = types.SimpleNamespace(tensors=tensors, values=values)
    check = getattr(contract_of(kernel), "check", lambda call, d: ())
    return [argument for argument, _, _ in check(call, all_dims(module, at))]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("B", "S"), [(1, 1), (1, 128), (3, 130), (16, 64)])
def test_contract_accepts_the_script(kernel, B, S):
    module = script_of(kernel, SMALL[kernel])
    assert findings(kernel, module, point(kernel, B, S)) == []


@pytest.mark.parametrize("kernel", DECODE_ATTENTION)
def test_contract_refuses_wrong_pages_and_lengths(kernel):
    table, cache = {
        "cutlass_mla_decode": ("page_table", "kv_c_and_k_pe_cache"),
        "trtllm_batch_decode_with_kv_cache_mla": ("block_tables", "kv_cache"),
    }[kernel]
    module, at = script_of(kernel, SMALL[kernel]), point(kernel, 8, 512)
    x = module.make_inputs(module.OPS[0], at, "cpu")
    pages, pool = x[table], x["kv_cache"]

    def found(**changed):
        return findings(kernel, module, at, **changed)

    twice = pages.clone()
    twice[1] = twice[0]
    assert found(**{table: twice}) == [table]
    assert found(**{table: pages + 1}) == [table]
    assert found(**{table: pages - 1}) == [table]
    assert found(**{table: torch.arange(pages.numel(), dtype=torch.int32).view_as(pages)}) == [table]
    assert found(**{table: pages[:, :1]}) == [table]
    assert found(seq_lens=x["seq_lens"] - 1) == ["seq_lens"]
    assert found(**{cache: pool[..., :-1]}) == [cache]


def test_contract_refuses_wrong_starts_positions_and_routing():
    kernel = "trtllm_ragged_attention_deepseek"
    module, at = script_of(kernel, SMALL[kernel]), point(kernel, 3, 10)
    starts = torch.tensor([0, 10, 20, 30], dtype=torch.int32)
    assert findings(kernel, module, at, cum_seq_lens_q=starts) == []
    assert findings(kernel, module, at, cum_seq_lens_q=starts + 1) == ["cum_seq_lens_q"]
    assert findings(kernel, module, at, cum_seq_lens_kv=starts[:3]) == ["cum_seq_lens_kv"]
    assert findings(kernel, module, at, seq_lens=torch.tensor([10, 10, 9])) == ["seq_lens"]

    kernel = "mla_rope_quantize_fp8"
    module, at = script_of(kernel, SMALL[kernel]), point(kernel, 3, 1)
    assert findings(kernel, module, at, pos_ids=torch.tensor([0, 1, 10**6])) == ["pos_ids"]
    assert findings(kernel, module, at, pos_ids=torch.tensor([4, 4, 5])) == ["pos_ids"]

    kernel, ids = "fused_moe_kernel", "topk_output.topk_ids"
    module, at = script_of(kernel, SMALL[kernel]), point(kernel, 8, 1)
    one = torch.tensor([[1, 2, 3]] * 8, dtype=torch.int32)
    assert findings(kernel, module, at, **{ids: one}) == [ids]
    assert findings(kernel, module, at, **{ids: one + 15}) == [ids]
    call = types.SimpleNamespace(values={ids: one})
    assert contract_of(kernel).counts(call, all_dims(module, at)) == {"active_experts": 3}


def test_workspace_size_in_the_catalogue_is_that_of_the_splits():
    helper = entry_of("cutlass_mla_decode")["helpers"][0]
    sizes = {"max_seq_len": 2048, "num_batches": 3, "sm_count": 0}
    for splits in (1, 4):
        size = grammar.evaluate(helper["returns"], sizes | {"num_kv_splits": splits})
        assert size == 3 * splits * 128 * (512 + 1) * 4


def test_contract_refuses_a_workspace_asked_for_in_another_way():
    contract, dims = contract_of("cutlass_mla_decode"), {**MLA, "B": 4, "T": 4, "S": 1, "L": 300}
    right = {"max_seq_len": 384, "num_batches": 4, "sm_count": 0, "num_kv_splits": 1}

    def found(splits=1, **asked):
        helpers = {"sgl_kernel:cutlass_mla_get_workspace_size": [right | asked]}
        call = types.SimpleNamespace(tensors={}, values={}, helpers=helpers, argument=lambda name, default: splits)
        return [argument for argument, _, _ in contract.check(call, dims)]

    assert found() == []
    assert found(splits=4, num_kv_splits=4) == []
    assert found(splits=4) == ["workspace"]
    assert found(sm_count=1) == ["workspace"]
    assert found(max_seq_len=4, num_batches=384) == ["workspace", "workspace"]


# Helpers of the bundle.


def test_page_tables_are_permutations_and_rows_hold_whole_blocks():
    for requests, length, page, multiple in ((1, 1, 128, 1), (5, 129, 128, 1), (7, 65, 64, 2), (3, 192, 64, 2)):
        pages = paged.pages_per_request(length, page, multiple)
        assert pages % multiple == 0 and pages * page >= length > (pages - multiple) * page
        table = paged.page_table(Random("cpu", 3), requests, pages)
        assert table.dtype == torch.int32 and table.shape == (requests, pages)
        assert sorted(table.flatten().tolist()) == list(range(requests * pages))
    assert paged.cumulative(torch.tensor([3, 4, 5], dtype=torch.int32)).tolist() == [0, 3, 7, 12]


def test_gather_follows_the_table():
    pool = torch.arange(4 * 2).reshape(4, 2, 1)
    assert paged.gather(pool, torch.tensor([2, 0], dtype=torch.int32), 3).flatten().tolist() == [4, 5, 0]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (3, 8)])
def test_attention_agrees_with_sums_by_hand(causal, queries, keys, monkeypatch):
    monkeypatch.setattr(attention, "SCORES", 2 * queries * keys)  # two heads at a time
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn((n, 5, d), generator=generator) for n, d in ((queries, 12), (keys, 12), (keys, 6)))
    out = attention.attend(q, k, v, 0.3, causal)
    for i in range(queries):
        visible = keys - queries + i + 1 if causal else keys
        for head in range(5):
            scores = [0.3 * sum(a * b for a, b in zip(q[i, head].tolist(), k[j, head].tolist(), strict=True))
                      for j in range(visible)]  # fmt: skip
            powers = [math.exp(score) for score in scores]
            mean = sum(p * v[j, head].double() for j, p in enumerate(powers)) / sum(powers)
            assert torch.allclose(out[i, head].double(), mean, atol=1e-5)


class Tolerance(types.SimpleNamespace):
    rtol, atol, cosine, match_fraction = 0.1, 0.1, 0.99, None


def test_agreement_sees_what_an_absolute_limit_does_not():
    want = torch.randn((64, 128), generator=torch.Generator().manual_seed(2)) * 0.03

    def seen(have, **tolerance):
        return agreement.mismatches({"out": have}, {"out": want}, Tolerance(**tolerance))

    assert seen(want * 1.01) == []
    assert seen(torch.zeros_like(want))
    assert seen(want.roll(1, 0))
    assert seen(want * 1.2)
    assert seen(-want)
    one = want.clone()
    one[5] = 0
    assert len(seen(one)) == 1 and "1 of 64 vectors" in seen(one)[0]
    assert seen(one, match_fraction=0.95) == []
    one[5, 3] = math.nan
    assert "1 of 8192 values are NaN" in seen(one, match_fraction=0.95)[0]
    assert seen(want[:32])
    assert agreement.mismatches({}, {"out": want}, Tolerance())
    zero = torch.zeros((4, 8))
    assert agreement.mismatches({"out": zero}, {"out": zero}, Tolerance()) == []
