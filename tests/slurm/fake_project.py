"""Copies of the project whose workers measure on fake GPUs, and Snakemake runs in them."""

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from project import Project

HERE = Path(__file__).resolve().parent
RESULTS = "deepseek_kernel_benchmarks/results"


class Fake(Project):
    """A copy of the project with three kernels, few points and fake GPUs."""

    kernels = ("rmsnorm", "silu_and_mul", "topk_sigmoid")

    def __init__(self, folder, gpus=2):
        super().__init__(folder)
        self.write(self.kernels)
        config = self.file("config/config.yaml")
        text = config.read_text().replace("[1, 2, 4, 8, 16, 32, 64, 128]", "[1, 2]")
        config.write_text(text.replace("[128, 256, 512, 1024, 2048]", "[16, 32]"))
        self.fake = self.file("fake")
        self.fake.mkdir()
        self.environment = {
            "FAKE_GPU": str(self.fake),
            "FAKE_GPUS": str(gpus),
            "PATH": f"{HERE / 'fake_gpu'}:{os.environ['PATH']}",
            "PYTHONPATH": str(HERE / "fake_gpu"),
            "ROOFBENCH_LOCK_DIR": str(self.fake / "locks"),
            "SNAKEMAKE_OUTPUT_CACHE": "",
        }

    def run(self, *arguments, status=0, **environment):
        return super().run(*arguments, status=status, **{**self.environment, **environment})

    def slurm(self, *arguments, status=0, **environment):
        """`snakemake --profile slurm` with quick status checks, and no second try unless it is asked for."""
        retries = () if "--retries" in arguments else ("--retries", "0")
        return self.run("--profile", "slurm", *QUICK, *retries, *arguments, status=status, **environment)

    def start(self, *arguments):
        """Snakemake in the background; its output goes to the file `output`."""
        command = [str(Path(sys.executable).with_name("snakemake")), *arguments]
        with self.file("output").open("w") as stream:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                # A shell that starts the tests with `&` makes them ignore SIGINT, and children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def behaviour(self, **kernels):
        """What the kernels do from now on: see fake_gpu/sitecustomize.py."""
        (self.fake / "behaviour.json").write_text(json.dumps(kernels))

    def forget(self):
        """Take all measurements away."""
        for folder in (RESULTS, "deepseek_kernel_benchmarks/journal", "results/attempts"):
            shutil.rmtree(self.file(folder), ignore_errors=True)
        (self.fake / "intervals.jsonl").unlink(missing_ok=True)
        self.behaviour()

    def intervals(self):
        """When which GPU was busy, with which kernel."""
        path = self.fake / "intervals.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def points(self, kernel):
        """Points of the journal that were measured, in order, as (op, phase, B, S)."""
        path = self.file(f"deepseek_kernel_benchmarks/journal/{kernel}.jsonl")
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        done = [record for record in records if record["type"] == "point" and record["status"] == "ok"]
        return [(record["op"], record["phase"], record["B"], record["S"]) for record in done]

    def statuses(self):
        """{kernel: status} of the sidecars."""
        found = {}
        for kernel in self.kernels:
            path = self.file(f"{RESULTS}/{kernel}.jsonl")
            if path.exists():
                found[kernel] = json.loads(path.read_text().splitlines()[0])["status"]
        return found

    def locks_are_free(self):
        """Whether no GPU is held."""
        for path in (self.fake / "locks").glob("*.lock"):
            with path.open() as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
        return True


# The profile's waiting times are for clusters that have other users.
QUICK = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5")


def wait_until(condition, seconds=300):
    """Wait for a condition to hold; the limit is for a host that has much else to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def end(process, number=signal.SIGKILL):
    """Send a process a signal and wait for its end; returns the exit status."""
    process.send_signal(number)
    return process.wait(timeout=300)


def overlaps(intervals):
    """Pairs of intervals of different workers that overlap in time."""
    ordered = sorted(intervals, key=lambda one: one["start"])
    return [
        (one, two)
        for one, two in itertools.combinations(ordered, 2)
        if one["worker"] != two["worker"] and two["start"] < one["end"]
    ]


def check_that_gpus_were_not_shared(intervals):
    """No measurement on a GPU began before another worker's on it ended."""
    assert intervals
    for gpu in {interval["gpu"] for interval in intervals}:
        assert overlaps([interval for interval in intervals if interval["gpu"] == gpu]) == []
