import json
from dataclasses import replace

import pytest
import synthetic

from benchlib import resultset, roofs, text
from benchlib.resultset import ResultError

HEADER = ",".join(resultset.COLUMNS)


def test_a_csv_row_gives_flops_and_bytes_back(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\nbmm_fp8,q_nope * w_kc,decode,4,1,4,512,128,0.005,12000,0.27,1600,7.5,memory\n")
    (row,) = resultset.read_csv(path)
    assert (row.flops, row.bytes) == (pytest.approx(60e6), pytest.approx(8e6))
    assert (row.gflops, row.bandwidth_gbs, row.intensity) == (12000, 1600, 7.5)
    assert row.key == ("bmm_fp8", "q_nope * w_kc", "decode", 4, 1, 1)


def test_an_unknown_peak_is_none(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\nrmsnorm,enorm,decode,1,1,1,7168,0,0.002,18,nan,15,1.25,memory\n")
    assert resultset.read_csv(path)[0].peak_pct is None


def test_a_latency_that_is_not_positive_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}\nrmsnorm,enorm,decode,1,1,1,7168,0,0,18,1,15,1.25,memory\n")
    with pytest.raises(ResultError, match="a.csv:2: column latency_ms holds 0.0"):
        resultset.read_csv(path)


def test_load_joins_csv_and_sidecar(tmp_path):
    listed = [p for p in synthetic.points() if p["kernel"] == "trtllm_batch_decode_with_kv_cache_mla"]
    synthetic.write_results(tmp_path, listed, lacks=(), peaks=synthetic.GB200)
    results = resultset.load(tmp_path)
    assert len({row.key for row in results.measured}) == 40
    assert {row.L for row in results.measured} == {128, 256, 512, 1024, 2048}
    assert all(row.spread == pytest.approx(0.005) for row in results.measured)
    assert {(row.category, row.compute_dtype) for row in results.rows} == {("attention", "fp8")}
    assert results.devices() == ["NVIDIA H200"]


def test_points_that_failed_are_rows_without_latency_and_inapplicable_ones_are_none(tmp_path):
    point = {"type": "point", "op": "gate", "phase": "decode", "B": 4, "S": 1, "L": 1, "flops": 10, "bytes": 20}
    records = [
        {"type": "run", "schema_version": 1, "kernel": "dsv3_router_gemm", "status": "partial", "category": "gemm"},
        point | {"status": "timeout", "reason": "took longer than 120 s"},
        point | {"B": 32, "status": "not_applicable", "reason": "T = 32"},
        {"type": "check", "op": "gate", "status": "ok"},
    ]
    (tmp_path / "dsv3_router_gemm.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "dsv3_router_gemm.csv").write_text(HEADER + "\n")
    results = resultset.load(tmp_path)
    assert [(row.B, row.measured, row.category) for row in results.rows] == [(4, False, "gemm")]


@pytest.mark.parametrize(("text", "message"), [("{", r"x.jsonl:1: is not JSON"), ("[]", r"x.jsonl:1: found list")])
def test_a_damaged_sidecar_names_the_line(tmp_path, text, message):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(ResultError, match=message):
        resultset.load(tmp_path)


def test_points_need_their_names():
    with pytest.raises(ResultError, match="lacks or spoils 'op'"):
        resultset.points_from_list([{"kernel": "rmsnorm", "phase": "decode", "B": 1, "S": 1}])


ROOFS = roofs.Roofs("test", {"bf16": 100e12}, 1e12, {"bf16": 50e12}, 0.5e12)


@pytest.mark.parametrize(
    ("flops", "nbytes", "ms", "bound"),
    [(0, 1e9, 1.0, "memory"), (1e11, 1e9, 1.0, "memory"), (1e12, 1e9, 10.0, "compute")],
)
def test_time_at_the_roof(flops, nbytes, ms, bound):
    row = resultset.Row("k", "o", "decode", 1, 1, 1, flops=flops, bytes=nbytes, compute_dtype="bf16", latency_ms=20.0)
    assert ROOFS.time_ms(row) == pytest.approx(ms)
    assert ROOFS.time_ms(row, measured=True) == pytest.approx(2 * ms)
    assert ROOFS.bound(row) == bound
    assert ROOFS.share(row) == pytest.approx(ms / 20)


def test_a_dtype_without_units_has_no_roof_and_a_copy_has_one():
    row = resultset.Row("k", "o", "decode", 1, 1, 1, flops=1, bytes=1e9, compute_dtype="fp4")
    assert ROOFS.time_ms(row) is None
    assert ROOFS.time_ms(resultset.Row("k", "o", "decode", 1, 1, 1, flops=0, bytes=1e9)) == pytest.approx(1.0)


def test_roofs_come_from_the_runs_the_table_or_a_name(tmp_path):
    listed = [p for p in synthetic.points() if p["kernel"] == "rmsnorm"]
    synthetic.write_results(tmp_path, listed)
    results = resultset.load(tmp_path)
    assert roofs.choose(results).name == "H200"
    assert roofs.choose(resultset.ResultSet(tmp_path, [])).name == "GB200"
    assert roofs.choose(results, "B200").bandwidth == 8000e9
    with pytest.raises(ResultError, match="did you mean"):
        roofs.choose(results, "H20")
    results.runs["rmsnorm"]["hardware"] = {"name": "H200", "tflops": {"bf16": 989}, "bandwidth_gbs": 4800}
    results.runs["rmsnorm"]["measured_peaks"] = {"tflops": {"bf16": 800}, "bandwidth_gbs": 4300}
    found = roofs.choose(results)
    assert (found.compute, found.measured_compute) == ({"bf16": 989e12}, {"bf16": 800e12})
    assert roofs.choose(results, "B200").measured_bandwidth is None


def test_what_is_attainable_is_the_measured_roof_or_the_launch():
    found = replace(ROOFS, launch_floor_ms=0.001)
    big = resultset.Row("k", "o", "decode", 1, 1, 1, flops=1e11, bytes=1e9, compute_dtype="bf16", latency_ms=20.0)
    small = replace(big, bytes=1e3, flops=1e3)
    assert (found.attainable_ms(big), found.limit(big)) == (pytest.approx(2.0), "memory")
    assert (found.attainable_ms(small), found.limit(small)) == (0.001, "launch")
    assert (ROOFS.attainable_ms(small), ROOFS.limit(small)) == (pytest.approx(2e-6), "memory")
    unknown = replace(big, compute_dtype="fp4", peak_pct=25.0)
    assert found.attainable_ms(unknown) is None
    assert roofs.attainable_ms(unknown, found) == pytest.approx(5.0)
    assert roofs.attainable_ms(replace(unknown, peak_pct=None), found) is None


def test_the_sidecar_gives_the_digits_that_the_csv_lacks_unless_it_was_edited(tmp_path):
    listed = [p for p in synthetic.points() if p["kernel"] == "topk_sigmoid"][:2]
    synthetic.write_results(tmp_path, listed)
    sidecar, table = tmp_path / "topk_sigmoid.jsonl", tmp_path / "topk_sigmoid.csv"
    run, *points = map(json.loads, sidecar.read_text().splitlines())
    points[0]["peak_pct"], points[1]["peak_pct"] = 0.0024, 0.0024
    sidecar.write_text("\n".join(map(json.dumps, [run, *points])))
    header, *lines = (line.split(",") for line in table.read_text().splitlines())
    lines[0][10], lines[1][10] = "0.00", "7.00"
    table.write_text("\n".join(map(",".join, [header, *lines])) + "\n")
    assert [row.peak_pct for row in resultset.load(tmp_path).rows] == [0.0024, 7.0]


def test_a_gpu_that_the_table_lacks_has_no_roofs(tmp_path):
    synthetic.write_results(tmp_path, synthetic.points()[:3], gpu="NVIDIA X9000")
    found = roofs.choose(resultset.load(tmp_path))
    assert (found.name, found.compute, found.bandwidth) == ("NVIDIA X9000", {}, None)


@pytest.mark.parametrize(
    ("share", "written"),
    [(0.123, "12.3 %"), (0.0004, "<0.1 %"), (0.0005, "0.1 %"), (0.0, "0 %"), (1.0, "100.0 %"), (None, "–")],
)
def test_a_small_share_is_not_written_as_nothing(share, written):
    assert text.percent(share) == written


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.replace("latency_ms", "latency"), r"lacks latency_ms \(found latency\); expected kernel,op"),
        (HEADER.replace("kernel,op", "op,kernel"), "the columns of the header are in another order: op,kernel,"),
        (HEADER + ",note", "the header has note, too"),
        ("a,b", "found the header a,b"),
    ],
)
def test_a_wrong_header_is_an_error_that_says_what_is_wrong_with_it(tmp_path, header, message):
    path = tmp_path / "a.csv"
    path.write_text(header + "\n")
    with pytest.raises(ResultError, match=f"a.csv:1: .*{message}"):
        resultset.read_csv(path)


def test_a_kernels_table_with_a_wrong_header_is_not_passed_over(tmp_path):
    synthetic.write_results(tmp_path, [p for p in synthetic.points() if p["kernel"] == "dsv3_router_gemm"])
    (tmp_path / "comparison.csv").write_text("kernel,op,phase,B,S,L,M,N,K,baseline_ms,current_ms,ratio,bound\n")
    assert len(resultset.load(tmp_path).rows) == 5
    table = tmp_path / "dsv3_router_gemm.csv"
    table.write_text(table.read_text().replace("latency_ms", "ms").replace("gflops", "gf").replace("bound", "b"))
    with pytest.raises(ResultError, match="dsv3_router_gemm.csv:1: the header lacks latency_ms"):
        resultset.load(tmp_path)
    (tmp_path / "dsv3_router_gemm.jsonl").unlink()
    with pytest.raises(ResultError, match="dsv3_router_gemm.csv:1: the header lacks latency_ms"):
        resultset.load(tmp_path)
