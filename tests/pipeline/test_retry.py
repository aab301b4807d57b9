"""Not measured is not finished: what `all` tries again, and what it leaves."""

import json
import subprocess
import sys

import pytest
from project import ROOT

pytestmark = pytest.mark.slow

KERNELS = ("rmsnorm", "silu_and_mul")
RESULTS = {"aggregate": 1, "plot": 1, "model_time": 1, "check_status": 1}


@pytest.fixture(autouse=True, scope="module")
def built(project):
    """Everything made once, on a machine without a GPU."""
    project.run("all")
    assert {status(project, kernel) for kernel in KERNELS} == {"unavailable"}


def sidecar(project, kernel):
    return project.file(f"deepseek_kernel_benchmarks/results/{kernel}.jsonl")


def status(project, kernel):
    return json.loads(sidecar(project, kernel).read_text().splitlines()[0])["status"]


def pretend(project, kernel, status):
    """Give a kernel another status, as if its run had ended so."""
    first, *rest = sidecar(project, kernel).read_text().splitlines()
    record = {**json.loads(first), "status": status, "reason": "pretended"}
    sidecar(project, kernel).write_text("\n".join([json.dumps(record), *rest]) + "\n")


def test_nothing_changed(project):
    assert project.run("all").jobs == {}
    assert "Nothing to be done" in project.run("-n", "all").output


def test_retry(project):
    assert project.run("all", "--config", "retry=true").jobs == {"run_benchmark": 2, **RESULTS}
    assert project.run("all").jobs == {}


def test_other_devices(project):
    assert project.run("all", CUDA_VISIBLE_DEVICES="3").jobs == {"run_benchmark": 2, **RESULTS}
    assert project.run("all", CUDA_VISIBLE_DEVICES="3").jobs == {}
    assert project.run("all").jobs == {"run_benchmark": 2, **RESULTS}


def test_a_failure_is_tried_again_by_the_next_run(project):
    pretend(project, "rmsnorm", "failed")
    assert project.run("all").jobs == {"run_benchmark": 1, **RESULTS}


def test_an_allowed_failure_is_left_until_something_changes(project):
    pretend(project, "rmsnorm", "failed")
    allowed = ["--config", "allow_failures=true"]
    jobs = project.run("all", *allowed).jobs
    assert "run_benchmark" not in jobs
    assert jobs["check_status"] == 1
    assert project.run("all", *allowed).jobs == {}
    assert project.run("all").jobs["run_benchmark"] == 1


def test_ok_is_final(project):
    for kernel in KERNELS:
        pretend(project, kernel, "ok")
    project.run("all")
    assert project.run("all", "--config", "retry=true").jobs == {}
    for kernel in KERNELS:
        sidecar(project, kernel).unlink()
    assert project.run("all").jobs["run_benchmark"] == 2


def test_the_verdict(project):
    pretend(project, "rmsnorm", "partial")
    command = [sys.executable, str(ROOT / "scripts" / "check_status.py")]
    sidecars = [str(sidecar(project, kernel)) for kernel in KERNELS]
    done = subprocess.run([*command, *sidecars], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "rmsnorm: partial: pretended" in done.stdout
    assert "silu_and_mul" not in done.stdout
    assert subprocess.run([*command, "--allow-failures", *sidecars], capture_output=True, check=False).returncode == 0


def test_a_kernel_without_a_stamp_is_not_run_and_the_table_waits(project):
    project.append(project.script("rmsnorm"), "x = 1 +\n")
    project.file("deepseek_kernel_benchmarks/results/all_kernels.csv").unlink()
    run = project.run("all", status=1)
    assert "run_benchmark" not in run.jobs
    assert "aggregate" not in run.jobs
    assert "--config exclude=rmsnorm" in run.output
    assert project.run("all", "--config", "exclude=rmsnorm").jobs["aggregate"] == 1
