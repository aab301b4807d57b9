#!/usr/bin/env python3
"""Say what this machine can measure and what is missing, before GPU time is spent.

    python scripts/benchlib/preflight.py [kernel ...]

Nothing is measured and no kernel is called: packages are imported, functions looked up, and the GPU's architecture is
compared. The exit code is 1 if no kernel can run.
"""

import argparse
import importlib.util
import json
import platform
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchlib import gpus, resolve, stack
from benchlib.runtime import get_runtime
from benchlib.torch_or_none import TORCH_ERROR, torch

SCRIPTS = Path(__file__).resolve().parent.parent


def machine(runtime):
    """Lines about python, torch, the driver, the packages and the GPUs."""
    lines = [f"python {platform.python_version()} on {platform.machine()}"]
    lines.append(f"torch {torch.__version__}, CUDA {torch.version.cuda}" if torch else TORCH_ERROR)
    lines.append(f"driver {stack.driver_version() or 'not found'}")
    packages = stack.package_versions()
    lines.append(", ".join(f"{name} {version}" for name, version in packages.items()) or "no kernel package installed")
    for gpu in gpus.visible():
        holder = "" if _is_free(gpu) else f", held by another benchmark (process {gpus.holder(gpu) or 'unknown'})"
        users = gpus.users(gpu)
        lines.append(f"GPU {gpu.index}: {gpu.name}{holder}{f', in use by {users}' if users else ''}")
    reason = runtime.unavailable()
    return [*lines, f"nothing can be measured here: {reason}"] if reason else lines


def _is_free(gpu):
    lock = gpus.Lock.try_take(gpu)
    if lock:
        lock.release()
    return lock is not None


def benchmark_of(script):
    """The BENCHMARK of a script. Raises Unavailable where the script cannot be loaded."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.BENCHMARK
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise resolve.Unavailable(f"{script.name} cannot be loaded: {type(error).__name__}: {text}") from None


def look(script, runtime):
    """(whether the script's kernel can run here, which function serves it or why not)."""
    try:
        kernel = resolve.resolve(benchmark_of(script), runtime)
    except resolve.Unavailable as error:
        return False, str(error)
    version = f" ({kernel.package} {kernel.package_version})" if kernel.package else ""
    return True, f"{kernel.target}{version}"


def scripts(wanted, folder):
    """{kernel: script} of the bundle, in its order. Raises ValueError for a kernel that is not there."""
    listed = folder / "kernels.json"
    if listed.exists():
        names = [entry["kernel"] for entry in json.loads(listed.read_text(encoding="utf-8"))]
    else:
        names = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    found = {name: folder / f"bench_{name}.py" for name in names if name != "utils"}
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise ValueError(f"there is no kernel {unknown[0]!r}; there are: {', '.join(found)}")
    return {name: path for name, path in found.items() if not wanted or name in wanted}


def main(arguments=None, folder=SCRIPTS):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", nargs="*", help="default: all of the bundle")
    options = parser.parse_args(arguments)
    try:
        chosen = scripts(options.kernels, folder)
    except ValueError as error:
        parser.error(str(error))
    runtime = get_runtime()
    print("\n".join(machine(runtime)))
    able = 0
    width = max(map(len, chosen), default=0)
    for name, script in chosen.items():
        there, text = look(script, runtime)
        able += there
        print(f"{name:<{width}}  {'ready' if there else 'unavailable'}: {text}", flush=True)
    print(f"{able} of {len(chosen)} kernels can run here")
    return 0 if able else 1


if __name__ == "__main__":
    sys.exit(main())
