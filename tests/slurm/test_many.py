"""Many kernels through Slurm cost as much each as few.

python tests/slurm/test_many.py 25 50 100 200     the same by hand, on a host that does nothing else
"""

import sys
import tempfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "pipeline"), str(ROOT / "scripts")]

import bench_pipeline  # noqa: E402
from fake_project import Fake, check_that_gpus_were_not_shared  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

COUNTS = (4, 16)


def busy_seconds():
    """Processor seconds that this host has spent so far: jobs are children of Slurm, not of this process."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system) / 100


def run_of_many(folder, count):
    """`snakemake --profile slurm all` of so many verified kernels: {what: seconds}, all of them measured."""
    folder.mkdir()
    project = Fake(folder)
    bench_pipeline.copies_of_one_kernel(project.root, count)
    project.kernels = tuple(f"{bench_pipeline.MODEL_KERNEL}_{number}" for number in range(count))
    project.patience = 600 + 20 * count
    project.behaviour()
    project.run("verify")
    start, busy = time.monotonic(), busy_seconds()
    run = project.slurm("all")
    took, worked = time.monotonic() - start, busy_seconds() - busy
    assert run.jobs["run_benchmark"] == count
    assert project.statuses() == dict.fromkeys(project.kernels, "ok")
    check_that_gpus_were_not_shared(project.intervals())
    start = time.monotonic()
    assert project.slurm("all").jobs == {}
    return {"wall time": took, "processor time": worked, "nothing to do": time.monotonic() - start}


def table(cost):
    """Text of {count: {what: seconds}}."""
    lines = ["kernels         " + "".join(f"{count:>10}" for count in cost)]
    for what in next(iter(cost.values())):
        lines.append(f"{what:<16}" + "".join(f"{seconds[what]:>10.1f}" for seconds in cost.values()))
    return "\n".join(lines)


def test_the_cost_of_jobs_grows_linearly(slurm, tmp_path, record_property):
    cost = {count: run_of_many(tmp_path / str(count), count) for count in COUNTS}
    record_property("table", table(cost))
    some, many = COUNTS
    # Wall time: other tests run on this host, and what they spend is not to be told apart.
    assert cost[many]["wall time"] <= many / some * 1.3 * cost[some]["wall time"], table(cost)


if __name__ == "__main__":
    from one_node import OneNode

    with tempfile.TemporaryDirectory(prefix="many-") as place, OneNode(Path(place) / "cluster", gpus=4):
        found = {}
        for argument in sys.argv[1:]:
            found[int(argument)] = run_of_many(Path(place) / argument, int(argument))
            print(table(found), flush=True)
