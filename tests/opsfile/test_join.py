"""What comes out of whole ops files: points, origins, warnings, and files that are only written when they change."""

import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opsfile_helpers import OWN, ROOT, SMALL, catalogue, line_of, lookalike, parse
from points_table import ALL_POINTS, BATCHES, BLACKWELL, HOPPER_POINTS, LENGTHS, expected, found

from roofbench.catalogue import Catalogue, Entry
from roofbench.config import check_config
from roofbench.documents import parse_yaml, validate_data
from roofbench.errors import Problems, UserError
from roofbench.join import Specs, build_specs, write_specs
from roofbench.opsfile import parse_ops_file

TABLE = expected()


@pytest.fixture(scope="module")
def parsed():
    return parse(lookalike())


def test_the_table_itself_has_the_agreed_counts():
    counts = {key: len(points) for key, (points, _) in TABLE.items()}
    assert sum(counts.values()) == ALL_POINTS
    assert sum(n for key, n in counts.items() if key[0] not in BLACKWELL) == HOPPER_POINTS


@pytest.mark.parametrize("key", TABLE, ids=" ".join)
def test_points_of_each_op(parsed, key):
    assert found(parsed[0]).get(key) == TABLE[key]


def test_nothing_else_comes_out(parsed):
    specs, problems = parsed
    assert found(specs) == TABLE
    assert len(specs) == 23
    assert not problems.errors


def test_specs_fit_the_schema_and_hold_no_line_numbers(parsed):
    for kernel, spec in parsed[0].items():
        assert not len(validate_data(spec, "spec.schema.json", kernel))
        assert '"line' not in json.dumps(spec)


def test_where_the_file_is_loose_there_is_a_warning(parsed):
    warnings = parsed[1].warnings
    codes = {p.code for p in warnings}
    assert codes == {"sum", "label", "summary-op", "same-as", "alias", "declared"}
    said = {p.line: str(p) for p in warnings}
    text = lookalike()
    for part, expected_text in [
        ("| `concat_mla_mha_k` | sgl", "the catalogue's concat_mla_k"),
        ("| `moe_align_block_size` | sgl", "moe_align_block_size.yaml: ops.declares[0]"),
        ("| `mla_rope_quantize_fp8` | fl", "attn_mqa.rope_quantize (decode)"),
        ("| `trtllm_ragged_attention_deepseek` | fl", "attn_mha (prefill)"),
        ("| `cutlass_scaled_fp4_mm` | sgl", "fused_qkv_a_proj_with_mqa"),
        ("| `rmsnorm` | sgl", "shared_head.norm"),
        ("| `self.shared_experts()` | [B*S", "ops.composites.shared_experts"),
    ]:
        assert expected_text in said[line_of(text, part)]


def test_origins(parsed):
    specs = parsed[0]
    origins = {(k, op["op"], op["phase"]): op["origin"] for k, spec in specs.items() for op in spec["ops"]}
    assert origins["rmsnorm", "enorm", "decode"] == {
        "kind": "row", "section": "Speculative Decoding (EAGLE/NextN) > Ops of its own", "row": "self.enorm()",
    }  # fmt: skip
    assert origins["moe_align_block_size", "experts.align", "prefill"] == {
        "kind": "catalogue",
        "key": "ops.declares[0]",
    }
    assert origins["silu_and_mul", "shared_experts.act", "decode"] == {
        "kind": "composite", "section": "Decode Phase (absorbed heads) > MLP Ops (experts)",
        "row": "self.shared_experts()", "key": "ops.composites.shared_experts[0]",
    }  # fmt: skip


def test_alias_keeps_the_name_of_the_ops_file(parsed):
    spec = parsed[0]["concat_mla_mha_k"]
    assert (spec["kernel"], spec["catalogue"]) == ("concat_mla_mha_k", "concat_mla_k")


def test_limits_give_reasons(parsed):
    gate = {op["phase"]: op for op in parsed[0]["dsv3_router_gemm"]["ops"]}
    assert gate["prefill"]["points"] == [] and len(gate["prefill"]["not_applicable"]) == 20
    assert gate["decode"]["not_applicable"][0] == {
        "B": 32, "S": 1, "L": 1, "T": 32, "reason": "T = 32: the kernel takes at most 16 tokens",
    }  # fmt: skip
    assert gate["decode"]["condition"] == "B <= 16"
    assert "condition" not in gate["prefill"]


def test_a_condition_tighter_than_the_limits_counts():
    specs, problems = parse(lookalike().replace("`dsv3_fused_a_gemm` (B<=16)", "`dsv3_fused_a_gemm` (B < I/512)"))
    (op,) = specs["dsv3_fused_a_gemm"]["ops"]
    assert [p["B"] for p in op["points"]] == [1, 2]
    assert op["condition"] == "B < 2048 / 512"
    assert op["not_applicable"][0]["reason"] == "B = 4: the ops file uses this kernel only where B < 2048 / 512"
    assert (
        found(specs)["cutlass_scaled_fp4_mm", "fused_qkv_a_proj_with_mqa", "decode"]
        == TABLE["cutlass_scaled_fp4_mm", "fused_qkv_a_proj_with_mqa", "decode"]
    )
    assert not problems.errors


def test_own_ops_file():
    specs, problems = parse(OWN.read_text())
    assert not len(problems), problems.report()
    table, own = dict(TABLE), found(specs)
    kernels = [line.split("`")[1] for line in OWN.read_text().split("## Kernel Summary")[1].splitlines() if "`" in line]
    assert len(kernels) == len(set(kernels)) == 23 and list(specs) == kernels
    assert all(op["origin"]["kind"] == "row" for spec in specs.values() for op in spec["ops"])
    for phase in ("prefill", "decode"):
        rows = own.pop(("scaled_fp4_experts_quant", "experts.quant_down", phase))[0]
        assert {(m // t, n, k) for _, _, _, t, m, n, k in rows} == {(8, 2048, 0)}
        for key, n, k in [
            (("cutlass_scaled_fp4_mm", "gate_up_proj", phase), 36864, 7168),
            (("cutlass_scaled_fp4_mm", "down_proj", phase), 7168, 18432),
            (("silu_and_mul", "act_fn", phase), 18432, 0),
        ]:
            assert {row[5:] for row in own.pop(key)[0]} == {(n, k)}
            del table[key]
    concat = table.pop(("concat_mla_mha_k", "_concat_and_cast_mha_k", "prefill"))
    table["concat_mla_k", "_concat_and_cast_mha_k", "prefill"] = concat
    assert own == table


def test_one_rank_of_eight():
    specs, problems = parse(lookalike(), symbols="{Nh: 16}")
    assert not problems.errors
    table = found(specs)
    assert {row[5:] for row in table["cutlass_scaled_fp4_mm", "q_b_proj", "decode"][0]} == {(3072, 1536)}
    assert {row[5:] for row in table["cutlass_scaled_fp4_mm", "o_proj", "prefill"][0]} == {(7168, 2048)}
    assert {row[5:] for row in table["apply_rope_with_cos_sin_cache_inplace", "rotary_emb", "decode"][0]} == {(16, 64)}
    assert table["concat_mla_mha_k", "_concat_and_cast_mha_k", "prefill"] == ([], 20)
    assert {op["dims"]["Nb"] for op in specs["bmm_fp8"]["ops"]} == {16}
    unchanged = [key for key in TABLE if key[0] in ("rmsnorm", "topk_softmax", "cutlass_fp4_group_mm")]
    assert all(table[key] == TABLE[key] for key in unchanged)


def test_overridden_symbols_reach_derived_ones():
    specs, _ = parse(SMALL.replace("x: [B, Lq] | y: [B, Lq]", "x: [B, Hh] | y: [B, Hh]"), symbols={"H": 1024})
    assert [op["dims"]["D"] for op in specs["rmsnorm"]["ops"]] == [1024, 1024, 512]


def test_unknown_override():
    _, problems = parse(SMALL, symbols={"Lqq": 3})
    assert [(p.code, p.hint) for p in problems.errors] == [("unknown-symbol", "Did you mean Lq?")]


def test_sweeps_follow_the_configuration():
    specs, _ = parse(lookalike(), batch_sizes=[1, 3, 5, 7, 9], seq_lens="32,64", kv_lens=[1000])
    table = found(specs)
    assert [row[:2] for row in table["rmsnorm", "q_a_layernorm", "prefill"][0]] == [
        (B, S) for B in (1, 3, 5, 7) for S in (32, 64)
    ]
    assert [row[0] for row in table["rmsnorm", "q_a_layernorm", "decode"][0]] == [1, 3, 5, 7, 9]
    assert {row[2] for row in table["cutlass_mla_decode", "attn_mqa", "decode"][0]} == {1000}
    assert specs["rmsnorm"]["sweep"]["batch_sizes"] == [1, 3, 5, 7, 9]


def test_options_and_routing():
    name = "trtllm_batch_decode_with_kv_cache_mla"
    spec = parse(lookalike())[0][name]
    assert (spec["options"], spec["ops"][0]["dims"]["b"]) == ({"kv_dtype": "fp8"}, 1)
    specs, _ = parse(lookalike(), options={name: {"kv_dtype": "bf16"}}, timing={"routing": "balanced"})
    assert (specs[name]["options"], specs[name]["ops"][0]["dims"]["b"]) == ({"kv_dtype": "bf16"}, 2)
    assert specs["cutlass_fp4_group_mm"]["routing"] == "balanced" and "routing" not in specs["rmsnorm"]
    for options, part in [
        ({name: {"kv_dtype": "fp16"}}, "it can be fp8, bf16"),
        ({"rmsnorm": {"x": "y"}}, "no option x"),
        ({"rmsnrom": {}}, "no kernel rmsnrom"),
    ]:
        _, problems = parse(lookalike(), options=options)
        assert [p.code for p in problems.errors] == ["option"] and part in problems.errors[0].message


def test_unselected_kernels_are_parsed_too():
    assert len(parse(lookalike(), kernels="rmsnorm", exclude="silu_and_mul")[0]) == 23


def shuffled(text, seed):
    """The text with the rows of every table in another order."""
    rng, lines, out = random.Random(seed), text.splitlines(), []
    while lines:
        out.append(lines.pop(0))
        if out[-1].startswith("|--"):
            rows = []
            while lines and lines[0].startswith("|"):
                rows.append(lines.pop(0))
            rng.shuffle(rows)
            out += rows
    return "\n".join(out)


slow_is_fine = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])


@slow_is_fine
@given(st.integers(0, 10**6))
def test_the_order_of_rows_does_not_matter(seed):
    specs, problems = parse(shuffled(lookalike(), seed))
    assert found(specs) == TABLE and not problems.errors


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("| ", "|").replace(" |", "|"),
        lambda text: text.replace("| ", "|    \t").replace(" |", "   |"),
        lambda text: "\n".join(
            line.rstrip("|").removeprefix("|") if line.startswith("|") else line for line in text.split("\n")
        ),
        lambda text: text.replace("|----|-------------|--------------|--------|", "|:-|:-:|-:|---|"),
        lambda text: text.replace("B*S", "B * S").replace(", ", ",").replace("] = [", "]=["),
        lambda text: text.replace("## Decode Phase", "##   DECODE phase ##\n").replace(" (absorbed heads)", ""),
        lambda text: text.replace("B*S", r"B\*S"),
        lambda text: text.replace("(B<=16)", "(B ≤ 16)"),
        lambda text: "Some more prose with | a pipe.\n\n" + text,
        lambda text: text.replace("`self.enorm()` |", "`self.enorm()` <!-- a remark --> |"),
        lambda text: text.replace(
            "| Op | Input Shape | Output Shape | Kernel |", "| op | Input shapes | Outputs | Kernels |"
        ),
    ],
)
def test_other_ways_to_write_the_same(change):
    text = change(lookalike())
    assert text != lookalike()
    specs, problems = parse(text)
    assert not problems.errors, problems.report()
    assert found(specs) == TABLE


def test_prose_and_unused_symbols_change_no_spec():
    text = lookalike().replace("Called from", "More prose.\n\nCalled from")
    text = text.replace("| `num_hidden_layers` | 61 | L |", "| `num_hidden_layers` | 62 | L |\n| `new` | 3 | Nx |")
    assert parse(text)[0] == parse(lookalike())[0]


def write(text, folder, **changes):
    problems = Problems()
    result = build_specs(parse_ops_file(text, "ops.md", problems), catalogue(), check_config(changes), problems)
    assert not problems.errors
    return {path.name for path in write_specs(result, folder, text)}


def test_files_are_written_only_when_they_change(tmp_path):
    text = lookalike()
    assert len(write(text, tmp_path)) == 25
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    for path in before:
        os.utime(path, ns=(before[path] - 10**9, before[path] - 10**9))
    assert write(text, tmp_path) == set()
    assert all(path.stat().st_mtime_ns == time - 10**9 for path, time in before.items())
    assert write(text + "\nMore prose.\n", tmp_path) == {"specs.json"}
    changed = write(
        text.replace("| `self.hnorm()` | [B, H]", "| `self.hnorm()` | [B, 2*H]").replace(
            "(target hidden) | [B, H]", "| [B, 2*H]"
        ),
        tmp_path,
    )
    assert changed == {"rmsnorm.json", "specs.json"}
    manifest = json.loads((tmp_path / "specs.json").read_text())
    kernels = [entry["kernel"] for entry in manifest["kernels"]]
    assert len(kernels) == 23 and [kernels[0], kernels[13], kernels[-1]] == [
        "rmsnorm",
        "topk_softmax",
        "fused_moe_kernel",
    ]
    assert len(manifest["ops_file_sha256"]) == 64
    origins = json.loads((tmp_path / "spec_origins.json").read_text())["kernels"]["rmsnorm"]
    assert origins["ops"]["enorm|decode"] == line_of(text, "`self.enorm()`")
    assert origins["summary_line"] == line_of(text, "| `rmsnorm` | sgl")


def test_a_kernel_taken_out_of_the_summary_loses_its_spec(tmp_path):
    text = lookalike()
    write(text, tmp_path)
    line = next(line for line in text.splitlines() if line.startswith("| `fused_add_rmsnorm` | sgl"))
    assert write(text.replace(line + "\n", ""), tmp_path) == {"specs.json", "spec_origins.json"}
    assert not (tmp_path / "specs" / "fused_add_rmsnorm.json").exists()
    assert len(list((tmp_path / "specs").iterdir())) == 22


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "specs").write_text("a file")
    with pytest.raises(UserError):
        write(SMALL, tmp_path)


def test_command_line_twice(tmp_path):
    command = [sys.executable, "scripts/parse_ops.py", "--out-dir", str(tmp_path)]
    for changed in (23, 0):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and f"{changed} specs changed" in done.stderr, done.stderr
    assert {path.stem for path in (tmp_path / "specs").iterdir()} == {
        key[0] if key[0] != "concat_mla_mha_k" else "concat_mla_k" for key in TABLE
    }


ENTRY = """\
name: {name}
aliases: [other_name]
summary: A kernel for tests
category: gemm
compute_dtype: bf16
min_compute_capability: "8.0"
providers: [{{source: sgl-kernel, target: "m:f", stacks: [cu12]}}]
shapes:
  inputs: [{{name: a, dims: [T, "2*Half"]}}, {{name: b, dims: ["2*Half", N]}}]
  outputs: [{{name: c, dims: [T, N]}}]
columns: {{M: T, N: N, K: "2*Half"}}
cost: {{flops: "2*T*N*Half", bytes: "N"}}
arguments: [{{name: a}}]
tolerance: {{rtol: 0.1, atol: 0.1}}
{more}
"""


def small_with(row, more="", summary="`test_kernel`"):
    problems = Problems()
    entry = Entry(parse_yaml(ENTRY.format(name="test_kernel", more=more), "test_kernel.yaml", problems))
    text = SMALL.replace("| `self.q_a_layernorm()` |", f"{row}\n| `self.q_a_layernorm()` |".lstrip())
    text += f"| {summary} | sgl-kernel | |\n"
    entries = Catalogue([entry, catalogue().entry("rmsnorm")], "catalogue")
    result = build_specs(parse_ops_file(text, "ops.md", problems), entries, check_config({}), problems)
    return result.specs.get("test_kernel") or result.specs.get("other_name"), problems


def test_dimensions_are_solved_checked_and_matched_by_name():
    for shapes in ("a: [B, H], b: [H, Lq]", "b: [H, Lq], a: [B, H]", "b: [H, Lq], [B, H]", "x: [B, H], y: [H, Lq]"):
        spec, problems = small_with(f"| `op` | {shapes} | [B, Lq] | `test_kernel` |")
        assert not problems.errors, problems.report()
        assert spec["ops"][0]["dims"] == {"Half": 3584, "N": 1536}
    _, problems = small_with("| `op` | [B, 7], [7, Lq] | [B, Lq] | `test_kernel` |")
    assert "2*Half cannot be: Half is 3.5, not a whole number" in problems.errors[0].message
    _, problems = small_with("| `op` | [B, H], [Lq, Lq] | [B, Lq] | `test_kernel` |")
    assert "input b: Lq is 1536 at B=1, S=1, but 2*Half is 7168" in problems.errors[0].message
    _, problems = small_with("| `op` | [B, H], [H, B] | [B, B] | `test_kernel` |")
    assert "N should be the same at all points" in problems.errors[0].message


def test_names_and_aliases_in_tables_and_summary():
    row = "| `op` | [B, H], [H, Lq] | [B, Lq] | `other_name` |"
    spec, _ = small_with(row)
    assert (spec["kernel"], spec["catalogue"]) == ("test_kernel", "test_kernel")
    spec, problems = small_with(row.replace("other_name", "test_kernel"), summary="`other_name`")
    assert (spec["kernel"], spec["catalogue"]) == ("other_name", "test_kernel")
    _, problems = small_with(row, summary="`other_name` / `test_kernel`")
    assert "are the same kernel" in problems.errors[0].message
    spec, problems = small_with(row.replace("`other_name`", "other_name"))
    assert spec and not problems.errors


def test_mistakes_of_the_catalogue_name_its_file():
    more = "ops: {declares: [{op: x, phases: [decode], inputs: '[B, Hq], [H, Lq]', outputs: '[B, Lq]'}]}"
    _, problems = small_with("", more)
    (error,) = problems.errors
    assert "(test_kernel.yaml:" in error.message and "declares[0].inputs), which is not defined" in error.message
    assert error.hint == "Did you mean H?" and error.line
    _, problems = small_with("", more.replace("Hq", "Lq"))
    assert "ops.declares[0] (decode): input b" in problems.errors[0].message


def test_kv_kernels_belong_to_decode():
    text = lookalike().replace("flashinfer/trtllm prefill", "`cutlass_mla_decode`")
    _, problems = parse(text)
    assert any("sweeps KV lengths, which only decode has" in p.message for p in problems.errors)


def test_defaults():
    config = check_config({})
    assert (config.batch_sizes, config.seq_lens, config.kv_lens) == (BATCHES, LENGTHS, LENGTHS)


def test_the_manifest_remembers_what_was_taken_out_of_the_same_ops_file(tmp_path):
    def write(name, *kernels):
        result = Specs(manifest={"ops_file": str(tmp_path / name), "kernels": [{"kernel": k} for k in kernels]})
        write_specs(result, tmp_path)
        return json.loads((tmp_path / "specs.json").read_text())["taken_out"]

    assert write("one.md", "a", "b", "c") == []
    assert write("one.md", "a") == ["b", "c"]
    assert write("one.md", "a", "b") == ["c"]
    assert write("two.md", "a") == []
    assert write("one.md", "a") == []
