"""Declared once: the lock and the conda environments follow from pyproject.toml and envs/gpu-*.txt."""

import re
import tomllib

import pytest
import yaml
from project import ROOT

LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]


def requirements(path):
    """Lines of a requirements file that are no comments."""
    return [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def packages(path):
    """pip packages of a conda environment."""
    return next(item["pip"] for item in yaml.safe_load(path.read_text())["dependencies"] if isinstance(item, dict))


def test_every_declared_dependency_is_in_the_lock():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    for requirement in (requirement for group in groups.values() for requirement in group):
        name, _, version = requirement.partition("==")
        assert any(line == requirement if version else line.startswith(f"{name}==") for line in LOCK), requirement


def test_the_lock_is_exact_and_fits_every_build_of_torch():
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][^+]*", line) for line in LOCK)
    assert not [line for line in LOCK if re.match("nvidia-|triton|cuda-", line)]


def test_the_conda_environment_of_the_workflow_is_the_lock():
    assert packages(ROOT / "envs" / "workflow.yaml") == LOCK


@pytest.mark.parametrize("stack", ["cu12", "cu13"])
def test_conda_and_pip_have_the_same_gpu_stack(stack):
    assert packages(ROOT / "envs" / f"gpu-{stack}.yaml") == requirements(ROOT / "envs" / f"gpu-{stack}.txt")
