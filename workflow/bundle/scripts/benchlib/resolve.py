"""Find the function that serves a kernel, or say precisely why there is none. No kernel is called here.

Everything that can be known beforehand is decided beforehand: some kernels hang for minutes on the wrong GPU, or
while they look for GPU code on a network that is not there.
"""

import importlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path

from benchlib import stack
from benchlib.torch_or_none import torch

ALLOW_DOWNLOADS = "ROOFBENCH_ALLOW_DOWNLOADS"

# Parameters by which packages are asked for programmatic dependent launch.
PDL_PARAMETERS = ("enable_pdl", "launch_with_pdl", "use_pdl", "pdl")


class Unavailable(Exception):
    """The kernel cannot run here; the message is the reason, in one line."""


class Kernel:
    """A function that was found: calling it calls the function.

    target    "module:attribute", as the provider says
    module    the module's name
    package, package_version    the distribution it came from, None where metadata do not say
    pdl       what the first call asked for (see asked_for_pdl), None before it
    """

    def __init__(self, provider, function):
        self.target = provider.target
        self.module, _, self.attribute = provider.target.partition(":")
        owner = provider.requires if self.module.startswith("torch.ops") and provider.requires else self.module
        self.package, self.package_version = stack.distribution_of(owner, provider.package)
        self.function = function
        self.pdl = None

    def __call__(self, *args, **kwargs):
        if self.pdl is None:
            self.pdl = asked_for_pdl(self.function, args, kwargs)
        return self.function(*args, **kwargs)

    def as_record(self):
        return {"target": self.target, "package": self.package, "version": self.package_version}


def asked_for_pdl(function, args, kwargs):
    """Whether a call asks for programmatic dependent launch, in which a kernel begins before the one ahead has ended.

    "on" or "off"; "default" where the function decides itself; "no parameter" where it cannot be asked.
    """
    schema = getattr(function, "_schema", None)  # of an operator that is registered with torch
    try:
        if schema is not None:
            given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
            defaults = {argument.name: argument.default_value for argument in schema.arguments}
        else:
            signature = inspect.signature(function)
            given = signature.bind_partial(*args, **kwargs).arguments | kwargs
            defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    except (TypeError, ValueError):  # a function of a compiled module shows no signature
        given, defaults = kwargs, {}
    for name in PDL_PARAMETERS:
        if name in given or name in defaults:
            value = given.get(name, defaults.get(name))
            return ("on" if value else "off") if isinstance(value, (bool, int)) else "default"
    return "no parameter"


def resolve(benchmark, runtime):
    """The Kernel of the first provider that is there. Raises Unavailable with the reasons of all of them."""
    reason = runtime.unavailable() or wrong_architecture(benchmark, runtime.properties())
    if reason:
        raise Unavailable(reason)
    refuse_downloads()
    reasons = []
    for provider in benchmark.providers:
        try:
            return Kernel(provider, _function(provider))
        except Unavailable as error:
            reasons.append(str(error))
    raise Unavailable("; ".join(dict.fromkeys(reasons)) or f"no provider is known for source {benchmark.source}")


def wrong_architecture(benchmark, properties):
    """Why the device's architecture rules the kernel out, or None."""
    have = tuple(properties.compute_capability)
    shown = f"{properties.name} has {have[0]}.{have[1]}"
    exact = [_version(text) for text in benchmark.compute_capabilities or ()]
    if exact and have not in exact:
        return f"needs compute capability {' or '.join(benchmark.compute_capabilities)}, {shown}"
    least = benchmark.min_compute_capability
    if least and have < _version(least):
        return f"needs compute capability {least} or newer, {shown}"
    return None


def _version(text):
    major, _, minor = str(text).partition(".")
    return int(major), int(minor or 0)


def _function(provider):
    module_name, _, attribute = provider.target.partition(":")
    if provider.requires:
        _import(provider.requires, provider)
    if module_name.startswith("torch.ops.") and module_name not in sys.modules:
        found, path = torch, f"{module_name.removeprefix('torch.')}.{attribute}"
    else:
        found, path = _import(module_name, provider), attribute
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except (AttributeError, RuntimeError):
            raise Unavailable(f"{_shown(provider)} has no {provider.target.replace(':', '.')}") from None
    if _wants_cubins(module_name, attribute) and not _cubins_present() and not downloads_allowed():
        raise Unavailable(
            f"{attribute} needs NVIDIA's cubins: flashinfer-cubin is not installed, FLASHINFER_CUBIN_DIR holds none, "
            f"and downloads are refused unless {ALLOW_DOWNLOADS}=1"
        )
    return found


def _import(name, provider):
    top = name.partition(".")[0]
    if top not in sys.modules:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            raise Unavailable(f"package {provider.package or _SHOWN.get(top, top)} is not installed")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise Unavailable(f"{_shown(provider)} has no module {name}") from None
        raise Unavailable(
            f"importing {name} of {_shown(provider)} needs {error.name}, which is not installed"
        ) from None
    except Exception as error:
        # Packages with compiled parts raise anything at all here: OSError, RuntimeError, AssertionError.
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise Unavailable(f"importing {name} of {_shown(provider)} fails: {type(error).__name__}: {first}") from None
    refuse_downloads()
    return module


_SHOWN = {"sgl_kernel": "sgl_kernel (sgl-kernel or sglang-kernel)", "flashinfer": "flashinfer (flashinfer-python)"}


def _shown(provider):
    owner = provider.requires if provider.target.startswith("torch.ops") and provider.requires else provider.target
    package, version = stack.distribution_of(owner.partition(":")[0], provider.package)
    return f"{package} {version}" if package else owner.partition(":")[0].partition(".")[0]


def _wants_cubins(module_name, attribute):
    """flashinfer's trtllm_ functions are launchers of GPU code that NVIDIA distributes apart."""
    return module_name.partition(".")[0] == "flashinfer" and attribute.startswith("trtllm_")


def _cubins_present():
    if "flashinfer_cubin" in sys.modules or importlib.util.find_spec("flashinfer_cubin"):
        return True
    base = Path(os.environ.get("FLASHINFER_WORKSPACE_BASE") or Path.home())
    folder = Path(os.environ.get("FLASHINFER_CUBIN_DIR") or base / ".cache" / "flashinfer" / "cubins")
    return folder.is_dir() and next(folder.rglob("*.cubin"), None) is not None


def downloads_allowed():
    return os.environ.get(ALLOW_DOWNLOADS) == "1"


def refuse_downloads():
    """Make flashinfer fail at once instead of retrying for minutes on a host without network."""
    if downloads_allowed():
        return
    os.environ.setdefault("FLASHINFER_NO_DOWNLOAD", "1")
    loader = sys.modules.get("flashinfer.jit.cubin_loader")
    if loader is not None and hasattr(loader, "download_file"):
        loader.download_file = _refuse  # releases before 0.6.10 do not know the variable


def _refuse(source, *args, **kwargs):
    raise RuntimeError(f"{source} is not here, and downloads are refused unless {ALLOW_DOWNLOADS}=1")


_MISSING = re.compile(
    r"FLASHINFER_NO_DOWNLOAD is set|downloads are refused|MissingJITCache|JIT compilation is disabled"
    r"|(could not|cannot|can't|unable to) find .{0,20}nvcc|nvcc.{0,20}not found"
    r"|No such file or directory: '?\S*(nvcc|ninja)"
    r"|ninja.{0,30}(required|not found|is not installed)|CUDA_HOME environment variable is not set",
    re.IGNORECASE,
)


def missing_piece(error):
    """The reason, where an error of the first call says that a compiler or GPU code is missing; else None."""
    text = f"{type(error).__name__}: {error}"
    found = _MISSING.search(text)
    if not found:
        return None
    line = next((line for line in text.splitlines() if _MISSING.search(line)), found.group(0))
    return f"the kernel cannot be built here: {line.strip()[:200]}"
