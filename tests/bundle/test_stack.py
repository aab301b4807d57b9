"""What is on record of the software that a benchmark ran with."""

import sys
import types

import pytest

from benchlib import stack


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: 12\n",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Wed Jul  1 00:00:00 UTC 2026\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.159.04  Release Build\n",
    ],
)
def test_driver_version_is_read_whatever_stands_before_it(text):
    assert stack.parse_driver(text) == "580.159.04"


def test_no_driver_version_where_there_is_none():
    assert stack.parse_driver("GCC version: 12.2.0\n") is None


def test_the_compiler_is_found_where_packages_look_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(stack, "CUDA", str(tmp_path / "nothing"))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert stack.compiler_version() is None
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert stack.compiler_version() == "13.0.88"


def test_only_variables_that_change_a_measurement_are_on_record(monkeypatch):
    for name in stack.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRTLLM_ENABLE_PDL", "1")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    assert stack.variables() == {"TRTLLM_ENABLE_PDL": "1"}


def test_a_package_without_metadata_tells_its_own_version(monkeypatch):
    module = types.ModuleType("unpacked_package")
    module.__version__ = "1.2.3"
    monkeypatch.setitem(sys.modules, "unpacked_package", module)
    assert stack.distribution_of("unpacked_package.inner") == ("unpacked_package", "1.2.3")
    assert stack.distribution_of("never_imported_package") == (None, None)
