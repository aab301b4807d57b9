"""`snakemake all` on a host with several GPUs and no Slurm; GPUs and kernels are those of fake_gpu/."""

import json
import os
import re
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


def by_hand(project, *arguments):
    """run_all_benchmarks.py in a project; returns what it said."""
    tool = project.file("deepseek_kernel_benchmarks/run_all_benchmarks.py")
    done = subprocess.run(
        [sys.executable, tool, *arguments],
        env={**os.environ, **project.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def check_that_it_was_split(project, kernel):
    """Several GPUs measured a kernel, each point once, and its results are those of one GPU in order and number."""
    intervals = project.intervals()
    check_that_gpus_were_not_shared(intervals)
    own = [interval for interval in intervals if interval["kernel"] == kernel]
    assert len({interval["gpu"] for interval in own}) >= 2, "no second GPU helped"
    assert overlaps(own), "the second GPU did not help at the same time"
    points = project.points(kernel)
    assert len(points) == len(set(points)) == 6
    lines = project.file(f"{RESULTS}/{kernel}.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["type"] == "point"]
    spec = json.loads(project.file(f"results/specs/{kernel}.json").read_text())
    order = {op["phase"]: [(op["phase"], point["B"], point["S"]) for point in op["points"]] for op in spec["ops"]}
    found = [(record["phase"], record["B"], record["S"]) for record in records]
    assert sorted(found) == sorted(sum(order.values(), []))
    for phase, expected in order.items():
        assert [entry for entry in found if entry[0] == phase] == expected
    assert set(project.statuses().values()) == {"ok"}
    assert project.locks_are_free()


def test_idle_gpus_help_with_a_long_kernel(fresh):
    fresh.behaviour(rmsnorm={"sleep": 1.0})
    all_on(fresh, "--config", "kernels=rmsnorm", ROOFBENCH_SPLIT="0.5")
    check_that_it_was_split(fresh, "rmsnorm")
    intervals = fresh.intervals()
    passed = max(one["end"] for one in intervals) - min(one["start"] for one in intervals)
    assert passed < 0.85 * sum(one["end"] - one["start"] for one in intervals)


def test_a_gpu_helps_when_no_kernel_waits_for_it_any_more(fresh):
    fresh.run("verify")  # of all kernels, for run_all_benchmarks.py to know them; it tries one itself
    fresh.forget()
    fresh.behaviour(rmsnorm={"sleep": 2.5})
    by_hand(fresh, "--split", "0.5", "--gpus", "0,1")
    check_that_it_was_split(fresh, "rmsnorm")
    begun = {}
    for interval in fresh.intervals():
        begun.setdefault((interval["kernel"], interval["gpu"]), interval["start"])
    first, second = sorted(start for (kernel, _), start in begun.items() if kernel == "rmsnorm")
    others = [start for (kernel, _), start in begun.items() if kernel != "rmsnorm"]
    assert first < max(others) < second


def test_what_took_longest_the_last_time_begins_first(fresh):
    fresh.behaviour(topk_sigmoid={"sleep": 0.5}, silu_and_mul={"sleep": 0.2})
    by_hand(fresh, "--split", "0")
    shown = fresh.run("-n", "all", "--quiet", "host").output
    found = re.findall(r"rule run_benchmark:.*?wildcards: kernel=(\w+).*?priority: ([\d.]+)", shown, re.DOTALL)
    order = [kernel for kernel, _ in sorted(found, key=lambda entry: -float(entry[1]))]
    assert order == ["topk_sigmoid", "silu_and_mul", "rmsnorm"]
    (fresh.fake / "intervals.jsonl").unlink()
    by_hand(fresh, "--fresh", "--split", "0", "--gpus", "0,1")
    begun = {}
    for interval in fresh.intervals():
        begun.setdefault(interval["kernel"], interval["start"])
    assert max(begun, key=begun.get) == "rmsnorm"


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
    assert (alone.wait(timeout=300), with_snakemake.wait(timeout=300)) == (0, 0), fresh.file("output").read_text()
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
