"""Why a kernel is unavailable, said precisely."""

import dataclasses
import sys
import types

import pytest
from fakes import FakeRuntime

from benchlib import resolve
from benchlib.model import Provider


@dataclasses.dataclass
class Wanted:
    providers: tuple
    min_compute_capability: str | None = None
    compute_capabilities: tuple = ()
    source: str = "sgl-kernel"


def reason(*targets, runtime=None, **limits):
    providers = tuple(Provider(target) if isinstance(target, str) else target for target in targets)
    with pytest.raises(resolve.Unavailable) as caught:
        resolve.resolve(Wanted(providers, **limits), runtime or FakeRuntime())
    return str(caught.value)


@pytest.fixture
def module(monkeypatch):
    found = types.ModuleType("made_up_kernels")
    found.double = lambda x: 2 * x
    monkeypatch.setitem(sys.modules, "made_up_kernels", found)
    return found


def test_the_first_provider_that_is_there(module):
    wanted = Wanted((Provider("not_installed_at_all:f"), Provider("made_up_kernels:double")))
    kernel = resolve.resolve(wanted, FakeRuntime())
    assert kernel(4) == 8 and kernel.target == "made_up_kernels:double" and kernel.module == "made_up_kernels"


def asks(x, out=None, enable_pdl=None):
    return x


def asks_not(x, launch_with_pdl=False):
    return x


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (asks, (1,), {}, "default"),
        (asks, (1, None, True), {}, "on"),
        (asks, (1,), {"enable_pdl": False}, "off"),
        (asks_not, (1,), {}, "off"),
        (asks_not, (1,), {"launch_with_pdl": True}, "on"),
        (lambda *args, **more: None, (1,), {"enable_pdl": False}, "off"),
        (len, ((),), {}, "no parameter"),
        (dict, (), {"enable_pdl": True}, "on"),  # shows no signature
    ],
)
def test_whether_the_call_asks_for_dependent_launch_is_known_after_it(module, function, args, kwargs, expected):
    module.double = function
    kernel = resolve.resolve(Wanted((Provider("made_up_kernels:double"),)), FakeRuntime())
    assert kernel.pdl is None
    kernel(*args, **kwargs)
    assert kernel.pdl == expected


def test_an_operator_of_torch_says_it_in_its_schema(module):
    class Operator:
        _schema = types.SimpleNamespace(
            arguments=[
                types.SimpleNamespace(name=name, default_value=None) for name in ("out", "x", "eps", "enable_pdl")
            ]
        )

        def __call__(self, *args):
            return None

    module.double = Operator()
    for args, expected in (((0, 0, 0.0, True), "on"), ((0, 0, 0.0, False), "off"), ((0, 0, 0.0), "default")):
        kernel = resolve.resolve(Wanted((Provider("made_up_kernels:double"),)), FakeRuntime())
        kernel(*args)
        assert kernel.pdl == expected


def test_missing_package_and_missing_function(module):
    found = reason("not_installed_at_all:f", "made_up_kernels:triple")
    assert "package not_installed_at_all is not installed" in found
    assert "made_up_kernels has no made_up_kernels.triple" in found


def test_missing_function_names_the_version(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest_stand_in", types.ModuleType("pytest_stand_in"))
    found = reason(Provider("pytest_stand_in:nothing", package="pytest"))
    assert f"pytest {pytest.__version__} has no pytest_stand_in.nothing" in found


def test_an_import_that_fails(tmp_path, monkeypatch):
    (tmp_path / "breaks_on_import.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    (tmp_path / "needs_more.py").write_text("import not_there_either")
    monkeypatch.syspath_prepend(tmp_path)
    assert "libcudart.so.12" in reason("breaks_on_import:f")
    assert "needs not_there_either" in reason("needs_more:f")


def test_architecture_comes_before_anything_is_imported():
    assert reason("no_such:f", min_compute_capability="10.0") == (
        "needs compute capability 10.0 or newer, NVIDIA H100 80GB HBM3 has 9.0"
    )
    assert "needs compute capability 10.0, NVIDIA B300 has 10.3" in reason(
        "no_such:f", compute_capabilities=["10.0"], runtime=FakeRuntime(cc=(10, 3), name="NVIDIA B300")
    )


def test_no_gpu_comes_first():
    runtime = FakeRuntime()
    runtime.reason = "no GPU"
    assert reason("no_such:f", min_compute_capability="10.0", runtime=runtime) == "no GPU"


def test_cubins_are_looked_for_before_the_call(monkeypatch, tmp_path):
    flashinfer = types.ModuleType("flashinfer")
    flashinfer.trtllm_something = lambda: None
    monkeypatch.setitem(sys.modules, "flashinfer", flashinfer)
    monkeypatch.setenv("FLASHINFER_CUBIN_DIR", str(tmp_path))
    monkeypatch.delenv(resolve.ALLOW_DOWNLOADS, raising=False)
    assert "flashinfer-cubin is not installed" in reason("flashinfer:trtllm_something")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "k.cubin").touch()
    wanted = Wanted((Provider("flashinfer:trtllm_something"),))
    assert resolve.resolve(wanted, FakeRuntime()).attribute == "trtllm_something"


def test_downloads_are_refused_at_once(monkeypatch):
    loader = types.ModuleType("flashinfer.jit.cubin_loader")
    loader.download_file = lambda *args: pytest.fail("it went to the network")
    monkeypatch.setitem(sys.modules, "flashinfer.jit.cubin_loader", loader)
    monkeypatch.delenv("FLASHINFER_NO_DOWNLOAD", raising=False)
    resolve.refuse_downloads()
    with pytest.raises(RuntimeError, match="downloads are refused") as caught:
        loader.download_file("https://example.org/a.cubin", "/tmp/a")
    assert resolve.missing_piece(caught.value).startswith("the kernel cannot be built here")


def test_operators_of_torch():
    pytest.importorskip("torch")
    kernel = resolve.resolve(Wanted((Provider("torch.ops.aten:add.Tensor", requires="torch"),)), FakeRuntime())
    assert kernel.package == "torch"
    assert "has no torch.ops.aten.no_such_op" in reason(Provider("torch.ops.aten:no_such_op", requires="torch"))


@pytest.mark.parametrize(
    "text",
    [
        "Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist",
        "[Errno 2] No such file or directory: 'ninja'",
        "Artifact not found locally: x. FLASHINFER_NO_DOWNLOAD is set",
    ],
)
def test_a_missing_compiler_is_not_a_failure(text):
    assert resolve.missing_piece(RuntimeError(text))


def test_other_errors_are_failures():
    assert resolve.missing_piece(RuntimeError("CUDA error: an illegal memory access was encountered")) is None
