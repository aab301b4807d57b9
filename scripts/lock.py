"""Resolve the dependency groups of pyproject.toml into requirements.lock, and write the conda environments.

Reads   pyproject.toml, envs/gpu-*.txt
Writes  requirements.lock: every package with its exact version, direct ones first
        envs/workflow.yaml, envs/gpu-*.yaml: the same packages for `--software-deployment-method conda`. Snakemake
        copies such a file elsewhere, so it cannot refer to another one.

Nothing is installed: pip only resolves, with the Python that runs this script. A torch build's own CUDA
packages are left out, and so is the local part of its version (`+cpu`): the lock fits every build of that torch,
and installing from it fetches what the build at hand needs.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / "envs"
OF_A_TORCH_BUILD = re.compile(r"nvidia-.*|triton|cuda-.*")


def canonical(name):
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(requirements):
    """Name and version of everything that pip would install for the requirements into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run([*command, *requirements], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {}
    for item in json.loads(report)["install"]:
        name = canonical(item["metadata"]["name"])
        if not OF_A_TORCH_BUILD.fullmatch(name):
            found[name] = item["metadata"]["version"].partition("+")[0]
    return found


def conda(path, about, python, tools, requirements):
    """Write a conda environment whose packages come from pip."""
    lines = [f"# Made by `make lock`. {about}", "channels:", "  - conda-forge", "dependencies:", f"  - python={python}"]
    lines += [f"  - {tool}" for tool in ("pip", *tools)]
    lines += ["  - pip:", *(f"      - {requirement}" for requirement in requirements)]
    path.write_text("\n".join(lines) + "\n")


def requirements_in(path):
    """The lines of a requirements file that are no comments."""
    return [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def main():
    lock()
    about = "Everything but the benchmarks themselves: no GPU needed."
    conda(ENVS / "workflow.yaml", about, "3.11", (), requirements_in(ROOT / "requirements.lock"))
    for path in sorted(ENVS.glob("gpu-*.txt")):
        about = f"The benchmarks' environment: as {path.name}, and compilers, because some kernels are compiled on use."
        conda(path.with_suffix(".yaml"), about, "3.12", ("gxx", "ninja"), requirements_in(path))


def lock():
    """Write requirements.lock."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    found = resolve([requirement for group in groups.values() for requirement in group])
    lines = ["# Made by `make lock` from the dependency groups of pyproject.toml. Do not edit.", ""]
    for group, requirements in groups.items():
        lines.append(f"# {group}")
        for requirement in requirements:
            name = canonical(re.match(r"[A-Za-z0-9._-]+", requirement)[0])
            lines.append(f"{name}=={found.pop(name)}")
        lines.append("")
    lines.append("# what those need")
    lines += [f"{name}=={version}" for name, version in sorted(found.items())]
    (ROOT / "requirements.lock").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
