"""A disk that is full while a benchmark writes: nothing measured is lost, and the message says what to do."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BUNDLE_TESTS = Path(__file__).resolve().parents[1] / "bundle"
SUPERVISE = Path(__file__).resolve().parents[2] / "workflow/bundle/scripts/benchlib/supervise.py"

pytestmark = pytest.mark.slow


def mount(folder, *options):
    """Mount a small file system in memory, or give it another size."""
    return subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", folder], check=False, capture_output=True)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or mount(folder, "-o", "size=8k").returncode:
        pytest.skip("a small file system needs root and mount")
    yield folder
    subprocess.run(["umount", folder], check=False)


@pytest.fixture
def script(tmp_path):
    """The toy benchmark, without torch."""
    code = f"import sys; sys.path[:0] = [{str(BUNDLE_TESTS)!r}, {str(SUPERVISE.parents[1])!r}]\n"
    code += f"from fakes import write_toy; print(write_toy({str(tmp_path / 'toy')!r}, with_torch=False))"
    made = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return made.stdout.strip()


def run(script, folder):
    """(exit status, output) of a supervised run."""
    command = [sys.executable, SUPERVISE, "--script", script, "--output", folder / "results"]
    done = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
    )
    return done.returncode, done.stdout


def test_a_full_disk_is_said_and_the_next_run_goes_on(small_disk, script):
    status, output = run(script, small_disk)
    assert status == 74
    assert "No space left on device. What was measured is in the journal: make room and run again" in output
    assert "Traceback" not in output
    mount(small_disk, "-o", "remount,size=1m")
    status, output = run(script, small_disk)
    assert status == 0 and "toy: ok, 8 of 8 points" in output
    points = []
    for line in (small_disk / "journal" / "toy.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):  # the line at which the disk was full
            record = json.loads(line)
            points += [record] if record["type"] == "point" else []
    assert len(points) == 8, "a point was measured twice"
    assert len((small_disk / "results" / "toy.csv").read_text().splitlines()) == 9
