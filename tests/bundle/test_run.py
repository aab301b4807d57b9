"""A run in this process: results, statuses, checks, resuming, the command line."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import re
import sys

import pytest
from fakes import SCRIPTS, FakeRuntime, installed, load_toy, write_toy

from benchlib import check, cli, nvml
from benchlib import runtime as runtime_module
from benchlib.model import Cost
from benchlib.point import Context, mean_cost, sets_for

torch = pytest.importorskip("torch")
POINTS = 9  # three of decode, six of prefill (16, 32, 32, 64, 64, 128 tokens) of which one has too many


@pytest.fixture
def toy(toy_script, monkeypatch):
    monkeypatch.setattr(runtime_module, "_current", None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = load_toy(toy_script)
    yield module
    sys.modules.pop("references.toy", None)
    sys.modules.pop("references", None)


def outcome(folder):
    lines = [json.loads(line) for line in (folder / "toy.jsonl").read_text().splitlines()]
    with (folder / "toy.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return lines[0], lines[1:], rows


def test_every_point_is_measured(toy, tmp_path, capsys):
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r")]) == 0
    run, records, rows = outcome(tmp_path / "r")
    assert (run["status"], run["measured"], run["asked"], run["not_applicable"]) == ("ok", 8, 8, 1)
    assert "toy: ok, 8 of 8 points" in capsys.readouterr().out
    assert len(rows) == 8
    assert rows[0] == {
        "kernel": "toy", "op": "a * b, c", "phase": "decode", "B": "1", "S": "1", "M": "1", "N": "8", "K": "0",
        "latency_ms": rows[0]["latency_ms"], "gflops": "0.00", "peak_pct": rows[0]["peak_pct"],
        "bandwidth_gbs": rows[0]["bandwidth_gbs"], "arith_intensity": "0.2500", "bound": "memory",
    }  # fmt: skip
    assert float(rows[0]["latency_ms"]) == pytest.approx(0.002, rel=0.02)
    checks = [record for record in records if record["type"] == "check"]
    assert [(check["phase"], check["T"]) for check in checks] == [
        ("decode", 1),
        ("decode", 4),
        ("prefill", 16),
        ("prefill", 64),
    ]
    assert all(check["status"] == "ok" for check in checks)
    point = next(record for record in records if record["type"] == "point")
    assert point["cold"]["calls"] >= 100 and point["warm"]["calls"] >= 100
    assert point["statistics"] == point["cold"] and point["cache"] == "cold"
    excluded = [record for record in records if record.get("status") == "not_applicable"]
    assert [(record["B"], record["S"], record["reason"]) for record in excluded] == [(4, 32, "too many tokens")]
    assert run["hardware"]["name"] == "H100" and run["provider"]["target"] == "toy_kernel:double"
    assert run["provenance"]["gpu"]["name"] == "NVIDIA H100 80GB HBM3"


def test_called_from_python(toy, tmp_path):
    results = toy.run_benchmarks([1, 2], [16], str(tmp_path / "r"))
    assert [(result.phase, result.B, result.S) for result in results] == [
        ("decode", 1, 1), ("decode", 2, 1), ("prefill", 1, 16), ("prefill", 2, 16),
    ]  # fmt: skip
    run, records, rows = outcome(tmp_path / "r")
    assert run["asked"] == 4 and len(rows) == 4
    assert sum(record["type"] == "check" for record in records) == 4


def test_nothing_is_measured_twice(toy, tmp_path, monkeypatch):
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r")])
    first = (tmp_path / "r" / "toy.csv").read_text()
    calls = toy.runtime.calls
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r")])
    assert toy.runtime.calls == calls
    assert (tmp_path / "r" / "toy.csv").read_text() == first
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r"), "--fresh"])
    assert toy.runtime.calls > calls
    calls = toy.runtime.calls
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "other")])
    assert toy.runtime.calls > calls


def test_where_and_when_a_point_was_measured_stays_with_it(toy, tmp_path):
    arguments = ["--output", str(tmp_path / "r"), "--phase", "decode"]
    cli.main(toy.BENCHMARK, toy.run_benchmarks, arguments)
    _, first, _ = outcome(tmp_path / "r")
    toy.runtime._properties = dataclasses.replace(toy.runtime._properties, uuid="GPU-another")
    cli.main(toy.BENCHMARK, toy.run_benchmarks, arguments)
    run, again, _ = outcome(tmp_path / "r")
    assert run["provenance"]["gpu"]["uuid"] == "GPU-another"
    points = [record for record in again if record["type"] == "point"]
    assert {point["gpu_uuid"] for point in points} == {"GPU-fake"} and points == first[-3:]
    assert all(point["date"] and point["pdl"] == "no parameter" for point in points)


def test_script_and_variables_are_on_record_and_a_change_measures_again(toy, toy_script, tmp_path, monkeypatch):
    arguments = ["--output", str(tmp_path / "r"), "--phase", "decode"]
    (tmp_path / "record.json").write_text('{"ops_file_sha256": "abc"}')
    cli.main(toy.BENCHMARK, toy.run_benchmarks, [*arguments, "--record", str(tmp_path / "record.json")])
    provenance = outcome(tmp_path / "r")[0]["provenance"]
    assert provenance["script_sha256"] == hashlib.sha256(toy_script.read_bytes()).hexdigest()
    assert provenance["ops_file_sha256"] == "abc" and "TRTLLM_ENABLE_PDL" not in provenance["environment"]
    calls = toy.runtime.calls
    monkeypatch.setenv("TRTLLM_ENABLE_PDL", "1")
    cli.main(toy.BENCHMARK, toy.run_benchmarks, arguments)
    assert toy.runtime.calls > calls
    assert outcome(tmp_path / "r")[0]["provenance"]["environment"]["TRTLLM_ENABLE_PDL"] == "1"


def test_cost_is_the_mean_over_sets_with_routings_of_their_own():
    class Routed:
        def cost(self, op, point, x):
            return Cost(flops=10, bytes=100 * x["active_experts"])

    rotation = [{"active_experts": count} for count in (3, 4, 4, 5, 4)]
    assert mean_cost(Routed(), None, None, rotation) == {"flops": 10, "bytes": 400.0, "active_experts": 4.0}
    alone = mean_cost(Routed(), None, None, rotation[:1])
    assert alone == {"flops": 10, "bytes": 300, "active_experts": 3} and isinstance(alone["bytes"], int)


def test_a_kernel_that_allocates_its_output_gets_more_sets():
    class Allocating:
        def call_kernel(self, kernel, x):
            return torch.empty(400_000, dtype=torch.uint8)

    first = {"x": torch.empty(100_000, dtype=torch.uint8)}
    context = Context(Allocating(), None, FakeRuntime(l2=1_000_000), None)
    assert sets_for(context, first, Cost(0, 500_000)) == (26, 0)  # not 6: 26 inputs and one output are 3 MB
    assert sets_for(dataclasses.replace(context, runtime=FakeRuntime()), first, Cost(0, 500_000)) == (1, 0)


def test_values_that_drift_away_are_flagged(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("MISHAP", "unwritten:2")
    monkeypatch.setattr(check, "run_check", lambda *args: ([], {}))
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r"), "--phase", "decode"])
    points = [record for record in outcome(tmp_path / "r")[1] if record["type"] == "point"]
    assert [point["flags"] for point in points] == [[], ["not_finite"], []]


def test_every_field_of_the_sidecar_is_documented(toy, tmp_path):
    toy.runtime.readings = [{"sm_mhz": 1200, "reasons": ["hardware thermal slowdown"]}] * 100
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r")])
    run, records, _ = outcome(tmp_path / "r")
    text = (SCRIPTS.parents[2] / "docs" / "measurement.md").read_text()
    fields = {*run, *run["provenance"]}
    for record in records:
        fields |= {*record, *record.get("cold", ())}
    assert {"cold", "errors", "throttle_reasons", "script_sha256"} < fields
    assert sorted(name for name in fields if not re.search(rf"\b{name}\b", text)) == []


def test_a_wrong_kernel_has_no_rows(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("MISHAP", "wrong:64")  # right at the small point, wrong at the large one
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r")])
    run, records, rows = outcome(tmp_path / "r")
    assert run["status"] == "incorrect" and rows == [] and run["measured"] == 0
    assert "plain (prefill, B=2 S=32" in run["reason"] and "elements differ" in run["reason"]
    assert not any("latency_ms" in record for record in records)


def test_an_output_that_is_not_written_is_found(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("MISHAP", "unwritten:1")
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r")])
    run, _, _ = outcome(tmp_path / "r")
    assert run["status"] == "incorrect" and "found nan" in run["reason"]


@pytest.mark.parametrize(("mishap", "status"), [("oom:2", "oom"), ("error:2", "failed")])
def test_one_failing_point(toy, tmp_path, monkeypatch, mishap, status):
    monkeypatch.setenv("MISHAP", mishap)
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r")])
    run, records, rows = outcome(tmp_path / "r")
    assert (run["status"], run["measured"], run["asked"]) == ("partial", 7, 8)
    bad = [record for record in records if record["type"] == "point" and record["status"] == status]
    assert [record["T"] for record in bad] == [2]
    assert ("out of memory" in bad[0]["reason"]) == (status == "oom")
    monkeypatch.delenv("MISHAP")
    calls = toy.runtime.calls
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r")])
    run, _, rows = outcome(tmp_path / "r")
    assert run["status"] == "ok" and len(rows) == 8
    assert toy.runtime.calls > calls


def test_a_large_check_that_does_not_fit_is_made_smaller(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("MISHAP", "oom:64")
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r"), "--phase", "prefill"])
    run, records, rows = outcome(tmp_path / "r")
    checks = [(record["T"], record["status"]) for record in records if record["type"] == "check"]
    assert checks == [(16, "ok"), (32, "ok")]
    assert run["status"] == "partial" and len(rows) == 3  # the two points of 64 tokens do not fit either


def test_unavailable(toy, tmp_path, capsys):
    toy.runtime.reason = "no GPU"
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out == "unavailable: no GPU\n"
    run, records, rows = outcome(tmp_path / "r")
    assert (run["status"], run["reason"], rows) == ("unavailable", "no GPU", [])
    assert (run["asked"], run["measured"], run["not_applicable"]) == (8, 0, 1)
    assert run["hardware"]["name"] == "GB200"
    assert records[0]["flops"] == 8 and records[0]["status"] == "unavailable"


def test_hardware_that_is_not_there(toy, tmp_path, capsys):
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r"), "--hardware", "GB200"])
    run, _, rows = outcome(tmp_path / "r")
    assert run["status"] == "failed" and "the device is NVIDIA H100" in run["reason"] and rows == []
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--hardware", "H1000"]) == 2
    assert "did you mean H100" in capsys.readouterr().err


def test_throttled_points_are_repeated_then_flagged(toy, tmp_path):
    hot = {"sm_mhz": 1200, "reasons": ["hardware thermal slowdown"]}
    cool = {"sm_mhz": 1980, "reasons": []}
    toy.runtime.readings = [cool, hot, cool, cool, cool, hot, hot, hot] + [cool] * 100
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r"), "--phase", "decode"])
    _, records, _ = outcome(tmp_path / "r")
    points = [record for record in records if record["type"] == "point"]
    assert [(point["attempts"], point["flags"]) for point in points] == [(2, []), (2, ["throttled"]), (1, [])]
    assert points[1]["throttle_reasons"] == ["hardware thermal slowdown"] and nvml.throttled(hot)


def test_faster_than_the_measured_roof_is_suspect():
    from benchlib import results

    measured = {"bandwidth_gbs": 3000, "tflops": {"bf16": 700}}
    assert results.suspect(1.0, 0, 3.1e9, "bf16", measured) is None
    assert "107 % of the measured bandwidth" in results.suspect(1.0, 0, 3.2e9, "bf16", measured)
    assert "bf16 rate" in results.suspect(1.0, 800e9, 1, "bf16", measured)
    assert results.suspect(1.0, 800e9, 1, "fp4", measured) is None
    measured["launch_floor_ms"] = 0.0010
    assert results.suspect(0.00096, 0, 1, "bf16", measured) is None
    assert results.suspect(0.00090, 0, 1, "bf16", measured) == (
        "0.90 µs is less than the 1.00 µs that an empty kernel takes"
    )


def test_cold_differs_from_warm_only_where_there_is_a_cache(toy, tmp_path):
    toy.runtime._properties = FakeRuntime(l2=50 << 20)._properties
    cli.main(
        toy.BENCHMARK, toy.run_benchmarks, ["--output", str(tmp_path / "r"), "--cache", "warm", "--phase", "decode"]
    )
    run, records, _ = outcome(tmp_path / "r")
    point = next(record for record in records if record["type"] == "point")
    assert run["cache"] == point["cache"] == "warm" and point["statistics"] == point["warm"]
    assert point["cold"]["sets"] == 64 and point["cold"]["evicted_bytes"] == 150 << 20 and point["warm"]["sets"] == 1
    assert not point["warm_is_cold"]


def test_the_dry_run_lists_cost_and_memory(toy, capsys):
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--dry-run", "--op", "plain", "--hardware", "H200"]) == 0
    out = capsys.readouterr().out
    assert "toy: 5 points, roofline of H200" in out and "not applicable: 1 x too many tokens" in out
    assert out.splitlines()[1].split()[:2] == ["plain", "prefill"]


def test_points_as_json(toy, capsys):
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--list-points", "--batch-sizes", "1,2", "--seq-lens", "16"])
    found = json.loads(capsys.readouterr().out)
    assert [(p["phase"], p["B"], p["S"], p["T"], p["flops"]) for p in found["points"]] == [
        ("decode", 1, 1, 1, 8), ("decode", 2, 1, 2, 16), ("prefill", 1, 16, 16, 128), ("prefill", 2, 16, 32, 256),
    ]  # fmt: skip


def test_one_point(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--point", "a * b, c,3,1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["B"], found["status"]) == (3, "ok")
    assert list(tmp_path.glob("results")) == []
    calls = toy.runtime.calls
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--point", "plain,1,16", "--once"]) == 0
    assert toy.runtime.calls == calls + 1
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--point", "plane,1,16"]) == 2
    assert "the ops are a * b, c, plain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--point", "plain,0,16"], 2, "sizes begin at 1"),
        (["--point", "plain,1"], 2, "expected op,B,S or op,B,S,L"),
        (["--record", "not_there.json"], 2, "--record not_there.json: No such file or directory"),
        (["--record", "bad.json"], 2, "--record bad.json: not JSON"),
        (["--record", "list.json"], 2, "--record list.json: expected an object, found list"),
        (["--output", "list.json"], 74, "list.json: cannot be written"),
        (["--journal", "list.json"], 74, "list.json: cannot be written"),
        (["--hardware", "H20"], 2, "did you mean H200?"),
    ],
)
def test_bad_arguments_are_explained(toy, tmp_path, capsys, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("[1")
    (tmp_path / "list.json").write_text("[1]")
    toy.runtime.reason = "no GPU"
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, arguments) == code
    shown = capsys.readouterr().err
    assert said in shown and shown.startswith("toy: ") and shown.count("\n") == 1


def test_lengths_that_are_not_swept_are_said_to_have_no_effect(toy, capsys):
    cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--dry-run", "--kv-lens", "128"])
    assert "--kv-lens is not swept by this kernel" in capsys.readouterr().err


def test_a_single_launch_that_fails_says_why(toy, capsys, monkeypatch):
    monkeypatch.setenv("MISHAP", "oom:16")
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--point", "plain,1,16", "--once"]) == 1
    assert capsys.readouterr().err.startswith("toy plain B=1 S=16 L=16: oom: CUDA out of memory")


def test_a_single_launch_is_in_a_range_of_its_own(toy, capsys, monkeypatch):
    ranges = []

    @contextlib.contextmanager
    def mark(label):
        before = toy.runtime.calls
        yield
        ranges.append((label, toy.runtime.calls - before))

    monkeypatch.setattr(toy.runtime, "mark", mark)
    assert cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--point", "plain,1,16", "--once"]) == 0
    assert ranges == [("toy plain B=1 S=16 L=16", 1)] and toy.runtime.calls == 1


def test_an_option_that_does_not_exist(toy, tmp_path):
    with pytest.raises(TypeError, match="unknown option 'cahce'"):
        toy.run_benchmarks([1], [16], str(tmp_path), cahce="warm")


def test_an_op_that_does_not_exist(toy, capsys):
    with pytest.raises(SystemExit):
        cli.main(toy.BENCHMARK, toy.run_benchmarks, ["--op", "nothing"])
    assert "there is no op 'nothing'" in capsys.readouterr().err


def test_the_runtime_can_be_exchanged():
    runtime = FakeRuntime()
    with installed(runtime):
        assert runtime_module.get_runtime() is runtime
    assert runtime_module._current is None or runtime_module._current is not runtime


def test_the_script_without_torch(tmp_path):
    import subprocess

    script = write_toy(tmp_path / "toy", with_torch=False)
    command = [sys.executable, str(script), "--dry-run"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "memory is not known: torch is not installed" in out
