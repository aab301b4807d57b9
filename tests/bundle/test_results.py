"""CSV and sidecar: columns, values, quoting."""

import csv
import io
import json
import math

import pytest

from benchlib import hardware, results
from benchlib.results import BenchmarkResult

HEADER = "kernel,op,phase,B,S,M,N,K,latency_ms,gflops,peak_pct,bandwidth_gbs,arith_intensity,bound"
ROW = BenchmarkResult(
    "bmm_fp8", 'q_nope * w_kc, "x"', "decode", 1, 1, 1, 512, 128, 0.0083, 2.0, 3.456, 1000.0, 2.5, "memory"
)


def test_exactly_the_fourteen_columns():
    assert results.csv_text([]) == HEADER + "\n"


def test_labels_with_commas_and_asterisks_survive():
    rows = list(csv.DictReader(io.StringIO(results.csv_text([ROW]))))
    assert rows[0]["op"] == ROW.op
    assert rows[0]["latency_ms"] == "0.008300" and rows[0]["peak_pct"] == "3.46" and rows[0]["bound"] == "memory"
    assert all(rows[0].values())


def test_rates_follow_the_roofline():
    h100 = hardware.for_listing("H100")
    found = results.rates(1.0, flops=2e12, nbytes=1e9, dtype="bf16", hardware=h100)
    assert found["gflops"] == pytest.approx(2e6) and found["bandwidth_gbs"] == pytest.approx(1000)
    assert found["arith_intensity"] == pytest.approx(2000)
    assert found["bound"] == "compute"
    assert found["peak_pct"] == found["compute_pct"] == pytest.approx(100 * 2e12 / 989e12 / 1e-3)
    moved = results.rates(1.0, flops=0, nbytes=1e9, dtype="bf16", hardware=h100)
    assert moved["bound"] == "memory" and moved["gflops"] == 0
    assert moved["peak_pct"] == moved["bandwidth_pct"] == pytest.approx(100 * 1000 / 3350)


def test_without_peaks_there_is_no_share():
    assert math.isnan(results.rates(1.0, 1, 1, "bf16", None)["peak_pct"])


def test_sidecar_begins_with_the_run_and_holds_no_nan():
    lines = results.sidecar_text({"status": "ok", "x": math.nan}, [{"type": "point", "v": [math.inf]}]).splitlines()
    first, second = map(json.loads, lines)
    assert first == {"type": "run", "schema_version": results.SCHEMA_VERSION, "status": "ok", "x": None}
    assert second == {"type": "point", "v": [None]}


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    results.write(tmp_path, "k", {"status": "ok"}, [], [ROW])
    before = (tmp_path / "k.csv").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(OSError):
        results.write(tmp_path, "k", {"status": "ok"}, [], [ROW, ROW])
    assert (tmp_path / "k.csv").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.csv", "k.jsonl"]


def run_of(status, script, gpu=None):
    return {"status": status, "reason": "no GPU", "provenance": {"script_sha256": script, "gpu": {"name": gpu}}}


def test_rows_stay_where_the_same_script_cannot_run(tmp_path, capsys):
    results.write(tmp_path, "k", run_of("ok", "a", "NVIDIA H200"), [], [ROW])
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    results.write(tmp_path, "k", run_of("unavailable", "a"), [], [])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    assert capsys.readouterr().err == "k: unavailable: no GPU. Kept: 1 row measured on NVIDIA H200\n"


@pytest.mark.parametrize(("status", "script"), [("unavailable", "b"), ("incorrect", "a"), ("failed", "a")])
def test_rows_that_no_longer_count_are_kept_aside(tmp_path, capsys, status, script):
    for aside in ("k", "k-2"):
        results.write(tmp_path, "k", run_of("ok", "a", "NVIDIA H200"), [], [ROW])
        before = {path.suffix: path.read_text() for path in tmp_path.glob("k.*")}
        results.write(tmp_path, "k", run_of(status, script), [], [])
        assert (tmp_path / "k.csv").read_text() == results.csv_text([])
        assert {path.suffix: path.read_text() for path in (tmp_path / "removed").glob(f"{aside}.*")} == before
        assert f"removed/{aside}.csv" in capsys.readouterr().err


class TestHardware:
    @pytest.mark.parametrize(
        ("device", "name"),
        [
            ("NVIDIA GB200", "GB200"),
            ("NVIDIA B200", "B200"),
            ("NVIDIA H200", "H200"),
            ("NVIDIA H100 80GB HBM3", "H100"),
            ("NVIDIA H100 PCIe", None),
            ("NVIDIA H100 NVL", None),
            ("NVIDIA GH200 480GB", None),
            ("NVIDIA A100-SXM4-80GB", None),
            ("NVIDIA GB300", None),
        ],
    )
    def test_auto_takes_the_device_that_is_there(self, device, name):
        found = hardware.for_device(device)
        assert (found and found.name) == name

    def test_the_default_without_a_device_is_gb200(self):
        found = hardware.for_listing()
        assert found.name == "GB200"
        assert found.tflops == {"fp4": 9000, "fp8": 4500, "bf16": 2250} and found.bandwidth_gbs == 8000

    def test_vendor_figures_by_name(self):
        assert hardware.for_device("NVIDIA GB200", "gb200-vendor").tflops["fp4"] == 10000

    def test_a_named_device_that_is_not_there_is_an_error(self):
        with pytest.raises(hardware.HardwareError, match="GB200 is configured, but the device is NVIDIA H200"):
            hardware.for_device("NVIDIA H200", "GB200")

    def test_a_misspelt_name_is_answered_with_the_nearest(self):
        with pytest.raises(hardware.HardwareError, match="did you mean GB200"):
            hardware.for_listing("GB20")

    def test_no_fp4_on_hopper(self):
        roof = hardware.for_listing("H200").roofline(1e12, 1e6, "fp4")
        assert roof.compute_ms is None and roof.bound == "memory"

    def test_an_unknown_device_has_measured_peaks_only(self):
        found = hardware.from_peaks("NVIDIA A100", {"bandwidth_gbs": 1800, "tflops": {"bf16": 280}})
        assert found.measured and found.roofline(0, 1.8e9, "bf16").time_ms == pytest.approx(1.0)
        assert hardware.from_peaks("NVIDIA A100", None) is None
