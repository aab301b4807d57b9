"""What is made again after each kind of change, counted in jobs. The tests build on each other, in order."""

import shutil

import pytest

pytestmark = pytest.mark.slow

BUNDLE = {"index_scripts": 1, "verify_bundle": 1}
RESULTS = {"aggregate": 1, "plot": 1, "model_time": 1, "check_status": 1}
ONE_KERNEL = {"render_script": 1, "verify_script": 1, "run_benchmark": 1, **RESULTS}
TABLE = "deepseek_kernel_benchmarks/results/all_kernels.csv"
SUMMARY = "deepseek_kernel_benchmarks/results/benchmark_summary.md"


@pytest.fixture(autouse=True, scope="module")
def built(project):
    """Everything made once."""
    jobs = project.run("all").jobs
    assert jobs["run_benchmark"] == 2
    assert project.run("all").jobs == {}


def test_prose(project):
    project.write(prose="Other words.")
    assert project.run("all").jobs == {"parse_ops": 1}


def test_unused_symbol(project):
    project.write(Z=5)
    assert project.run("all").jobs == {"parse_ops": 1}


def test_changed_shape(project):
    project.write(I=1024)
    assert project.run("all").jobs == {"parse_ops": 1, **BUNDLE, **ONE_KERNEL}
    assert "1024" in project.script("silu_and_mul").read_text()


def test_template(project):
    project.append("workflow/templates/kernels/rmsnorm.py.j2", "\n")
    assert project.run("all").jobs == ONE_KERNEL


def test_catalogue_entry(project):
    project.append("config/kernels/rmsnorm.yaml", "\n# a remark\n")
    jobs = project.run("all").jobs
    assert jobs == {"parse_ops": 1, **BUNDLE, **ONE_KERNEL}


def test_contract(project):
    project.append("workflow/roofbench/contracts/rmsnorm.py", "\n# a remark\n")
    assert project.run("verify").jobs == {"verify_script": 1}
    project.run("all")


def test_reference(project):
    project.append("workflow/bundle/scripts/references/rmsnorm.py", "\n# a remark\n")
    assert project.run("verify").jobs == {"copy_reference": 1, "verify_script": 1}
    project.run("all")


def test_lost_stamp(project):
    project.file("results/verified/rmsnorm.json").unlink()
    assert project.run("verify").jobs == {"verify_script": 1}
    project.run("all")


def test_lost_spec(project):
    project.file("results/specs/rmsnorm.json").unlink()
    assert project.run("verify").jobs == {"parse_ops": 1}
    assert project.file("results/specs/rmsnorm.json").exists()


def test_lost_script(project):
    project.script("rmsnorm").unlink()
    assert project.run("generate").jobs == {"render_script": 1}
    project.run("all")


def test_added_row(project):
    project.write(("rmsnorm", "silu_and_mul", "topk_sigmoid"), I=1024)
    assert project.run("all").jobs == {"parse_ops": 1, **BUNDLE, **ONE_KERNEL}
    assert "topk_sigmoid" in project.file(SUMMARY).read_text()


def test_removed_row(project):
    project.write(I=1024)
    assert project.run("all").jobs == {"parse_ops": 1, **BUNDLE, **RESULTS}
    assert "topk_sigmoid" not in project.file(SUMMARY).read_text()
    left = [path.relative_to(project.root) for path in project.root.rglob("*topk_sigmoid*")]
    made = [path for path in left if path.parts[0] in ("results", "deepseek_kernel_benchmarks")]
    aside = [path for path in made if "removed" in path.parts]
    assert {path.suffix for path in aside} == {".csv", ".jsonl"}
    assert [path for path in made if "references" not in path.parts and "journal" not in path.parts] == aside


def test_lost_records_of_snakemake_then_a_change(project):
    shutil.rmtree(project.file(".snakemake"))
    assert project.run("all").jobs.get("render_script", 0) <= 2
    shutil.rmtree(project.file(".snakemake"))
    project.write(I=512)
    project.run("all")
    assert "512" in project.script("silu_and_mul").read_text()
    assert project.run("all").jobs == {}


def test_other_settings_change_the_specs(project):
    changed = project.run("generate", "--config", "batch_sizes=1,2").jobs
    assert changed == {"parse_ops": 1, "index_scripts": 1, "render_script": 2}
    shutil.rmtree(project.file(".snakemake"))
    assert project.run("generate").jobs == {"parse_ops": 1, "index_scripts": 1, "render_script": 2}
    project.run("all")


def test_selection(project):
    only = ["--config", "kernels=rmsnorm"]
    assert project.run("all", *only).jobs == {**BUNDLE, **RESULTS}
    assert "silu_and_mul" not in project.file(SUMMARY).read_text()
    assert project.run("all", "--config", "exclude=silu_and_mul").jobs == {}
    assert project.run("all").jobs == {**BUNDLE, **RESULTS}
    assert "silu_and_mul" in project.file(SUMMARY).read_text()


def test_another_ops_file(project):
    path = project.file("other.md")
    path.write_text(project.file("results/deepseek_nvfp4_ops.md").read_text())
    assert project.run("verify", "--config", "ops_file=other.md").jobs == {"parse_ops": 1}
    assert project.run("verify").jobs == {"parse_ops": 1}


def test_a_bad_ops_file_is_told_without_a_traceback(project):
    bad = project.file("bad.md")
    bad.write_text("# Nothing\n\nAt all.\n")
    output = project.run("generate", "--config", "ops_file=bad.md", status=1).output
    assert "bad.md" in output
    assert "Traceback" not in output
    assert project.run("generate").jobs.get("render_script", 0) == 0
