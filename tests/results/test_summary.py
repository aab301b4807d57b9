import json

import pytest
import synthetic

from benchlib import summary


def test_a_directory_without_results(tmp_path):
    text = summary.write_summary(tmp_path / "none", ["rmsnorm", "bmm_fp8"], tmp_path / "summary.md").read_text()
    assert "**0 of 0 points measured.** 2 kernels: 2 not run." in text
    assert "| `bmm_fp8` | not run | 0 | – | – | there are no results |" in text
    assert "Share of the roof" not in text


def test_nothing_measured_at_all(tmp_path):
    kernels = synthetic.write_results(tmp_path, lacks=set(synthetic.KERNELS))
    text = summary.write_summary(tmp_path, kernels).read_text()
    assert "**0 of 1010 points measured.** 23 kernels: 23 unavailable." in text
    assert "- `rmsnorm`: 136 points: needs compute capability 10.0, the GPU has 9.0" in text


@pytest.fixture(scope="module")
def hopper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hopper")
    return folder, synthetic.write_results(folder)


def test_headline_and_status(hopper):
    folder, kernels = hopper
    text = summary.write_summary(folder, kernels).read_text()
    assert "**554 of 1010 points measured on NVIDIA H200.** 23 kernels: 16 ok, 7 unavailable." in text
    assert "no row is flagged suspect" in text
    assert "| `dsv3_router_gemm` | ok | 5 | 5 | 0 |  |" in text
    assert len(text.splitlines()) < 130


def test_shares_are_best_median_and_worst(tmp_path):
    listed = [p for p in synthetic.points() if p["kernel"] == "dsv3_router_gemm"]
    synthetic.write_results(tmp_path, listed)
    lines = (tmp_path / "dsv3_router_gemm.csv").read_text().splitlines()
    shares = [10, 50, 20, 90, 40]
    for number, share in enumerate(shares, 1):
        cells = lines[number].split(",")
        cells[10] = str(share)
        lines[number] = ",".join(cells)
    (tmp_path / "dsv3_router_gemm.csv").write_text("\n".join(lines) + "\n")
    text = summary.write_summary(tmp_path, ["dsv3_router_gemm"]).read_text()
    assert "| 5 | 90.0 | gate, decode B=8 | 40.0 | 10.0 | gate, decode B=1 | memory 5 |" in text


def test_flags_and_missing_points_are_listed(tmp_path):
    listed = [p for p in synthetic.points() if p["kernel"] == "dsv3_router_gemm"]
    synthetic.write_results(tmp_path, listed)
    sidecar, table = tmp_path / "dsv3_router_gemm.jsonl", tmp_path / "dsv3_router_gemm.csv"
    run, *points = map(json.loads, sidecar.read_text().splitlines())
    run |= {"status": "partial", "reason": "1 of 5 points not measured", "measured": 4}
    points[1]["flags"] = ["suspect"]
    points[4] = {
        "type": "point",
        "op": "gate",
        "phase": "decode",
        "B": 16,
        "S": 1,
        "status": "oom",
        "reason": "no memory",
    }
    sidecar.write_text("\n".join(map(json.dumps, [run, *points])))
    table.write_text("\n".join(table.read_text().splitlines()[:5]) + "\n")
    text = summary.write_summary(tmp_path, ["dsv3_router_gemm"]).read_text()
    assert "1 row flagged suspect" in text
    assert "| `dsv3_router_gemm` | gate | decode B=2 |" in text.split("## Flags")[1]
    missing = text.split("## Not measured")[1]
    assert "- `dsv3_router_gemm`: 1 point: 1 of 5 points not measured" in missing
    assert "  - 1 point: no memory (gate, decode B=16)" in missing


def test_facts_that_differ_between_kernels_say_how_often(hopper):
    folder, kernels = hopper
    text = summary.write_summary(folder, kernels).read_text().split("## Run")[1]
    assert "| driver | 570.1 |" in text


def test_what_a_kernel_cannot_run_is_one_line_for_each_reason(tmp_path):
    listed = [p for p in synthetic.points() if p["kernel"] == "dsv3_router_gemm"]
    synthetic.write_results(tmp_path, listed, lacks=())
    sidecar = tmp_path / "dsv3_router_gemm.jsonl"
    lines = sidecar.read_text().splitlines()
    few = "the kernel takes at most 16 tokens: more do not fit"
    reasons = [(B, f"T = {B}: {few}") for B in (32, 64, 128)] + [(1, "D = 3, T = 1: odd"), (2, "D = 5, T = 2: odd")]
    for B, reason in [*reasons, (4, "never")]:
        point = {"type": "point", "op": "gate", "phase": "decode", "B": B, "S": 1}
        lines.append(json.dumps({**point, "status": "not_applicable", "reason": reason}))
    sidecar.write_text("\n".join(lines))
    missing = summary.write_summary(tmp_path, ["dsv3_router_gemm"]).read_text().split("## Not measured")[1]
    assert f"  - 3 points not applicable: {few} (T = 32 to 128)\n" in missing
    assert "  - 2 points not applicable: odd (D = 3 to 5, T = 1 to 2)\n" in missing
    assert "  - 1 point not applicable: never (gate, decode B=4)\n" in missing


STEPS = {
    "schema_version": 1,
    "steps": [
        {
            "name": "decode",
            "phase": "decode",
            "slots": [
                {"op": "gate", "count": 58, "choose": "first", "paths": [
                    {"name": "gemm", "max_tokens": None, "parts": [["dsv3_router_gemm", "gate"]]}]},
                {"op": "o_proj", "count": 61, "choose": "first", "paths": [
                    {"name": "fp4", "max_tokens": None, "parts": [["cutlass_scaled_fp4_mm", "o_proj"]]}]},
            ],
        }
    ],
}  # fmt: skip


def test_the_answer_comes_before_the_tables(tmp_path):
    names = ["dsv3_router_gemm", "cutlass_scaled_fp4_mm"]
    synthetic.write_results(tmp_path, [p for p in synthetic.points() if p["kernel"] in names])
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps(STEPS))
    text = summary.write_summary(tmp_path, names, steps=steps).read_text()
    first, rest = text.split("## Status")
    assert "## Fix these three first" in first and "| 1 | `dsv3_router_gemm` (gate): **" in first
    assert (
        "decode over 1 of 2 ops, a lower bound" in first and "not measured (at some points): `cutlass_scaled" in first
    )
    assert "Fix these three" not in summary.write_summary(tmp_path, names, steps=None).read_text()


def test_points_are_ranked_by_what_is_attainable(tmp_path):
    """1 kB in 1.05 µs is at its floor; 1 MB in 20 µs is not, although its share of the roof is larger."""
    run = {
        "type": "run", "schema_version": 1, "kernel": "k", "status": "ok", "compute_dtype": "bf16", "measured": 2,
        "asked": 2, "launch_floor_ms": 0.001, "hardware": {"name": "G", "tflops": {"bf16": 100}, "bandwidth_gbs": 1000},
        "measured_peaks": {"bandwidth_gbs": 500, "tflops": {"bf16": 100}},
    }  # fmt: skip
    start = {"type": "point", "phase": "decode", "S": 1, "flops": 0, "bound": "memory"}
    points = [
        {**start, "op": "short", "B": 1, "bytes": 1e3, "latency_ms": 0.00105, "peak_pct": 0.095},
        {**start, "op": "long", "B": 2, "bytes": 1e6, "latency_ms": 0.02, "peak_pct": 5.0},
    ]
    (tmp_path / "k.jsonl").write_text("\n".join(map(json.dumps, [run, *points])))
    text = summary.write_summary(tmp_path, ["k"], steps=None).read_text()
    least = text.split("## Least efficient points")[1].split("##")[0]
    assert "the roofs that were measured on it and the launch floor of 1.00 µs" in least
    rows = [line for line in least.splitlines() if line.startswith("| `k`")]
    assert rows == [
        "| `k` | long | decode B=2 | 20.00 µs | 2.00 µs | memory | 10.0 | 5.0 |",
        "| `k` | short | decode B=1 | 1.05 µs | 1.00 µs | launch | 95.2 | 0.1 |",
    ]
    shares = next(line for line in text.splitlines() if line.startswith("| `k` | 2 |"))
    assert shares.endswith("| launch 1, memory 1 |") or shares.endswith("| memory 1, launch 1 |")
    assert "| peaks measured | BF16 100 TFLOP/s, 500 GB/s |" in text


def test_flags_of_many_rows_are_one_line_for_each_op(tmp_path):
    synthetic.write_results(tmp_path, [p for p in synthetic.points() if p["kernel"] == "dsv3_router_gemm"])
    sidecar = tmp_path / "dsv3_router_gemm.jsonl"
    run, *points = map(json.loads, sidecar.read_text().splitlines())
    for point in points[1:]:
        point["flags"] = ["throttled"]
    points[0] |= {"flags": ["suspect"], "suspect": "9000 GB/s is 188 % of the measured bandwidth"}
    sidecar.write_text("\n".join(map(json.dumps, [run, *points])))
    text = summary.write_summary(tmp_path, ["dsv3_router_gemm"], steps=None).read_text()
    flags = text.split("## Flags")[1].split("##")[0]
    assert "throttled: 4 rows, suspect: 1 row." in flags
    assert "| 9000 GB/s is 188 % of the measured bandwidth |" in flags
    assert "| throttled | `dsv3_router_gemm` | gate | 4 | decode B=2, decode B=4, decode B=8, … |" in flags
    assert "1 row flagged suspect, 4 throttled." in text
