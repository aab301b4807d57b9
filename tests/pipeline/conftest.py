import pytest
from project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, shared by the tests of a module in their order."""
    return Project(tmp_path_factory.mktemp("project"))
