"""The script as a module: what it finds when it imports, and what is put in torch's place."""

import contextlib
import importlib
import importlib.machinery
import os
import sys
import types

import torch

from roofbench.verify.branches import MARK
from roofbench.verify.seal import Seal
from roofbench.verify.stack import PACKAGES
from roofbench.verify.surroundings import Surroundings, foreign_imports


def prepare_imports(job):
    """The script's folder first on the path, and no module of the bundle left from before."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("bench_utils", "benchlib", "references"):
            del sys.modules[name]
    sys.path[:] = [str(job.bundle)] + [p for p in sys.path if p != str(job.bundle)]
    loader = importlib.machinery.SourceFileLoader
    real = loader.source_to_code

    def source_to_code(self, data, path, **more):
        return job.code.get((path, bytes(data))) or real(self, data, path, **more)

    loader.source_to_code = source_to_code
    os.fsync = lambda descriptor: None


def patch_torch(session, torch):
    """torch.tensor passes through the CPU, so that values can be followed to meta; synchronisation is recorded."""
    real = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}

    def through_cpu(name):
        def make(data, *args, device=None, **kwargs):
            if device is not None and torch.device(device).type == "meta" and not isinstance(data, torch.Tensor):
                return real[name](data, *args, **kwargs).to("meta")
            return real[name](data, *args, device=device, **kwargs)

        return make

    for name in real:
        setattr(torch, name, through_cpu(name))

    def synchronize(*args, **kwargs):
        if session.in_call:
            session.on_event("sync", "torch.cuda.synchronize() waits for the device")

    torch.cuda.synchronize = synchronize
    shown = torch.Tensor.__repr__

    def show(self, **kwargs):
        if session.in_call:
            session.on_event("sync", "a tensor is printed, which copies it to the host")
            return "tensor(...)"
        return shown(self, **kwargs)

    torch.Tensor.__repr__ = show
    if "torch._dynamo" not in sys.modules:
        # Some operators on meta ask the compiler to stay away, which imports it (1.5 s) first.
        compiler = types.ModuleType("torch._dynamo")
        compiler.disable = lambda fn, *args, **kwargs: fn
        sys.modules["torch._dynamo"] = torch._dynamo = compiler


def load(session):
    """The script as a module, or None with a finding."""
    source = session.source
    module = types.ModuleType(f"bench_{session.job.spec['kernel']}")
    module.__file__ = source.path
    sys.modules[module.__name__] = module
    session.report.passed("imports.name")
    with contextlib.suppress(Exception):  # the script's own import says what is wrong
        importlib.import_module("bench_utils")
    with contextlib.suppress(ImportError):
        importlib.import_module(f"references.{session.job.spec['catalogue']}")
    check_imports(session)
    session.surroundings = Surroundings(source.path, session.folder)
    session.surroundings.answer_for_the_gpu(session, torch)
    session.seal = Seal(session.stack)
    module.__dict__[MARK] = session.job.marks.mark
    try:
        exec(compile(session.job.marks.tree, source.path, "exec"), module.__dict__)
    except ImportError as error:
        name = str(getattr(error, "name", "") or "")
        stack = f"config/stacks/{session.stack_name}.json" if name.split(".")[0] in PACKAGES else ""
        wanted = f"a name that the stack {session.stack_name} has" if stack else "a name that exists"
        session.fail("imports.name", source.line_of(error), "an import fails", error, wanted, stack)
        return None
    except SystemExit as error:
        session.fail(
            "output.exit",
            source.line_of(error),
            "importing the script ends the process",
            f"SystemExit({error.code})",
            "a module that can be imported",
        )
        return None
    except Exception as error:
        session.script_error(error, "importing the script raises", "imports.load")
        return None
    runtime = sys.modules.get("benchlib.runtime")
    if getattr(runtime, "_current", None) is not None:
        session.fail(
            "output.isolation",
            source.called("set_runtime", None).line,
            "the script installs a runtime of its own",
            type(runtime._current).__name__,
            "the GPU's, or the one that the caller chose",
        )
    return module


def check_imports(session):
    """Nothing is imported but what every GPU machine has and the stamp covers."""
    session.report.passed("imports.module")
    for line, name in foreign_imports(session.source):
        session.fail(
            "imports.module",
            line,
            "an import",
            name,
            "modules of Python, torch, the stack's packages and the bundle: the stamp covers no other file",
        )
