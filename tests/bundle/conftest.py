"""The fakes beside the tests can be imported."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parents[1] / "workflow" / "bundle" / "scripts"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture
def toy_script(tmp_path):
    """The toy benchmark's script, in a folder of its own."""
    from fakes import write_toy

    return write_toy(tmp_path / "toy")
