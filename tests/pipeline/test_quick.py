"""The whole pipeline on a small ops file: from nothing to verified scripts, and again."""

import json

import pytest
from project import ops_file


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
    said = run.output[run.output.index("verify_script rmsnorm failed: see logs/verify/rmsnorm.log") :]
    assert "bench_rmsnorm.py:" in said, "the finding stands last, above Snakemake's own last lines"


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (["kernels=rmsnrom"], ["kernels: rmsnrom is not in", "Did you mean rmsnorm?"]),
        (["seq_lens=abc", "kernel=rmsnorm"], ["--config: error: seq_lens[0]", "Did you mean kernels?"]),
        (
            ["ops_file=bad.md", "batch_sizes=3"],
            ["bad.md:9: error: Lq: the value of Lq is not a number: 'x1536'", "1 error"],
        ),
    ],
)
def test_mistakes_end_in_our_words_alone_before_anything_begins(project, settings, messages):
    project.file("bad.md").write_text(ops_file(Lq="x1536"))
    output = project.run("verify", "--config", *settings, status=1).output
    for message in messages:
        assert message in output
    assert not [part for part in ("Traceback", "Exception", "WorkflowError", "Building DAG") if part in output]
