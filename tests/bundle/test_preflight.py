"""The check of a node before GPU time is spent."""

import pytest
from fakes import FakeRuntime, installed

from benchlib import gpus, preflight


@pytest.fixture
def folder(toy_script, monkeypatch, tmp_path):
    """A bundle's folder with the toy benchmark and one that cannot be loaded."""
    (toy_script.parent / "bench_broken.py").write_text("import no_such_module\n")
    monkeypatch.setenv(gpus.LOCK_DIR, str(tmp_path / "locks"))
    monkeypatch.setattr(gpus, "visible", lambda: [gpus.Gpu(0, "GPU-aaaa", "NVIDIA H100")])
    monkeypatch.setattr(gpus, "users", lambda gpu: "process 7")
    return toy_script.parent


def test_each_kernel_is_ready_or_says_what_it_lacks(folder, capsys):
    with installed(FakeRuntime()):
        assert preflight.main([], folder) == 0
    said = capsys.readouterr().out
    assert "toy     ready: toy_kernel:double" in said
    assert "broken  unavailable: bench_broken.py cannot be loaded: ModuleNotFoundError" in said
    assert "1 of 2 kernels can run here" in said
    assert "GPU 0: NVIDIA H100, in use by process 7" in said


def test_the_gpu_and_its_holder_are_named(folder, capsys):
    with installed(FakeRuntime(cc=(8, 0), name="NVIDIA A100")), gpus.take_one(gpus.visible()):
        assert preflight.main(["toy"], folder) == 1
    said = capsys.readouterr().out
    assert "held by another benchmark" in said
    assert "toy  unavailable: needs compute capability 9.0 or newer, NVIDIA A100 has 8.0" in said


def test_a_machine_without_a_gpu(folder, capsys):
    runtime = FakeRuntime()
    runtime.reason = "no GPU"
    with installed(runtime):
        assert preflight.main(["toy"], folder) == 1
    assert "nothing can be measured here: no GPU" in capsys.readouterr().out


def test_a_kernel_that_is_not_there(folder, capsys):
    with pytest.raises(SystemExit):
        preflight.main(["tyo"], folder)
    assert "there is no kernel 'tyo'; there are: broken, toy" in capsys.readouterr().err
