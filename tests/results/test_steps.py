import json
from pathlib import Path

import pytest

from roofbench import state
from roofbench.errors import Problems, UserError
from roofbench.opsfile import parse_ops_file
from roofbench.results import resolve_steps, steps_or_reason

CONFIG = Path(__file__).parents[2] / "config" / "model_steps.yaml"

OPS = """
## Model Configuration
| Parameter | Value | Symbol |
|---|---|---|
| hidden_size | 64 | H |
| num_hidden_layers | 10 | L |

## Decode Phase
### Attention Ops
| Op | Input Shape | Output Shape | Kernel |
|---|---|---|---|
| `self.input_layernorm()` | [B, H] | [B, H] | `rmsnorm` / `fused_add_rmsnorm` |
| `self.fused_qkv_a_proj_with_mqa()` | [B, H] | [B, H] | `dsv3_fused_a_gemm` (B<=16) / `cutlass_scaled_fp4_mm` |
| `bmm_fp8()` (q_nope * w_kc) | [B, H] | [B, H] | `bmm_fp8` |
| `self.rotary_emb()` | [B, H] | same | `apply_rope` |
| `self.attn_mqa()` | [B, H] | [B, H] | `cutlass_mla_decode` |
### MLP Ops (MoE, layers 2-9)
| Op | Input Shape | Output Shape | Kernel |
|---|---|---|---|
| `self.post_attention_layernorm()` | [B, H] | [B, H] | `rmsnorm` |
| `self.shared_experts()` | [B, H] | [B, H] | `cutlass_scaled_fp4_mm` + `silu_and_mul` |
### MLP Ops (Dense, layers 0-1)
| Op | Input Shape | Output Shape | Kernel |
|---|---|---|---|
| `self.post_attention_layernorm()` | [B, H] | [B, H] | `rmsnorm` |
| `self.act_fn()` | [B, H] | [B, H] | `silu_and_mul` |
## Prefill Phase
| Op | Input Shape | Output Shape | Kernel |
|---|---|---|---|
| `self.rotary_emb()` | [B*S, H] | same | `apply_rope` |
## MoE Expert Backends
| Op | Input Shape | Output Shape | Kernel |
|---|---|---|---|
| `prepare_moe_input` | [B, H] | [B, H] | `prepare_moe_input` |
## Speculative Decoding
| Op | Input Shape | Output Shape | Kernel |
|---|---|---|---|
| `self.enorm()` | [B, H] | [B, H] | `rmsnorm` |
| `self.eh_proj()` | [B, H] | [B, H] | linear (not FP4) |
"""


def resolve(text=OPS, config=CONFIG):
    problems = Problems()
    found = resolve_steps(config, parse_ops_file(text, "ops.md", Problems()), problems)
    return found, problems


@pytest.fixture(scope="module")
def steps():
    found, problems = resolve()
    assert not problems.errors
    return {step["name"]: step["slots"] for step in found["steps"]}


def counts(slots):
    return [(slot["op"], slot["count"]) for slot in slots]


def test_an_op_counts_once_for_each_layer_of_its_sections(steps):
    assert counts(steps["decode"]) == [
        ("input_layernorm", 1),
        ("input_layernorm", 9),
        ("fused_qkv_a_proj_with_mqa", 10),
        ("q_nope * w_kc", 10),
        ("attn_mqa", 10),
        ("post_attention_layernorm", 10),
        ("shared_experts", 8),
        ("act_fn", 2),
    ]
    assert counts(steps["prefill"]) == [("rotary_emb", 10)]


def test_the_speculative_layer_is_one_layer_like_the_last(steps):
    assert counts(steps["speculative"]) == [
        ("enorm", 1),
        ("eh_proj", 1),
        ("input_layernorm", 1),
        ("fused_qkv_a_proj_with_mqa", 1),
        ("q_nope * w_kc", 1),
        ("attn_mqa", 1),
        ("post_attention_layernorm", 1),
        ("shared_experts", 1),
    ]
    assert steps["speculative"][1]["paths"] == []
    assert steps["speculative"][2]["paths"][0]["name"] == "fused_add_rmsnorm"


def test_alternatives_and_conditions_come_from_the_kernel_cell(steps):
    slot = steps["decode"][2]
    assert slot["choose"] == "first"
    assert slot["paths"] == [
        {"name": "dsv3_fused_a_gemm", "max_tokens": 16, "parts": [["dsv3_fused_a_gemm", "fused_qkv_a_proj_with_mqa"]]},
        {
            "name": "cutlass_scaled_fp4_mm",
            "max_tokens": None,
            "parts": [["cutlass_scaled_fp4_mm", "fused_qkv_a_proj_with_mqa"]],
        },
    ]


def test_declared_paths_win_over_the_kernel_cell(steps):
    attention = steps["decode"][4]
    assert attention["choose"] == "fastest"
    assert [path["name"] for path in attention["paths"]] == ["trtllm", "cutlass"]
    assert attention["paths"][1]["parts"] == [
        ["apply_rope_with_cos_sin_cache_inplace", "rotary_emb"],
        ["cutlass_mla_decode", "attn_mqa"],
    ]


def test_layers_may_be_written_in_words_and_limits_in_tokens():
    text = OPS.replace("layers 2-9", "layers 2 to 9").replace("(B<=16)", "(B*S<16)")
    slots = {step["name"]: step["slots"] for step in resolve(text)[0]["steps"]}["decode"]
    assert ("shared_experts", 8) in counts(slots)
    assert slots[2]["paths"][0]["max_tokens"] == 15


def test_an_optional_part_needs_a_row():
    def parts(text):
        (slot,) = [s for s in resolve(text)[0]["steps"][0]["slots"] if s["op"] == "experts"]
        return {path["name"]: len(path["parts"]) for path in slot["paths"]}

    text = OPS.replace("## Prefill", "| `self.experts()` | [B, H] | [B, H] | varies |\n## Prefill")
    assert parts(text)["cutlass"] == 6
    assert parts(text.replace("| `prepare_moe_input` |", "| `experts.quant_down` |", 1))["cutlass"] == 7


def test_a_symbol_or_section_that_does_not_fit_is_an_error():
    found, problems = resolve(OPS.replace("| L |", "| Layers |"))
    assert found is None
    assert "has no symbol 'L'" in problems.report()
    _, problems = resolve(OPS.replace("layers 2-9", "layers 2-10"))
    assert "the section says layers 2 to 10, but there are 10 layers" in problems.report()


def test_an_unknown_key_names_its_line(tmp_path):
    config = tmp_path / "model_steps.yaml"
    config.write_text("schema_version: 1\nlayers: L\nchoose: first\nops:\n  topk:\n    - chose: fastest\n")
    found, problems = resolve(config=config)
    assert found is None
    assert "model_steps.yaml:6: error: ops.topk[0]: unknown key 'chose'" in problems.report()


def test_the_projects_own_ops_file_gives_61_layers():
    text = (Path(__file__).parents[2] / "results" / "deepseek_nvfp4_ops.md").read_text()
    found, problems = resolve(text)
    assert not problems.errors, problems.report()
    slots = {step["name"]: dict(counts(step["slots"])) for step in found["steps"]}
    assert found["layers"] == 61
    for phase in ("decode", "prefill"):
        assert slots[phase]["o_proj"] == 61
        assert slots[phase]["experts"] == 58
        assert slots[phase]["gate_up_proj"] == 3
    assert slots["speculative"]["enorm"] == 1


def test_an_ops_file_that_is_no_whole_model_gives_a_reason_and_no_error():
    def lenient(text, config=CONFIG):
        problems = Problems()
        return steps_or_reason(config, parse_ops_file(text, "ops.md", Problems()), problems), problems

    found, problems = lenient(OPS.replace("| L |", "| Layers |"))
    assert found["steps"] == [] and "has no symbol 'L'" in found["reason"]
    assert not len(problems)
    found, problems = lenient(OPS.replace("layers 2-9", "layers 2-10"))
    assert "there are 10 layers" in found["reason"] and not problems.errors
    found, problems = lenient(OPS.replace("| 10 | L |", "| 1000000000 | L |"))
    assert found["steps"] == [] and not len(problems)
    assert lenient(OPS)[0] == resolve()[0]


def test_a_mistake_in_the_configuration_stays_an_error(tmp_path):
    config = tmp_path / "model_steps.yaml"
    config.write_text("schema_version: 1\nlayers: L\nchoose: first\nops:\n  topk:\n    - chose: fastest\n")
    problems = Problems()
    steps_or_reason(config, parse_ops_file(OPS, "ops.md", Problems()), problems)
    assert "model_steps.yaml:6: error" in problems.report()


def test_an_op_of_nearly_the_name_of_another_is_a_warning(tmp_path):
    config = tmp_path / "model_steps.yaml"
    config.write_text(
        "schema_version: 1\nlayers: L\nchoose: first\nops:\n"
        "  attn_mqaa:\n    - choose: fastest\n  zzz:\n    - choose: fastest\n"
    )
    problems = Problems()
    steps_or_reason(config, parse_ops_file(OPS, "ops.md", Problems()), problems)
    assert "Did you mean attn_mqa?" in problems.report() and "zzz" not in problems.report()


def test_paths_of_the_configuration_must_be_there(tmp_path):
    path = tmp_path / "model_steps.json"
    path.write_text(json.dumps(resolve()[0]))
    steps = state.read_steps(path)
    for good in ({}, {"*": "fastest"}, {"attn_mqa": "cutlass"}, {"attn_mqa": "first"}, {"q_nope * w_kc": "bmm_fp8"}):
        state.check_paths(steps, good)
    with pytest.raises(UserError, match=r"no step of the model has the op attn_mqaa. Did you mean attn_mqa\? Ops with"):
        state.check_paths(steps, {"attn_mqaa": "cutlass"})
    with pytest.raises(UserError, match="attn_mqa has no path x. It has fastest, first, cutlass, trtllm."):
        state.check_paths(steps, {"attn_mqa": "x"})
    state.check_paths(state.read_steps(tmp_path / "none.json"), {"attn_mqaa": "x"})
