"""Many kernels cost as much each as few: from the ops file to stamps, and to find that nothing is to be done."""

import itertools
import resource
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench_pipeline  # noqa: E402

COUNTS = (5, 20, 80)


def processor_seconds(folder, *arguments):
    """Processor time of a Snakemake run and of all that it started: what else runs on the host hardly changes it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*bench_pipeline.SNAKEMAKE, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def small_project(folder, kernels):
    """A project with so many kernels and few points of each."""
    project = bench_pipeline.copies_of_one_kernel(bench_pipeline.copy_project(folder), kernels)
    config = project / "config" / "config.yaml"
    text = config.read_text().replace("[1, 2, 4, 8, 16, 32, 64, 128]", "[1, 2]")
    config.write_text(text.replace("[128, 256, 512, 1024, 2048]", "[16, 32]"))
    return project


@pytest.mark.slow
def test_the_cost_grows_linearly(tmp_path, record_property):
    cost = {}
    for count in COUNTS:
        project = small_project(tmp_path / str(count), count)
        runs = (("verify", ["verify"]), ("verify again", ["verify"]), ("plan of all", ["-n", "all"]))
        cost[count] = {what: processor_seconds(project, *arguments) for what, arguments in runs}
    lines = ["processor seconds   " + "".join(f"{count:>10}" for count in COUNTS)]
    for what in cost[COUNTS[0]]:
        lines.append(f"{what:<20}" + "".join(f"{cost[count][what]:>10.1f}" for count in COUNTS))
    record_property("table", "\n".join(lines))

    for some, many in itertools.pairwise(COUNTS):
        for what, seconds in cost[many].items():
            assert seconds <= many / some * 1.3 * cost[some][what], f"{what} of {many} kernels: {lines}"
