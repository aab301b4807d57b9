"""Model time and headroom against a worked example.

A model of 4 layers, the first of them dense. The GPU does 1 TB/s and 100 TFLOP/s. Points: B = 2, KV length 64.

    op      runs in   kernel   count   latency  roofline     total  at the roof   gain
    norm    all       n        4       0.010    0.002 (2e6 B) 0.040  0.008         0.032
    attn    all       a        4       0.100    0.080 (8e12 …) 0.400  0.320        0.080
    gate    MoE       g        3       0.020    0.020 (2e7 B) 0.060  0.060         0.000
    mlp     dense     –        1       not measured, roofline 0.050
                                                             0.500  0.388         0.112

The step is at least 0.500 ms over 3 of 4 ops, its measured ops take 0.388 ms at the roof, and the speed of light of the
whole step is 0.388 + 0.050 = 0.438 ms. At most 2 / 0.5 ms = 4000 tokens a second. Fixing attn saves 16 % of the step:
0.5 / 0.42 = 1.190 times faster; norm saves 6.4 %: 1.068; both 0.5 / 0.388 = 1.289.
"""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from benchlib import headroom, model_time, model_time_report, resultset, roofs
from benchlib.resultset import ResultError, Row

sys.path.insert(0, str(Path(model_time.__file__).parents[2]))
import model_time as command  # noqa: E402, I001

GPU = roofs.Roofs("test", {"bf16": 100e12}, 1e12)


def slot(op, count, *paths, choose="first"):
    return {"op": op, "count": count, "choose": choose, "paths": list(paths)}


def path(name, *parts, max_tokens=None):
    return {"name": name, "max_tokens": max_tokens, "parts": [list(part) for part in parts]}


def row(kernel, op, ms, nbytes=1e6, flops=1e6, B=2, L=1, **fields):
    start = {"phase": "decode", "S": 1, "compute_dtype": "bf16"}
    return Row(kernel, op, B=B, L=L, latency_ms=ms, flops=flops, bytes=nbytes, **start | fields)


STEPS = {
    "schema_version": 1,
    "steps": [
        {
            "name": "decode",
            "phase": "decode",
            "slots": [
                slot("norm", 4, path("n", ("n", "norm"))),
                slot("attn", 4, path("a", ("a", "attn"))),
                slot("gate", 3, path("g", ("g", "gate"))),
                slot("mlp", 1, path("m", ("m", "mlp"))),
            ],
        }
    ],
}
ROWS = [
    row("n", "norm", 0.010, nbytes=2e6),
    row("a", "attn", 0.100, nbytes=1e6, flops=8e9, L=64),
    row("g", "gate", 0.020, nbytes=20e6),
    row("m", "mlp", None, nbytes=50e6),
]


@pytest.fixture
def step():
    (found,) = model_time.step_times(STEPS, ROWS, GPU)
    return found


def test_the_sum_is_a_lower_bound_over_some_of_the_ops(step):
    assert (step.step, step.B, step.S, step.L) == ("decode", 2, 1, 64)
    assert step.total_ms == pytest.approx(0.500)
    assert (len(step.measured), len(step.entries), step.complete) == (3, 4, False)
    assert [entry.op for entry in step.missing] == ["mlp"]
    assert step.tokens_per_s == pytest.approx(4000)


def test_the_speed_of_light(step):
    assert step.roof_ms == pytest.approx(0.388)
    assert step.light_ms == pytest.approx(0.438)


def test_without_roofs_the_rows_own_shares_count():
    rows = [row("n", "norm", 0.010, peak_pct=20.0)]
    (found,) = model_time.step_times(STEPS, rows)
    assert found.roof_ms == pytest.approx(4 * 0.002)
    assert found.light_ms is None


def test_headroom_ranks_by_what_the_step_gains(step):
    first, second, third = headroom.rank(step)
    assert [item.kernel for item in (first, second, third)] == ["a", "n", "g"]
    assert [item.gain_ms for item in (first, second, third)] == pytest.approx([0.080, 0.032, 0.0])
    assert [item.share for item in (first, second)] == pytest.approx([0.16, 0.064])
    assert [item.speedup for item in (first, second)] == pytest.approx([0.5 / 0.42, 0.5 / 0.468])
    assert first.efficiency == pytest.approx(0.8)
    assert headroom.together(step, [first, second]) == pytest.approx(0.5 / 0.388)


def test_headroom_over_several_points_is_the_mean_share(step):
    faster = [row("n", "norm", 0.010, nbytes=2e6, B=4), row("a", "attn", 0.080, flops=8e9, L=64, B=4)]
    steps = model_time.step_times(STEPS, ROWS + faster, GPU)
    found = {item.kernel: item for item in headroom.overall(steps)}
    assert found["a"].share == pytest.approx((0.16 + 0.0) / 2)
    assert found["n"].share == pytest.approx((0.064 + 0.032 / 0.36) / 2)
    assert (found["n"].largest, found["n"].where) == (pytest.approx(0.032 / 0.36), "B=4 KV=64")
    assert [item.kernel for item in headroom.overall(steps)] == ["a", "n", "g"]


def test_a_kernel_is_fixed_with_all_of_its_ops():
    """Two ops of one kernel save 0.02 ms each of 0.2 ms, one op of another 0.03 ms: the first comes first."""
    slots = [slot(op, 1, path(op, (kernel, op))) for kernel, op in (("two", "x"), ("two", "y"), ("one", "z"))]
    steps = {"steps": [{"name": "decode", "phase": "decode", "slots": slots}]}
    rows = [row("two", "x", 0.07, nbytes=50e6), row("two", "y", 0.07, nbytes=50e6), row("one", "z", 0.06, nbytes=30e6)]
    found = headroom.overall(model_time.step_times(steps, rows, GPU))
    assert [(item.kernel, item.ops) for item in found] == [("two", ("x", "y")), ("one", ("z",))]
    assert [item.share for item in found] == pytest.approx([0.04 / 0.2, 0.03 / 0.2])


MEASURED = roofs.Roofs("test", {"bf16": 100e12}, 1e12, {"bf16": 90e12}, 0.8e12, launch_floor_ms=0.004)


def test_nobody_gets_below_the_measured_roofs_and_the_launch_floor():
    """The example on a GPU that reaches 0.8 TB/s and 90 TFLOP/s itself and takes 4 µs to launch.

    norm: 2e6 B take 0.0025 ms, so the launch's 0.004 count: 4 × (0.010 - 0.004) = 0.024; attn: 8e9 FLOP take 0.0889:
    4 × 0.0111 = 0.0444; gate: 2e7 B take 0.025, more than the 0.020 that it needs: 0.
    """
    (step,) = model_time.step_times(STEPS, ROWS, MEASURED)
    first, second, third = headroom.rank(step)
    assert [item.kernel for item in (first, second, third)] == ["a", "n", "g"]
    assert first.gain_ms == pytest.approx(4 * (0.100 - 8e9 / 90e12 * 1e3))
    assert (second.gain_ms, second.attainable_ms) == (pytest.approx(0.024), pytest.approx(0.016))
    assert third.gain_ms == 0
    # What the datasheet says is still there, and the time at its roofline is as before.
    assert [item.roof_gain_ms for item in (first, second, third)] == pytest.approx([0.080, 0.032, 0.0])
    assert first.efficiency == pytest.approx(0.8)
    assert (step.roof_ms, step.light_ms) == (pytest.approx(0.388), pytest.approx(0.438))
    assert step.attainable_ms == pytest.approx(0.500 - 0.024 - first.gain_ms)


def test_a_short_kernel_ranks_by_what_the_launch_leaves():
    """1.1 µs for bytes of nanoseconds, 100 times, is no headroom; 20 µs above an attainable of 60 is."""
    slots = [slot("tiny", 100, path("t", ("t", "tiny"))), slot("big", 1, path("b", ("b", "big")))]
    steps = {"steps": [{"name": "decode", "phase": "decode", "slots": slots}]}
    rows = [row("t", "tiny", 0.0011, nbytes=10e3), row("b", "big", 0.080, nbytes=48e6)]
    (step,) = model_time.step_times(steps, rows, replace(MEASURED, launch_floor_ms=0.001))
    assert [(item.kernel, round(item.gain_ms, 6)) for item in headroom.rank(step)] == [("b", 0.02), ("t", 0.01)]
    assert [item.kernel for item in sorted(headroom.rank(step), key=lambda item: -item.roof_gain_ms)] == ["t", "b"]


def test_a_kernel_above_the_roof_has_no_negative_gain():
    (found,) = model_time.step_times(STEPS, [row("n", "norm", 0.001, nbytes=2e6)], GPU)
    assert headroom.rank(found)[0].gain_ms == 0


def test_without_peaks_nothing_is_claimed_about_the_roof():
    unknown = roofs.Roofs("X9000", {}, None)
    (step,) = model_time.step_times(STEPS, [row("n", "norm", 0.010, L=64)], unknown)
    assert (step.roof_ms, step.attainable_ms, step.light_ms) == (None, None, None)
    text = model_time_report.markdown([step], "Model time", roof=unknown)
    assert "| B=2 KV=64 | 1 of 4 | ≥ 40.00 µs | – | – | – | – | ≤ 50 000 |" in text
    assert "the peaks of X9000 are unknown" in text and "Fix these three" not in text
    (line,) = csv.DictReader(model_time_report.steps_csv([step]).splitlines())
    assert (line["time_ms"], line["roofline_ms"], line["attainable_ms"]) == ("0.040000", "", "")


FAST = path("fast", ("f1", "x"), ("f2", "y"))
SLOW = path("slow", ("s", "x"))
SMALL = path("small", ("t", "x"), max_tokens=2)


def chosen(rows, choice="fastest", paths=(FAST, SLOW), B=2):
    times = model_time.Times([row(kernel, op, ms, B=B) for kernel, op, ms in rows], GPU)
    return [e.kernel for e in model_time.choose_path(slot("x", 1, *paths), choice, times, "decode", B, 1, 1)]


@pytest.mark.parametrize(
    ("rows", "choice", "kernels"),
    [
        ([("f1", "x", 1), ("f2", "y", 1), ("s", "x", 3)], "fastest", ["f1", "f2"]),
        ([("f1", "x", 1), ("f2", "y", 1), ("s", "x", 1.5)], "fastest", ["s"]),
        ([("f1", "x", 1), ("f2", "y", 1), ("s", "x", 1.5)], "first", ["f1", "f2"]),
        ([("f1", "x", 1), ("f2", "y", 1), ("s", "x", 1.5)], "slow", ["s"]),
        ([("f1", "x", 1), ("f2", "y", None), ("s", "x", 1.5)], "fastest", ["s"]),
        ([("f1", "x", 1), ("f2", "y", None), ("s", "x", None)], "fastest", ["f1", "f2"]),
        ([("f1", "x", 1), ("s", "x", None)], "fastest", ["s"]),
        ([], "fastest", ["f1", "f2"]),
    ],
)
def test_which_path_an_op_takes(rows, choice, kernels):
    assert chosen(rows, choice) == kernels


@pytest.mark.parametrize(("B", "kernels"), [(2, ["t"]), (4, ["s"])])
def test_a_limit_on_the_tokens_decides(B, kernels):
    assert chosen([("t", "x", 9), ("s", "x", 1)], "first", (SMALL, SLOW), B) == kernels


def test_an_op_without_a_kernel_counts_as_missing():
    times = model_time.Times([], GPU)
    (entry,) = model_time.choose_path(slot("embed", 1), "first", times, "decode", 1, 1, 1)
    assert (entry.kernel, entry.latency_ms) == ("", None)


def test_choices_override_the_steps_and_must_exist():
    steps = {"steps": [{"name": "decode", "phase": "decode", "slots": [slot("x", 1, FAST, SLOW)]}]}
    rows = [row("f1", "x", 1), row("f2", "y", 1), row("s", "x", 9)]
    assert model_time.step_times(steps, rows, GPU, {"x": "slow"})[0].total_ms == 9
    assert model_time.step_times(steps, rows, GPU, {"*": "fastest"})[0].total_ms == 2
    with pytest.raises(ResultError, match="path 'quick' for 'x'"):
        model_time.step_times(steps, rows, GPU, {"x": "quick"})
    with pytest.raises(ResultError, match="path for 'y': there is no such op; ops with several paths: x"):
        model_time.step_times(steps, rows, GPU, {"y": "slow"})


def test_the_report_never_hides_a_gap(step):
    text = model_time_report.markdown([step], "Model time", ["host time"])
    assert "| B=2 KV=64 | 3 of 4 | ≥ 0.500 ms | 0.388 ms | 0.388 ms | 77.6 % | 0.438 ms | ≤ 4 000 |" in text
    assert "Not measured at any point: mlp (`m`)." in text
    assert "Not part of any total: host time." in text
    assert "At B=2 KV=64, a step of 0.500 ms or more (3 of 4 ops)" in text


def test_the_answer_comes_first(step):
    text = model_time_report.markdown([step], "Model time", roof=GPU)
    assert text.startswith("# Model time\n\n## Fix these three first\n")
    first = text.split("## How to read it")[0]
    assert "| 1 | `a` (attn): **16.0 %** |" in first and "| 2 | `n` (norm): **6.4 %** |" in first
    assert "`g`" not in first
    assert "decode over 3 of 4 ops, a lower bound, mean of 1 point" in first
    assert "Not ranked, because not measured (at some points): `m`." in first
    assert "without measured peaks it is the datasheet's roof" in text
    measured = model_time_report.markdown([step], "Model time", roof=MEASURED)
    assert "the roofs measured on it (800 GB/s) and the launch floor of 4.00 µs a call." in measured


def test_what_is_complete_is_no_lower_bound():
    rows = [row for row in ROWS if row.kernel != "m"] + [row("m", "mlp", 0.060, nbytes=50e6)]
    (step,) = model_time.step_times(STEPS, rows, GPU)
    text = model_time_report.markdown([step], "Model time")
    assert "decode over all 4 ops, mean of 1 point" in text
    assert "≥" not in text.replace("A time marked ≥", "") and "lower bound, " not in text.replace(
        "is a lower bound, b", ""
    )


def test_the_tables(step):
    (line,) = csv.DictReader(model_time_report.steps_csv([step]).splitlines())
    assert (line["measured_ops"], line["ops"], line["complete"]) == ("3", "4", "no")
    assert (line["time_ms"], line["speed_of_light_ms"]) == ("0.500000", "0.438000")
    assert line["attainable_ms"] == "0.388000"
    lines = list(csv.DictReader(model_time_report.ops_csv([step]).splitlines()))
    assert [(line["op"], line["share"], line["gain_ms"]) for line in lines] == [
        ("norm", "0.0800", "0.032000"),
        ("attn", "0.8000", "0.080000"),
        ("gate", "0.1200", "0.000000"),
        ("mlp", "", ""),
    ]


def test_the_bars_add_up(step):
    names, times, gains = model_time_report.series([step], ["attn", "norm"])
    assert names == ["attn", "norm", "other"]
    assert [times[name][0] for name in names] == pytest.approx([0.4, 0.04, 0.06])
    assert [gains[name][0] for name in names] == pytest.approx([0.08, 0.032, 0.0])


def test_the_command(tmp_path, capsys):
    results, steps = tmp_path / "results", tmp_path / "steps.json"
    synthetic.write_results(results, [p for p in synthetic.points() if p["kernel"] == "rmsnorm"])
    norm = slot("q_a_layernorm", 61, path("rmsnorm", ("rmsnorm", "q_a_layernorm")))
    steps.write_text(json.dumps({"steps": [{"name": "decode", "phase": "decode", "slots": [norm]}]}))
    assert command.main(["--results", str(results), "--steps", str(steps), "--path", "q_a_layernorm=first"]) == 0
    lines = list(csv.DictReader((results / "model_time.csv").open()))
    rows = {row.B: row for row in resultset.load(results).rows if (row.op, row.phase) == ("q_a_layernorm", "decode")}
    assert [float(line["time_ms"]) for line in lines] == pytest.approx(
        [61 * rows[int(line["B"])].latency_ms for line in lines], rel=1e-5
    )
    assert command.main(["--results", str(results), "--steps", str(steps), "--path", "x"]) == 2
    assert command.main(["--results", str(results), "--steps", str(tmp_path / "none.json")]) == 2
    assert "none.json: cannot be read" in capsys.readouterr().err


def test_headroom_as_a_table(step):
    lines = list(csv.DictReader(model_time_report.headroom_csv([step]).splitlines()))
    assert [(line["rank"], line["kernel"]) for line in lines] == [("1", "a"), ("2", "n"), ("3", "g")]
    assert [float(line["gain_ms"]) for line in lines] == pytest.approx([0.080, 0.032, 0.0])
    assert [float(line["speedup"]) for line in lines] == pytest.approx([1.1905, 1.0684, 1.0], abs=1e-4)
    (step,) = model_time.step_times(STEPS, ROWS, MEASURED)
    lines = list(csv.DictReader(model_time_report.headroom_csv([step]).splitlines()))
    assert [float(line["attainable_total_ms"]) for line in lines] == pytest.approx([0.355556, 0.016, 0.060])
    assert [float(line["roofline_gain_ms"]) for line in lines] == pytest.approx([0.080, 0.032, 0.0])


WRITTEN = ["headroom.csv"] + [f"model_time{end}" for end in (".csv", ".md", ".png", ".svg", "_ops.csv")]


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (
            {"steps": [], "reason": "the ops file has no symbol 'L'"},
            "There is no step to add up**: the ops file has no",
        ),
        ({"steps": []}, "There is no step to add up**: the ops file has no op tables of a phase."),
        (STEPS, "None of its 4 ops is measured."),
    ],
)
def test_without_a_measurement_or_a_step_all_files_are_written_and_say_so(tmp_path, steps, says):
    results, data = tmp_path / "results", tmp_path / "steps.json"
    synthetic.write_results(results, [p for p in synthetic.points() if p["kernel"] == "rmsnorm"], lacks={"rmsnorm"})
    if steps is STEPS:
        sidecar = results / "rmsnorm.jsonl"
        point = {"type": "point", "op": "norm", "phase": "decode", "B": 1, "S": 1, "status": "unavailable"}
        sidecar.write_text(sidecar.read_text() + json.dumps(point) + "\n")
    data.write_text(json.dumps(steps))
    output = tmp_path / "out"
    output.mkdir()
    assert command.main(["--results", str(results), "--steps", str(data), "--output", str(output)]) == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(WRITTEN)
    assert says in (output / "model_time.md").read_text()


def test_only_the_kernels_that_are_asked_for(tmp_path):
    results, data = tmp_path / "results", tmp_path / "steps.json"
    listed = [p for p in synthetic.points() if p["kernel"] in ("rmsnorm", "dsv3_router_gemm")]
    synthetic.write_results(results, listed)
    norm = slot("q_a_layernorm", 61, path("rmsnorm", ("rmsnorm", "q_a_layernorm")))
    gate = slot("gate", 58, path("gemm", ("dsv3_router_gemm", "gate")))
    data.write_text(json.dumps({"steps": [{"name": "decode", "phase": "decode", "slots": [norm, gate]}]}))
    arguments = ["--results", str(results), "--steps", str(data)]
    for kernels, measured in (([], {"2", "1"}), (["--kernels", "rmsnorm"], {"1"})):
        assert command.main([*arguments, *kernels]) == 0
        lines = list(csv.DictReader((results / "model_time.csv").open()))
        assert {line["measured_ops"] for line in lines} == measured
