#!/usr/bin/env python3
"""What this GPU reaches itself: copy and read bandwidth, bf16 and fp8 matrix rates. Measured once, then read back.

Each type of GPU among those that may be used is measured on its first free one.

python peaks.py [--journal DIR] [--again]
"""

import argparse
import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchlib import gpus, results, stack, timing

SCHEMA_VERSION = 1
MATRIX = 8192
BYTES = 2 << 30
BUDGET = timing.Budget(graph_ms=20.0, replays=20)


def path_of(journal_dir, device_name):
    """The file that holds the peaks of this kind of device."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", device_name).strip("-").lower() or "unknown"
    return Path(journal_dir) / f"peaks-{slug}.json"


def load(journal_dir, device_name):
    """Measured peaks of a device, or None."""
    try:
        found = json.loads(path_of(journal_dir, device_name).read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("schema_version") == SCHEMA_VERSION else None


def load_or_measure(runtime, journal_dir, again=False):
    """Peaks of the runtime's device, measured where no file has them. None where this runtime cannot measure them."""
    if not runtime.peaks or runtime.unavailable():
        return None
    name = runtime.properties().name
    if journal_dir is None:
        return measure(runtime)
    path = path_of(journal_dir, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "a") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: the worst is measuring twice
            fcntl.flock(lock, fcntl.LOCK_EX)
        found = None if again else load(journal_dir, name)
        if found is None:
            found = measure(runtime)
            results.write_whole(path, json.dumps(found, indent=2) + "\n")
    return found


def measure(runtime):
    """{device, bandwidth_gbs, copy_gbs, read_gbs, tflops: {bf16, fp8, fp4}, launch_floor_ms, clocks, ...} as a dict."""
    properties = runtime.properties()
    found = {"schema_version": SCHEMA_VERSION, "device": properties.name, "uuid": properties.uuid}
    found |= {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "packages": stack.package_versions(("torch", "triton"))}
    found |= runtime.describe()
    nbytes = min(BYTES, (runtime.free_memory() or BYTES) // 4)
    bandwidth, notes = {}, {}
    for name, build in (("copy_gbs", _copy), ("read_gbs", _read)):
        with _reason(notes, name):
            moved, fn = build(nbytes, runtime.device)
            bandwidth[name] = round(moved / _ms(runtime, fn) / 1e6, 1)
        runtime.release()
    tflops = {}
    builders = {"bf16": _bf16, "fp8": _fp8}
    if properties.compute_capability >= (10, 0):
        builders["fp4"] = _fp4
    for dtype, build in builders.items():
        with _reason(notes, dtype):
            tflops[dtype] = round(2 * MATRIX**3 / _ms(runtime, build(runtime.device)) / 1e9, 1)
        runtime.release()
    floor = timing.launch_floor(runtime)
    found |= bandwidth
    found["bandwidth_gbs"] = max(bandwidth.values(), default=None)
    found["tflops"] = tflops
    found["launch_floor_ms"] = floor.median_ms if floor else None
    found["matrix"] = [MATRIX] * 3
    found["clocks"] = runtime.clocks()
    found["missing"] = notes
    return found


@contextlib.contextmanager
def _reason(notes, name):
    try:
        yield
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        notes[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _ms(runtime, fn):
    timing.warm_up(runtime, lambda x: fn(), [None])
    return timing.measure(runtime, lambda x: fn(), [None], BUDGET).median_ms


def _copy(nbytes, device):
    import torch

    # By a kernel: in a graph, copy_() becomes a copy node, which reached 2714 GB/s on a H200 that kernels use at 4300.
    source = torch.empty(nbytes // 4, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    return 2 * (nbytes // 4 * 4), lambda: torch.neg(source, out=target)


def _read(nbytes, device):
    import torch

    source = torch.empty(nbytes // 4, dtype=torch.float32, device=device).normal_()
    total = torch.empty((), dtype=torch.float32, device=device)
    return nbytes // 4 * 4, lambda: torch.sum(source, dim=0, out=total)


def _bf16(device):
    import torch

    a = torch.randn((MATRIX, MATRIX), dtype=torch.bfloat16, device=device)
    b = torch.randn((MATRIX, MATRIX), dtype=torch.bfloat16, device=device)
    out = torch.empty((MATRIX, MATRIX), dtype=torch.bfloat16, device=device)
    return lambda: torch.mm(a, b, out=out)


def _fp8(device):
    import torch

    one = torch.ones((), dtype=torch.float32, device=device)
    a = torch.randn((MATRIX, MATRIX), device=device).to(torch.float8_e4m3fn)
    b = torch.randn((MATRIX, MATRIX), device=device).to(torch.float8_e4m3fn).t()
    return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def _fp4(device):
    """NVFP4: two values a byte, one e4m3 scale (here 1) for 16 of them."""
    import torch

    a, b = (
        torch.randint(0, 256, (MATRIX, MATRIX // 2), dtype=torch.uint8, device=device).view(torch.float4_e2m1fn_x2)
        for _ in range(2)
    )
    scale = torch.ones(MATRIX * MATRIX // 16, device=device).to(torch.float8_e4m3fn)
    return lambda: torch._scaled_mm(a, b.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)


def _on_one_of(same, options):
    """Exit status of this program on the first of some equal GPUs that is free."""
    policy = os.environ.get("ROOFBENCH_BUSY") or "report"
    command = [sys.executable, __file__, "--here", "--journal", options.journal, *["--again"] * options.again]
    try:
        with gpus.take_one(same, policy, say=lambda text: print(text, file=sys.stderr)) as lock:
            visible = {"CUDA_VISIBLE_DEVICES": lock.gpu.uuid or str(lock.gpu.index)}
            return subprocess.run(command, env={**os.environ, **visible}, check=False).returncode
    except gpus.GpuBusy as error:
        print(error, file=sys.stderr)
        return 2


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Measure what this GPU reaches: bandwidth and matrix rates.")
    parser.add_argument(
        "--journal", default=Path(__file__).resolve().parents[2] / "journal", help="where the file goes"
    )
    parser.add_argument("--again", action="store_true", help="measure even where a file has them")
    parser.add_argument("--here", action="store_true", help="on the first visible GPU, whoever uses it")
    options = parser.parse_args(arguments)
    types = {}
    try:
        for gpu in gpus.choose([] if options.here else gpus.visible(), os.environ.get("ROOFBENCH_GPUS")):
            types.setdefault(gpu.name, []).append(gpu)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if types:
        return max(_on_one_of(same, options) for same in types.values())
    from benchlib.runtime import get_runtime

    runtime = get_runtime()
    reason = runtime.unavailable()
    if reason:
        print(f"unavailable: {reason}")
        return 0
    print(json.dumps(load_or_measure(runtime, options.journal, options.again), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
