"""Rendering: what is written reads as Python, carries the spec, and never overwrites a person's file."""

import ast
from pathlib import Path

import pytest

from roofbench import generated, render
from roofbench.errors import UserError

TEMPLATES = Path(__file__).resolve().parents[2] / "workflow" / "templates"


def entry(**changes):
    return {
        "summary": "RMSNorm of each row, times a weight",
        "category": "norm",
        "min_compute_capability": "8.0",
        "providers": [
            {"source": "sgl-kernel", "target": "sgl_kernel:rmsnorm", "stacks": ["cu12"], "requires": "sgl_kernel"}
        ],
        "columns": {"M": "T", "N": "D", "K": "0"},
        "cost": {"flops": "5*T*D", "bytes": "4*T*D + 2*D"},
        "tolerance": {"rtol": 0.01, "atol": 0.01},
        **changes,
    }


def spec(**changes):
    return {
        "kernel": "rmsnorm",
        "catalogue": "rmsnorm",
        "source": "sgl-kernel",
        "compute_dtype": "bf16",
        "options": {},
        "sweep": {"kind": "tokens", "batch_sizes": [1, 2], "seq_lens": [128], "kv_lens": [128]},
        "ops": [
            {
                "op": "q_a_layernorm",
                "phase": "decode",
                "dims": {"D": 1536},
                "shapes": {"inputs": "[B, Lq]", "outputs": "same"},
                "points": [{}],
            }
        ],
        **changes,
    }


def namespace(text):
    """Names that the script assigns at its top level, with the source of what they are assigned."""
    tree = ast.parse(text)
    found = {n.targets[0].id: ast.unparse(n.value) for n in tree.body if isinstance(n, ast.Assign)}
    return found | {n.name: ast.unparse(n) for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_script_has_the_parts_that_everything_else_relies_on():
    names = namespace(render.render_kernel(spec(), entry(), TEMPLATES))
    for name in ("KERNEL", "OPS", "PROVIDERS", "make_inputs", "call_kernel", "cost", "columns", "run_benchmarks"):
        assert name in names
    assert names["OPS"] == "(Op('q_a_layernorm', 'decode', D=1536),)"
    assert "flops=5 * T * D" in names["cost"]


def test_limits_say_the_values_and_the_reason():
    limits = [{"require": "T <= 16", "reason": "at most 16 tokens"}]
    source = namespace(render.render_kernel(spec(), entry(limits=limits), TEMPLATES))["not_applicable"]
    scope = {}
    exec(source, scope)
    point = type("Point", (), {"T": 32})
    assert scope["not_applicable"](None, point) == "T = 32: at most 16 tokens"
    point.T = 16
    assert scope["not_applicable"](None, point) is None


def test_conditions_of_the_ops_file_bind_only_their_op():
    conditional = spec()
    conditional["ops"][0]["condition"] = "B <= 16"
    scope = {}
    exec(namespace(render.render_kernel(conditional, entry(), TEMPLATES))["not_applicable"], scope)
    point = type("Point", (), {"B": 32, "T": 32})
    op = type("Op", (), {"name": "q_a_layernorm", "phase": "decode"})
    expected = "B = 32: the ops file uses this kernel only where B <= 16"
    assert scope["not_applicable"](op, point) == expected
    op.phase = "prefill"
    assert scope["not_applicable"](op, point) is None


def test_functions_of_the_grammar_are_imported_where_a_formula_uses_them():
    text = render.render_kernel(spec(), entry(columns={"M": "round_up(T, 8)", "N": "D", "K": "0"}), TEMPLATES)
    assert "round_up" in text.split("KERNEL =")[0]
    assert "round_up" not in render.render_kernel(spec(), entry(), TEMPLATES)


@pytest.mark.parametrize(
    "label", ['a"b', "a'b", 'x""" + boom() + """', "{{ 7 * 7 }}", "a\\", "q_nope * w_kc", "naïve\n"]
)
def test_labels_are_data(label):
    hostile = spec()
    hostile["ops"][0] |= {"op": label, "shapes": {"inputs": label, "outputs": label}}
    names = namespace(render.render_kernel(hostile, entry(), TEMPLATES))
    assert ast.literal_eval(ast.parse(names["OPS"]).body[0].value.elts[0].args[0]) == label


def test_kv_sweep_loops_over_lengths_of_the_cache():
    sweep = {"kind": "kv", "batch_sizes": [1], "seq_lens": [128], "kv_lens": [128, 256]}
    names = namespace(render.render_kernel(spec(sweep=sweep), entry(), TEMPLATES))
    assert names["KV_LENS"] == "[128, 256]"
    assert "for L in kv_lens" in names["run_benchmarks"]


def test_missing_template_is_named():
    with pytest.raises(UserError, match=r"nosuch\.py\.j2"):
        render.render_kernel(spec(catalogue="nosuch"), entry(), TEMPLATES)


def test_seal_fits_only_what_it_sealed():
    text = generated.seal("print(1)\n")
    assert generated.is_ours(text)
    assert not generated.is_ours(text.replace("1", "2"))
    assert not generated.is_ours(text + "\n")
    assert not generated.is_ours("print(1)\n")


def test_a_persons_file_is_kept_and_ours_is_replaced(tmp_path):
    path = tmp_path / "bench.py"
    assert generated.write_generated(path, generated.seal("a = 1\n")) == "written"
    assert generated.write_generated(path, generated.seal("a = 2\n")) == "written"
    path.write_text(path.read_text().replace("a = 2", "a = 3"))
    assert generated.write_generated(path, generated.seal("a = 4\n")) == "kept"
    assert "a = 3" in path.read_text()
    assert generated.write_generated(path, generated.seal("a = 4\n"), overwrite=True) == "written"
    assert generated.write_generated(path, generated.seal("a = 4\n")) == "unchanged"
    assert [p.name for p in tmp_path.iterdir()] == ["bench.py"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n{% endblok %}\n", r"broken\.py\.j2:2: Encountered unknown tag 'endblok'"),
        ("a\n\n{{ nosuch }}\n", r"broken\.py\.j2:3: 'nosuch' is undefined"),
        ("{{ 1 // 0 }}\n", r"broken\.py\.j2:1: ZeroDivisionError"),
    ],
)
def test_mistakes_of_a_template_have_lines(tmp_path, text, message):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "broken.py.j2").write_text(text)
    with pytest.raises(UserError, match=message):
        render.render_kernel(spec(catalogue="broken"), entry(), tmp_path)
