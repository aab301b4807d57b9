"""A one-node Slurm, and a copy of the project whose workers measure on fake GPUs."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "pipeline"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from fake_project import Fake  # noqa: E402
from one_node import OneNode, why_not  # noqa: E402


@pytest.fixture(scope="session")
def slurm():
    """A running cluster of one node with two GPUs."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    with OneNode(folder / "cluster") as cluster:
        yield cluster
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, its scripts verified, shared by the tests of a module."""
    made = Fake(tmp_path_factory.mktemp("fake"))
    made.run("verify")
    return made


@pytest.fixture
def fresh(project):
    """The module's project without measurements."""
    project.forget()
    return project
