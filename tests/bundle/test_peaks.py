"""Peaks of the table and of the device itself: which device is which, and that each is measured once."""

import json

import pytest
from fakes import FakeRuntime, installed

from benchlib import hardware, peaks
from benchlib.run import BenchmarkRun

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("device", "entry"),
    [
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA B300 SXM6 AC", None),
        ("NVIDIA L40S", None),
    ],
)
def test_a_device_gets_the_peaks_of_its_own_model_or_none(device, entry):
    found = hardware.for_device(device)
    assert (found and found.name) == entry


def test_a_device_that_is_named_must_be_there():
    assert hardware.for_device("NVIDIA GB200", "GB200-vendor").tflops["fp4"] == 10000
    with pytest.raises(hardware.HardwareError, match="H200 is configured, but the device is NVIDIA GB200"):
        hardware.for_device("NVIDIA GB200", "H200")


class Measurable(FakeRuntime):
    """A device on which everything takes a millisecond."""

    peaks = True
    persistent = True

    def __init__(self, **options):
        super().__init__(free=1 << 26, **options)
        self.measured = 0

    def _work(self, fn):
        self.measured += 1
        fn()
        return 1.0

    def describe(self):
        return {"driver": "580.1", "limits": {"power_limit_w": 700.0}}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(peaks, "MATRIX", 32)


def test_peaks_are_measured_once_for_a_device_and_read_back(tmp_path):
    runtime = Measurable()
    found = peaks.load_or_measure(runtime, tmp_path)
    assert found["copy_gbs"] == pytest.approx(2 * (1 << 24) / 1e6, rel=0.01)
    assert found["read_gbs"] == pytest.approx((1 << 24) / 1e6, rel=0.01)
    assert found["bandwidth_gbs"] == found["copy_gbs"]
    assert found["tflops"]["bf16"] == pytest.approx(2 * 32**3 / 1e9, abs=0.1)
    assert found["launch_floor_ms"] == pytest.approx(1.0, rel=0.01)
    assert (found["uuid"], found["driver"], found["limits"]) == ("GPU-fake", "580.1", {"power_limit_w": 700.0})
    assert found["packages"]["torch"]
    before = runtime.measured
    assert peaks.load_or_measure(runtime, tmp_path) == json.loads(json.dumps(found))
    assert runtime.measured == before
    assert peaks.load_or_measure(runtime, tmp_path, again=True) and runtime.measured > before
    assert peaks.load(tmp_path, "NVIDIA H100 80GB HBM3") and peaks.load(tmp_path, "NVIDIA H200") is None


def test_a_rate_that_cannot_be_measured_is_missing_with_its_reason(tmp_path, monkeypatch):
    def refuse(device):
        raise RuntimeError("no fp4 units\nmore")

    monkeypatch.setattr(peaks, "_fp4", refuse)
    found = peaks.measure(Measurable(cc=(10, 0)))
    assert "fp4" not in found["tflops"] and found["missing"]["fp4"] == "RuntimeError: no fp4 units"
    assert "fp4" not in peaks.measure(Measurable(cc=(9, 0)))["missing"]


def test_a_device_that_the_table_does_not_know_is_compared_with_its_own_peaks(toy_script, tmp_path, monkeypatch):
    from fakes import load_toy

    toy = load_toy(toy_script)
    measured = {"bandwidth_gbs": 1000.0, "tflops": {"bf16": 100.0}, "launch_floor_ms": 0.0005}
    monkeypatch.setattr(peaks, "load_or_measure", lambda *args: measured)
    with installed(FakeRuntime(name="NVIDIA L40S")) as runtime:
        toy.toy_kernel.runtime = runtime
        with BenchmarkRun(toy.BENCHMARK, tmp_path / "r", phase="decode") as run:
            result = run.measure(toy.OPS[0], B=4, S=1)
    assert run.run["hardware"] == {
        "name": "NVIDIA L40S", "tflops": {"bf16": 100.0}, "bandwidth_gbs": 1000.0, "l2_bytes": 0, "measured": True,
    }  # fmt: skip
    assert result.peak_pct == pytest.approx(100 * result.bandwidth_gbs / 1000.0)
