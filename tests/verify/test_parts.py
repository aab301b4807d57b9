"""Parts of the verifier on their own: signatures, shadows, layouts, rooflines, the snapshot script."""

import json
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("verify")
ROOT = Path(__file__).resolve().parents[2]
torch = pytest.importorskip("torch")


@pytest.fixture
def shadow():
    from roofbench.verify.shadow import Shadow

    events = []
    mode = Shadow(lambda: False, lambda *event: events.append(event), lambda func, args, kwargs: None)
    mode.events = events
    return mode


def test_values_follow_an_index_to_the_meta_device(shadow):
    from roofbench.verify.shadow import value_of

    with shadow:
        ids = torch.arange(12, dtype=torch.int64).to("meta")
        table = ids.view(3, 4).to(torch.int32)
        column = table[:, 1]
        offsets = torch.zeros(5, dtype=torch.int32, device="meta")
        offsets[1:] = torch.tensor([1, 2, 3, 4], dtype=torch.int32).cumsum(0).to("meta")
    assert value_of(column).tolist() == [1, 5, 9]
    assert value_of(table).dtype == torch.int32
    assert value_of(offsets).tolist() == [0, 1, 3, 6, 10]


def test_what_was_never_written_and_what_is_zero_is_known(shadow):
    from roofbench.verify.shadow import constant_of, is_written, value_of

    with shadow:
        empty = torch.empty(4, device="meta")
        zeros = torch.zeros(1 << 27, dtype=torch.uint8, device="meta")
        part = torch.zeros(1 << 27, dtype=torch.uint8, device="meta")
        part[:10] = 1
        noise = torch.randn(4, device="meta")
    assert not is_written(empty) and is_written(zeros) and is_written(noise)
    assert constant_of(zeros) == 0 and constant_of(part) is None
    assert value_of(noise) is None


def test_a_signature_is_read_back():
    from roofbench.verify.stack import Default, signature

    found = signature("(a, b=1e-06, *, kind=ActivationType.Swiglu.value, **more)")
    assert list(found.parameters) == ["a", "b", "kind", "more"]
    assert found.parameters["b"].default == 1e-6
    assert found.parameters["kind"].default == Default("ActivationType.Swiglu.value")


def test_slices_of_one_tensor_do_not_overlap():
    from roofbench.verify.expected import overlap

    whole = torch.empty(8, 4, 576, device="meta")
    assert not overlap(whole[..., :512], whole[..., 512:])
    assert overlap(whole[..., :513], whole[..., 512:])
    assert overlap(whole, whole[1])
    assert not overlap(whole[0], whole[1])


def test_the_roofline_is_the_users():
    from roofbench.verify.metrics import Roof, cell_agrees

    roof = Roof(ROOT / "config" / "hardware.json")
    row = roof.row(2 * 4096**3, 3 * 4096**2 * 2, "bf16", 0.2)
    assert row["bound"] == "compute"
    assert row["peak_pct"] == pytest.approx(100 * 2 * 4096**3 / 2250e12 / 0.2e-3)
    assert row["gflops"] == pytest.approx(2 * 4096**3 / 0.2e-3 / 1e9)
    assert cell_agrees("12.35", 12.345001, 2) and not cell_agrees("12.36", 12.345, 2)
    assert cell_agrees("12.345001", 12.345001, 2) and not cell_agrees("12.3", 12.345, 2)
    assert not cell_agrees("nan", 1.0, 2) and not cell_agrees("", 1.0, 2)


@pytest.mark.parametrize("stack", ["cu12", "cu13"])
def test_the_snapshots_hold_what_the_catalogue_names(stack):
    from roofbench.catalogue import load_catalogue
    from roofbench.verify.stack import Stack

    found = Stack(json.loads((ROOT / "config" / "stacks" / f"{stack}.json").read_text()), None)
    for entry in load_catalogue(ROOT / "config" / "kernels"):
        for item in [*entry.data["providers"], *entry.data.get("helpers", [])]:
            if stack in item.get("stacks", [stack]):
                assert found.has(item["target"]), f"{entry.name}: {item['target']} in {stack}"


def test_a_wheel_is_read_without_importing_it(tmp_path):
    from snapshot_stack import snapshot

    wheel = tmp_path / "sgl_kernel-9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("sgl_kernel-9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: sgl-kernel\nVersion: 9.9\n")
        archive.writestr(
            "sgl_kernel/__init__.py",
            "import torch\nfrom sgl_kernel.gemm import mm\nfrom .other import *\n"
            "if torch.version.hip is not None:\n    from .other import only_hip\n"
            "raise RuntimeError('never imported')\n",
        )
        archive.writestr("sgl_kernel/gemm.py", "def mm(a, b: int, *, out=None) -> None: ...\n")
        archive.writestr(
            "sgl_kernel/other.py",
            "__all__ = ['Kind', 'Config']\nclass Kind(IntEnum):\n    A = 1\n"
            "class Config:\n    size: int\n    fast: bool = True\ndef only_hip(): ...\n",
        )
        schema = b"\x00mm(Tensor! out, Tensor a, float eps) -> ()\x00"
        archive.writestr("sgl_kernel/sm100/common_ops.abi3.so", b"\x7fELF" + schema)
    empty = tmp_path / "catalogue"
    empty.mkdir()
    content, missing = snapshot("test", "2.0", [wheel], empty)
    assert not missing
    assert content["versions"] == {"torch": "2.0", "sgl-kernel": "9.9"}
    assert content["modules"]["sgl_kernel"] == {
        "Config": "class (size, fast=True)",
        "Kind": "enum A=1",
        "mm": "(a, b, *, out=None)",
    }
    assert content["ops"]["sgl_kernel"] == {"mm": "mm(Tensor! out, Tensor a, float eps) -> ()"}


def test_the_package_is_imported_without_torch():
    import subprocess
    import sys

    code = "import sys; sys.path.insert(0, 'workflow'); import roofbench.verify; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
