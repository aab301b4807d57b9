"""Catalogue entries: all of ours load, and mistakes name file, line and nearest spelling."""

import shutil
import tempfile
from pathlib import Path

import pytest
from opsfile_helpers import ROOT, SMALL, catalogue

from roofbench.catalogue import load_catalogue, load_entry
from roofbench.config import check_config
from roofbench.errors import Problems, UserError
from roofbench.join import build_specs
from roofbench.opsfile import parse_ops_file

KERNELS = ROOT / "config" / "kernels"


def problems_of(folder):
    problems = Problems()
    load_catalogue(folder, problems)
    return problems


def changed(tmp_path, old, new, name="dsv3_fused_a_gemm"):
    """Problems of one entry with a piece of its text replaced, and the line of the piece."""
    text = (KERNELS / f"{name}.yaml").read_text()
    assert old in text
    (tmp_path / f"{name}.yaml").write_text(text.replace(old, new, 1))
    return problems_of(tmp_path), text[: text.index(old)].count("\n") + 1


def test_every_entry_loads_and_is_found_by_name_and_alias():
    loaded = catalogue()
    assert len(loaded) == len(list(KERNELS.glob("*.yaml"))) == 23
    assert loaded.entry("concat_mla_mha_k") is loaded.entry("concat_mla_k")
    assert loaded.get("nothing") is None and "rmsnorm" in loaded
    with pytest.raises(UserError, match="Did you mean rmsnorm"):
        loaded.entry("rmsnrom")


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("category: gemm", "category: gem", "Did you mean gemm?"),
        ("category: gemm", "categry: gemm", "Did you mean category?"),
        ("compute_dtype: bf16", "compute_dtype: bf61", "fp4, fp8, bf16"),
        ('"9.0"', "9.0", "in quotes"),
        ("columns:", "colums:", "Did you mean columns?"),
        ("K: Kd}", "K: Kq}", "Kq is not bound"),
        ('"T <= 16"', '"T <= "', "not an expression"),
        ('"2*T*N*Kd"', '"2*T*N*active_experts"', "active_experts is not bound"),
        ("name: dsv3_fused_a_gemm", "name: other", "the file is called dsv3_fused_a_gemm.yaml"),
        ("role: out", "role: output", "one of in, out"),
    ],
)
def test_mistakes(tmp_path, old, new, part):
    problems, line = changed(tmp_path, old, new)
    found = [p for p in problems if part in f"{p.message} {p.hint}"]
    assert found and found[0].line == line, problems.report()


def test_all_mistakes_come_out_at_once(tmp_path):
    text = (KERNELS / "rmsnorm.yaml").read_text()
    (tmp_path / "rmsnorm.yaml").write_text(text.replace("norm\ncompute", "nrm\ncompute").replace("cost:", "costs:"))
    (tmp_path / "broken.yaml").write_text("name: [a\n")
    (tmp_path / "twice.yaml").write_text("name: a\nname: b\n")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "aliases.yaml").write_text("a: &x [1]\nb: *x\n")
    problems = problems_of(tmp_path)
    assert {p.file.rsplit("/", 1)[1] for p in problems} == {
        "rmsnorm.yaml", "broken.yaml", "twice.yaml", "empty.yaml", "aliases.yaml",
    }  # fmt: skip
    assert {"unknown-key", "yaml", "duplicate-key"} <= {p.code for p in problems}


def test_an_alias_belongs_to_one_kernel(tmp_path):
    shutil.copy(KERNELS / "rmsnorm.yaml", tmp_path)
    text = (KERNELS / "dsv3_fused_a_gemm.yaml").read_text()
    (tmp_path / "dsv3_fused_a_gemm.yaml").write_text(text.replace("\nsummary", "\naliases: [rmsnorm]\nsummary"))
    assert "also belongs to rmsnorm" in problems_of(tmp_path).report()


def test_no_catalogue(tmp_path):
    assert [p.code for p in problems_of(tmp_path / "none")] == ["no-catalogue"]
    with pytest.raises(UserError):
        load_entry(tmp_path / "none.yaml")


def test_options():
    entry = catalogue().entry("trtllm_batch_decode_with_kv_cache_mla")
    assert entry.option_dims(entry.chosen_options()) == {"b": 1}
    assert entry.option_dims(entry.chosen_options({"kv_dtype": "bf16"})) == {"b": 2}
    assert entry.substitute("{kv_dtype}", {"kv_dtype": "bf16"}) == "bf16"


def test_a_stack_that_is_not_there_is_named(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "stacks").mkdir()
    for name in ("cu12", "cu13"):
        (tmp_path / "stacks" / f"{name}.json").write_text("{}")
    problems, line = changed(tmp_path / "kernels", "stacks: [cu12, cu13]", "stacks: [cu12, cu14]", "rmsnorm")
    (error,) = problems.errors
    assert "there is no stack cu14" in error.message and error.line == line


def test_a_broken_entry_is_told_once():
    text = (KERNELS / "rmsnorm.yaml").read_text().replace("N: D", "N: Dx")
    assert "Dx" in text
    problems = Problems()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rmsnorm.yaml").write_text(text)
        broken = load_catalogue(folder, problems)
        build_specs(parse_ops_file(SMALL, "ops.md", problems), broken, check_config({}), problems)
    (error,) = problems.errors
    assert "Dx is not bound" in error.message
