"""A contract or a reference that cannot be used is named with its file, before anything is compared with it."""

import sys
from types import ModuleType

import pytest

from roofbench.errors import UserError
from roofbench.verify import check

SPEC = {"kernel": "my_norm", "catalogue": "my_norm"}
GOOD = "POISON = ()\n\n\ndef expected(x, dims):\n    pass\n\n\ndef actual(x, result):\n    pass\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def (\n", r":1: is no Python: invalid syntax"),
        (GOOD.replace("def expected", "def expectd"), r"found no expected\. Did you mean expectd\?"),
        (GOOD.replace("POISON = ()", ""), "found no POISON"),
        (None, "the reference is missing"),
    ],
)
def test_a_reference_that_no_benchmark_could_use(tmp_path, text, message):
    path = tmp_path / "my_norm.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=rf"my_norm\.py.*{message}"):
        check._check_reference(path)


def test_a_good_reference_passes(tmp_path):
    (tmp_path / "my_norm.py").write_text("from shared import expected\n" + GOOD.replace("def expected", "def other"))
    check._check_reference(tmp_path / "my_norm.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def (\n", ":1: is no Python: invalid syntax"),
        ("import nosuch_module\n", "cannot be imported: No module named 'nosuch_module'"),
        ("1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero"),
        ("def flopps(d):\n    return 1\n", r"found no function flops\(d\)"),
        (None, "the contract of my_norm is missing"),
    ],
)
def test_a_contract_that_nothing_could_be_compared_with(tmp_path, monkeypatch, text, message):
    package = ModuleType("roofbench.contracts")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "roofbench.contracts", package)
    monkeypatch.delitem(sys.modules, "roofbench.contracts.my_norm", raising=False)
    if text is not None:
        (tmp_path / "my_norm.py").write_text(text)
    with pytest.raises(UserError, match=rf"my_norm\.py.*{message}"):
        check._contract(SPEC)
