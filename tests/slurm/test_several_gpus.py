"""`snakemake all` on a host with several GPUs and no Slurm; GPUs and kernels are those of fake_gpu/."""

import os
import signal
import subprocess
import sys

import pytest
from fake_project import RESULTS, Fake, check_that_gpus_were_not_shared, end, overlaps, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("several-gpus")]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project on a host with three GPUs."""
    made = Fake(tmp_path_factory.mktemp("several"), gpus=3)
    made.run("verify")
    return made


def all_on(project, *arguments, **options):
    """`snakemake all` with more cores than GPUs, so that cores do not decide."""
    return project.run("all", "--cores", "8", *arguments, **options)


def test_all_visible_gpus_are_used_and_none_is_shared(fresh):
    fresh.behaviour(**{kernel: {"sleep": 0.5} for kernel in fresh.kernels})
    assert all_on(fresh).jobs["run_benchmark"] == 3
    intervals = fresh.intervals()
    assert {interval["gpu"] for interval in intervals} == {"0", "1", "2"}
    check_that_gpus_were_not_shared(intervals)
    assert overlaps(intervals)


def test_only_the_chosen_gpus_are_used(fresh):
    fresh.behaviour(**{kernel: {"sleep": 0.2} for kernel in fresh.kernels})
    all_on(fresh, "--config", "gpus=0,2")
    intervals = fresh.intervals()
    assert {interval["gpu"] for interval in intervals} == {"0", "2"}
    check_that_gpus_were_not_shared(intervals)


def test_a_gpu_that_is_not_there_is_refused_before_anything_runs(fresh):
    run = all_on(fresh, "--config", "gpus=0,3", status=1)
    assert "gpus: GPU 3 is asked for, but the visible GPUs are 0 to 2" in run.output
    assert "Traceback" not in run.output
    assert fresh.intervals() == []


def test_two_runs_at_once_never_share_a_gpu(fresh, tmp_path):
    fresh.behaviour(**{kernel: {"sleep": 0.3} for kernel in fresh.kernels})
    tool = fresh.file("deepseek_kernel_benchmarks/run_all_benchmarks.py")
    alone = subprocess.Popen(
        [sys.executable, tool, "--output", tmp_path / "results", "--gpus", "0,1"],
        env={**os.environ, **fresh.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with_snakemake = fresh.start("all", "--cores", "8", "--config", "gpus=0,1")
    assert (alone.wait(timeout=300), with_snakemake.wait(timeout=300)) == (0, 0)
    intervals = fresh.intervals()
    assert {interval["gpu"] for interval in intervals} == {"0", "1"}
    assert len({interval["worker"] for interval in intervals}) == 6
    check_that_gpus_were_not_shared(intervals)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_lock_and_the_next_does_the_rest(fresh, number):
    fresh.behaviour(**{kernel: {"sleep": 0.5} for kernel in fresh.kernels})
    process = fresh.start("all", "--cores", "8")
    wait_until(lambda: any(len(fresh.points(kernel)) >= 2 for kernel in fresh.kernels))
    assert end(process, number) != 0
    if number == signal.SIGKILL:
        output = all_on(fresh, status=1).output
        assert "--unlock" in output
        fresh.run("--unlock")
    wait_until(fresh.locks_are_free)
    measured = {kernel: fresh.points(kernel) for kernel in fresh.kernels}
    fresh.behaviour()
    all_on(fresh)
    assert fresh.statuses() == dict.fromkeys(fresh.kernels, "ok")
    for kernel in fresh.kernels:
        points = fresh.points(kernel)
        assert points[: len(measured[kernel])] == measured[kernel]
        assert len(points) == len(set(points)) == 6


def test_gpus_of_two_types_never_share_a_table(fresh):
    fresh.behaviour(rmsnorm={"device": "NVIDIA GB200"})
    run = all_on(fresh, status=1)
    assert "results of 2 GPU types cannot share one table" in run.output
    assert "NVIDIA GB200: rmsnorm" in run.output
    assert not fresh.file(f"{RESULTS}/all_kernels.csv").exists()
