"""Workers that crash, hang, are killed or never start: everything is on record, and the rest is measured."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fakes import SCRIPTS, write_toy

SUPERVISE = SCRIPTS / "benchlib" / "supervise.py"
RUN_ALL = SCRIPTS.parent / "run_all_benchmarks.py"


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("supervised") / "toy", with_torch=False)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOFBENCH_LOCK_DIR", str(tmp_path / "locks"))
    return tmp_path / "results"


def command(script, output, *more):
    return [sys.executable, str(SUPERVISE), "--script", str(script), "--output", str(output), *more]


def supervise(script, output, *more, mishap=None, **environment):
    environment = {**os.environ, **environment} | ({"MISHAP": mishap} if mishap else {})
    done = subprocess.run(command(script, output, *more), env=environment, capture_output=True, text=True, timeout=120)
    return done


def outcome(folder):
    lines = [json.loads(line) for line in (folder / "toy.jsonl").read_text().splitlines()]
    with (folder / "toy.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return lines[0], lines[1:], rows


def test_without_mishap(script, place):
    assert supervise(script, place).returncode == 0
    run, _, rows = outcome(place)
    assert run["status"] == "ok" and len(rows) == 8


@pytest.mark.parametrize(
    ("mishap", "status", "reason"),
    [
        ("segfault:2", "failed", "killed by SIGSEGV"),
        ("kill:64", "failed", "killed by SIGKILL (out of memory, or killed from outside)"),
        ("lost:16", "failed", "illegal memory access"),
        ("oom:1", "oom", "out of memory"),
    ],
)
def test_one_point_kills_its_worker(script, place, mishap, status, reason):
    done = supervise(script, place, mishap=mishap)
    assert done.returncode == 0, done.stderr
    run, records, rows = outcome(place)
    bad = [record for record in records if record["status"] == status]
    tokens = int(mishap.partition(":")[2])
    assert bad and all(record["T"] == tokens and reason in record["reason"] for record in bad)
    assert run["status"] == "partial" and run["asked"] == 8
    assert len(rows) == 8 - len(bad) and run["not_applicable"] == 1


def test_a_hanging_point(script, place):
    done = supervise(script, place, "--point-timeout", "2", mishap="hang:4")
    assert done.returncode == 0
    run, records, rows = outcome(place)
    bad = [record for record in records if record["status"] == "timeout"]
    assert [record["T"] for record in bad] == [4]
    assert "no progress for 2 s, the limit for a point" in bad[0]["reason"]
    assert run["status"] == "partial" and len(rows) == 7


def test_the_next_run_tries_the_failed_point_again(script, place):
    supervise(script, place, mishap="segfault:2")
    first = outcome(place)[2]
    done = supervise(script, place)
    assert done.returncode == 0
    run, _, rows = outcome(place)
    assert run["status"] == "ok" and len(rows) == 8
    assert [row for row in rows if row["M"] != "2"] == first


@pytest.mark.parametrize(("mishap", "status"), [("segfault:all", "failed"), ("hang:all", "timeout")])
def test_every_point_goes_wrong(script, place, mishap, status):
    done = supervise(script, place, "--first-timeout", "1.5", "--crashes", "3", mishap=mishap)
    assert done.returncode == 0
    run, records, rows = outcome(place)
    assert run["status"] == status and rows == [] and run["asked"] == 8
    assert "gave up after 3 workers in a row died" in run["reason"]
    assert (place / "toy.csv").read_text().count("\n") == 1
    assert len(records) == 8
    assert run["provider"]["target"] == "toy_kernel:double" and run["compute_dtype"] == "bf16"
    assert run["provenance"]["script_sha256"] and run["provenance"]["gpu"]["uuid"] == "GPU-fake"


def test_a_script_that_cannot_start(tmp_path, place):
    script = tmp_path / "bench_toy.py"
    script.write_text("import os, signal\nprint('about to fail', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert supervise(script, place).returncode == 0
    run, _, rows = outcome(place)
    assert run["status"] == "failed" and rows == []
    assert "SIGSEGV; it said: about to fail" in run["reason"]


def test_a_hang_at_the_start(tmp_path, place):
    script = tmp_path / "bench_toy.py"
    script.write_text("import time\ntime.sleep(1000)\n")
    assert supervise(script, place, "--start-timeout", "1").returncode == 0
    run, _, _ = outcome(place)
    assert run["status"] == "timeout" and "the limit for starting" in run["reason"]


def test_unavailable(script, place):
    assert supervise(script, place, TOY_UNAVAILABLE="no GPU").returncode == 0
    run, _, rows = outcome(place)
    assert (run["status"], run["reason"], rows) == ("unavailable", "no GPU", [])


def wait_for(path, text, count=1, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.read_text().count(text) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never held {text} {count} times")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed(script, place, number):
    environment = {**os.environ, "MISHAP": "slow:32"}
    process = subprocess.Popen(command(script, place), env=environment, stderr=subprocess.DEVNULL)
    journal = place.parent / "journal" / "toy.jsonl"
    wait_for(journal, '"type": "point"', 3)
    worker = json.loads(journal.read_text().splitlines()[0])["pid"]
    process.send_signal(number)
    code = process.wait(timeout=30)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    end = time.monotonic() + 10
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(worker)
    before = [json.loads(line) for line in journal.read_text().splitlines()]
    done = {(r["op"], r["B"], r["S"]) for r in before if r["type"] == "point"}
    assert 3 <= len(done) < 8
    assert supervise(script, place).returncode == 0
    run, _, rows = outcome(place)
    assert run["status"] == "ok" and len(rows) == 8
    after = [json.loads(line) for line in journal.read_text().splitlines()][len(before) :]
    again = {(r["op"], r["B"], r["S"]) for r in after if r["type"] == "start"}
    assert not done & again and len(done | again) == 8


def test_a_second_run_beside_the_first_is_refused(script, place):
    environment = {**os.environ, "MISHAP": "hang:1"}
    process = subprocess.Popen(command(script, place), env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(place.parent / "journal" / "toy.jsonl", '"type": "start"')
        done = supervise(script, place)
        assert done.returncode == 73 and "another run is measuring this kernel" in done.stderr
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--point-timeout", "-3"], "argument --point-timeout: '-3' is not above 0"),
        (["--first-timeout", "soon"], "argument --first-timeout: 'soon' is not a number"),
        (["--crashes", "0"], "argument --crashes: '0': sizes begin at 1"),
        (["--crashes", "2,3"], "argument --crashes: '2,3' is not one integer"),
    ],
)
def test_limits_that_make_no_sense_are_refused(script, tmp_path, arguments, said):
    for program in (command(script, tmp_path / "r"), [sys.executable, str(RUN_ALL), "--output", str(tmp_path / "r")]):
        done = subprocess.run([*program, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "r").exists()


def test_all_kernels(script, tmp_path, monkeypatch):
    """The orchestrator from a bundle with one kernel that works and one that does not."""
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(SCRIPTS.parent, bundle, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("toy_kernel.py", "torch.py"):
        shutil.copy(script.parent / name, bundle / "scripts")
    text = script.read_text()
    (bundle / "scripts" / "bench_toy.py").write_text(text)
    (bundle / "scripts" / "bench_other.py").write_text(text.replace('kernel="toy"', 'kernel="other"').replace(
        '"toy_kernel:double"', '"not_installed:double"'))  # fmt: skip
    shutil.copy(SCRIPTS.parents[2] / "config" / "hardware.json", bundle / "scripts" / "benchlib")
    monkeypatch.setenv("ROOFBENCH_LOCK_DIR", str(tmp_path / "locks"))

    def run(*arguments):
        start = [sys.executable, str(bundle / "run_all_benchmarks.py"), *arguments]
        return subprocess.run(start, capture_output=True, text=True, timeout=120)

    listed = run("--list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["other", "toy"]
    done = run("--batch-sizes", "1", "2", "--seq-lens", "16")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "toy: ok" in done.stderr and "other: unavailable: package not_installed is not installed" in done.stderr
    rows = list(csv.DictReader((bundle / "results" / "all_kernels.csv").open()))
    assert [row["kernel"] for row in rows] == ["toy"] * 4
    assert "unavailable" in (bundle / "results" / "benchmark_summary.md").read_text()
    wrong = run("--kernels", "toyy")
    assert wrong.returncode == 2 and "did you mean toy" in wrong.stderr
    for arguments in (("--kernels", "toyy"), ("--gpus", "foo"), ("--gpus", "99"), ("--output", str(script))):
        wrong = run(*arguments)
        assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1, wrong.stderr
