"""`snakemake --profile slurm all` on a real Slurm of one node with two GPUs that are only names.

Benchmarks run as they would, with a device and kernels made of Python: fake_gpu/ has them.
"""

import signal

import pytest
from fake_project import QUICK, RESULTS, check_that_gpus_were_not_shared, end, overlaps, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

SLURM = ("--profile", "slurm", *QUICK, "--retries", "0", "all")


def ended_since(slurm, before):
    """Jobs that ended since there were `before` of them."""
    return slurm.jobs()[before:]


@pytest.fixture(autouse=True)
def nothing_left(slurm):
    """Jobs of one test do not reach into the next."""
    yield
    for job in slurm.queue():
        slurm.output("scancel", job[0])
    slurm.wait_until(lambda: not slurm.queue())


def test_every_kernel_is_a_job_with_a_gpu_of_its_own(slurm, fresh):
    before = len(slurm.jobs())
    fresh.behaviour(**{kernel: {"sleep": 0.6} for kernel in fresh.kernels})
    run = fresh.slurm("all")
    assert run.jobs["run_benchmark"] == 3
    assert fresh.statuses() == dict.fromkeys(fresh.kernels, "ok")

    jobs = ended_since(slurm, before)
    assert [job["JobState"] for job in jobs] == ["COMPLETED"] * 3
    assert all("cpu=4" in job["Tres"] for job in jobs)
    for job in jobs:
        details = slurm.details(job["JobId"])
        assert "TresPerJob=gres:gpu:1" in details, details
    intervals = fresh.intervals()
    assert {interval["job"] for interval in intervals} == {job["JobId"] for job in jobs}
    assert {interval["gpu"] for interval in intervals} == {"0", "1"}
    check_that_gpus_were_not_shared(intervals)
    assert overlaps(intervals), "the two GPUs were not used side by side"

    for kernel in fresh.kernels:
        assert list(fresh.file(f"logs/slurm/rule_run_benchmark/{kernel}").glob("*.log"))
        assert "ok" in fresh.file(f"logs/run/{kernel}.log").read_text()
    assert len(fresh.file(f"{RESULTS}/all_kernels.csv").read_text().splitlines()) == 1 + 3 * 6
    assert fresh.file(f"{RESULTS}/roofline.png").exists()
    assert fresh.slurm("all").jobs == {}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("slurm_partition=gpus", "there is no partition gpus. Did you mean gpu?"),
        ("slurm_partition=closed", "partition closed is down"),
        ("slurm_partition=short", "allows at most 1, less than the runtime of 120 minutes"),
        ("gpu_model=h100", "partition gpu has no GPU of type h100. It has fake."),
        ("constraint=fats", "partition gpu has no node with the feature fats. Did you mean fast?"),
        ("gpu=3", "partition gpu has no node with 3 GPUs"),
        ("mem_mb=200000", "allows at most 100000, less than the mem_mb of 200000"),
    ],
)
def test_what_would_never_start_is_said_at_once(slurm, fresh, setting, message):
    resources = dict(pair.split("=") for pair in ("runtime=120", setting))
    asked = [f"run_benchmark:{name}={value}" for name, value in resources.items()]
    before = len(slurm.jobs())
    run = fresh.slurm("all", "--set-resources", *asked, status=1)
    assert message in run.output, run.output
    assert "Traceback" not in run.output
    assert not slurm.queue() and len(slurm.jobs()) == before


def test_a_job_that_cannot_start_any_more_is_cancelled(slurm, fresh):
    fresh.behaviour(rmsnorm={"sleep": 2.0}, silu_and_mul={"sleep": 2.0}, topk_sigmoid={"sleep": 2.0})
    process = fresh.start(*SLURM)
    wait_until(lambda: any(job[1] == "PENDING" and job[2] == "Resources" for job in slurm.queue()))
    number, _, _, comment = next(job for job in slurm.queue() if job[1] == "PENDING")
    slurm.output("scontrol", "hold", number)
    assert process.wait(timeout=300) == 1
    output = fresh.file("output").read_text()
    kernel = comment.rpartition("_wildcards_")[2]
    assert f"Slurm: {kernel}: job {number} would never start (JobHeldAdmin) and is cancelled" in output
    assert set(fresh.statuses()) == set(fresh.kernels) - {kernel}


def test_a_kernel_that_crashes_and_a_job_that_dies_leave_the_others_alone(slurm, fresh):
    fresh.behaviour(rmsnorm={"mishap": "crash"}, silu_and_mul={"mishap": "end_supervisor"})
    before = len(slurm.jobs())
    fresh.slurm("all", status=1)
    assert fresh.statuses() == {"rmsnorm": "failed", "topk_sigmoid": "ok"}
    assert sorted(job["JobState"] for job in ended_since(slurm, before)) == ["COMPLETED", "COMPLETED", "FAILED"]
    assert fresh.locks_are_free()
    fresh.behaviour()
    before = len(slurm.jobs())
    fresh.slurm("all")
    assert len(ended_since(slurm, before)) == 2
    assert fresh.statuses() == dict.fromkeys(fresh.kernels, "ok")


def test_a_job_that_is_cut_off_goes_on_where_it_stopped(slurm, fresh):
    # More than the 90 s after which Slurm has noticed a limit of one minute at the latest.
    fresh.behaviour(rmsnorm={"sleep": 5.5})
    before = len(slurm.jobs())
    limit = ("--set-resources", "run_benchmark:runtime=1", "--config", "kernels=rmsnorm")
    process = fresh.start("--profile", "slurm", *QUICK, "--retries", "2", "all", *limit)
    wait_until(lambda: ended_since(slurm, before))
    measured = fresh.points("rmsnorm")
    fresh.behaviour()
    assert process.wait(timeout=300) == 0, fresh.file("output").read_text()
    assert [job["JobState"] for job in ended_since(slurm, before)] == ["TIMEOUT", "COMPLETED"]
    assert fresh.statuses()["rmsnorm"] == "ok"
    points = fresh.points("rmsnorm")
    assert measured and points[: len(measured)] == measured
    assert len(points) == len(set(points)) == 6


def test_ctrl_c_cancels_the_jobs_and_the_next_run_does_the_rest(slurm, fresh):
    fresh.behaviour(**{kernel: {"sleep": 1.0} for kernel in fresh.kernels})
    before = len(slurm.jobs())
    process = fresh.start(*SLURM)
    wait_until(lambda: any(len(fresh.points(kernel)) >= 2 for kernel in fresh.kernels))
    assert end(process, signal.SIGINT) != 0
    slurm.wait_until(lambda: not slurm.queue())
    assert {job["JobState"] for job in ended_since(slurm, before)} <= {"CANCELLED", "COMPLETED"}
    assert fresh.locks_are_free()
    measured = {kernel: fresh.points(kernel) for kernel in fresh.kernels}
    fresh.behaviour()
    fresh.slurm("all")
    for kernel in fresh.kernels:
        points = fresh.points(kernel)
        assert points[: len(measured[kernel])] == measured[kernel]
        assert len(points) == len(set(points)) == 6


def test_after_sigkill_the_next_run_says_what_to_do(slurm, fresh):
    fresh.behaviour(**{kernel: {"sleep": 1.5} for kernel in fresh.kernels})
    process = fresh.start(*SLURM)
    wait_until(lambda: any(fresh.points(kernel) for kernel in fresh.kernels))
    end(process)
    assert slurm.queue(), "Slurm's jobs do not depend on Snakemake"
    assert "--unlock" in fresh.slurm("all", status=1).output
    fresh.run("--unlock")
    run = fresh.slurm("all", status=1)
    assert "jobs of an earlier run of this folder are still there" in run.output
    assert f"scancel {' '.join(job[0] for job in slurm.queue())}" in run.output
    for job in slurm.queue():
        slurm.output("scancel", job[0])
    slurm.wait_until(lambda: not slurm.queue())
    fresh.behaviour()
    fresh.slurm("all")
    assert fresh.statuses() == dict.fromkeys(fresh.kernels, "ok")
    for kernel in fresh.kernels:
        points = fresh.points(kernel)
        assert len(points) == len(set(points)) == 6
