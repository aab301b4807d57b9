"""The whole pipeline on a small ops file: from nothing to verified scripts, and again."""

import json

import pytest


def test_from_nothing_everything_is_made_and_verified(project):
    jobs = project.run("verify").jobs
    assert jobs["parse_ops"] == 1
    assert jobs["render_script"] == jobs["verify_script"] == 2
    assert "run_benchmark" not in jobs
    for kernel in ("rmsnorm", "silu_and_mul"):
        assert project.script(kernel).exists()
        assert json.loads(project.file(f"results/verified/{kernel}.json").read_text())


def test_a_second_run_does_nothing(project):
    assert project.run("generate", "verify").jobs == {}


def test_prose_and_unused_symbols_rebuild_no_script(project):
    project.write(prose="Other words,\n\nmore lines.", Z=4)
    assert project.run("verify").jobs == {"parse_ops": 1}


def test_a_wrong_script_is_named_with_its_line_and_the_way_out(project):
    project.append(project.script("rmsnorm"), "x = 1 +\n")
    run = project.run("verify", status=1)
    assert "bench_rmsnorm.py:" in run.output
    assert "--config exclude=rmsnorm" in run.output
    assert "Traceback" not in run.output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("kernels=rmsnrom", "Did you mean rmsnorm?"),
        ("seq_lens=abc", "seq_lens"),
        ("kernel=rmsnorm", "Did you mean"),
        ("ops_file=results/nosuch.md", "does not exist"),
        ("hardware=H2000", "Did you mean H200?"),
    ],
)
def test_a_wrong_setting_is_one_clear_message(project, setting, message):
    output = project.run("verify", "--config", setting, status=1).output
    assert message in output
    assert "Traceback" not in output
