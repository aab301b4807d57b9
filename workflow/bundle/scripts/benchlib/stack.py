#!/usr/bin/env python3
"""Versions of the software that kernels come from, without importing any of it.

`python stack.py` prints them as JSON with a fingerprint, which changes when something changes that could make an
unavailable or failed kernel run: packages, driver, devices.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PACKAGES = (
    "torch",
    "triton",
    "sgl-kernel",
    "sglang-kernel",
    "sglang",
    "flashinfer-python",
    "flashinfer-cubin",
    "flashinfer-jit-cache",
    "nvidia-cutlass-dsl",
    "nvidia-cublas",
    "nvidia-cublas-cu12",
)


# What makes the same call run another kernel, or run it in another way.
VARIABLES = (
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "FLASHINFER_CUDA_ARCH_LIST",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_CUDA_ARCH_LIST",
    "TRITON_F32_DEFAULT",
    "TRTLLM_ENABLE_PDL",
)


def variables(environment=None):
    """{name: value} of those environment variables that are set and can change a measurement."""
    environment = os.environ if environment is None else environment
    return {name: environment[name] for name in VARIABLES if name in environment}


def package_versions(names=PACKAGES):
    """{distribution: version} of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def distribution_of(module, prefer=None):
    """(distribution, version) that provides a top-level module; (None, None) where metadata do not say."""
    top = module.partition(".")[0]
    names = [prefer] if prefer else []
    names += _MODULES.get(top, [top])
    for name in names:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    version = getattr(sys.modules.get(top), "__version__", None)  # a package unpacked without its metadata
    return (top, str(version)) if version else (None, None)


# Looking modules up in all installed metadata takes a second; these are the ones that are asked for.
_MODULES = {
    "sgl_kernel": ["sglang-kernel", "sgl-kernel"],
    "flashinfer": ["flashinfer-python"],
}


def driver_version():
    """Version of NVIDIA's kernel driver, or None."""
    try:
        found = parse_driver(Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        found = None
    if found is None:
        from benchlib import nvml

        return nvml.driver_version()
    return found


CUDA = "/usr/local/cuda"


def compiler_version():
    """Version of the nvcc that kernels would be compiled with at their first call, or None."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [os.path.join(home, "bin") for home in homes if home] + [os.environ.get("PATH", ""), f"{CUDA}/bin"]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(places))
    if nvcc is None:
        return None
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bV(\d+(?:\.\d+)+)", said)
    return found.group(1) if found else None


def parse_driver(text):
    """The version in the driver's own words: "NVIDIA UNIX Open Kernel Module for x86_64  580.159.04 ..."."""
    found = re.search(r"Kernel Module\b.*?\s(\d+\.\d+(?:\.\d+)?)(?=\s|$)", text)
    return found.group(1) if found else None


def describe():
    """Everything of the machine that may decide whether a kernel runs."""
    from benchlib import gpus

    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": package_versions(),
        "driver": driver_version(),
        "gpus": [gpu.name for gpu in gpus.visible()],
        "cubin_dir": os.environ.get("FLASHINFER_CUBIN_DIR"),
    }


def fingerprint(facts=None):
    """Short hash of describe()."""
    text = json.dumps(facts if facts is not None else describe(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    found = describe()
    print(json.dumps({**found, "fingerprint": fingerprint(found)}, indent=2))
