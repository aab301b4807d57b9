"""Recorders in place of the kernel packages of one GPU stack.

From config/stacks/{stack}.json come modules that hold exactly the names of the real wheels. Functions bind their
arguments to the real signature, record the call and return what the layout contract says; a name that the stack
lacks raises the ImportError or AttributeError that it would raise there.
"""

import ast
import enum
import importlib.metadata
import inspect
import re
import sys
import types
from dataclasses import dataclass, field

PACKAGES = (
    "sgl_kernel",
    "flashinfer",
    "flashinfer_cubin",
    "sglang",
    "triton",
    "vllm",
    "deep_gemm",
    "flash_attn",
    "tvm_ffi",
)

DISTRIBUTIONS = {
    "sgl_kernel": ("sglang-kernel", "sgl-kernel"),
    "flashinfer": ("flashinfer-python",),
    "sglang": ("sglang",),
}


@dataclass
class Call:
    """One call of a recorded function: what was given, by parameter name, and the defaults of what was not."""

    target: str
    arguments: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    all_defaults: dict = field(default_factory=dict)
    error: str | None = None
    result: object = None


class Default:
    """A default that is an expression of the real module, kept as its text."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text

    def __eq__(self, other):
        return isinstance(other, Default) and other.text == self.text

    def __hash__(self):
        return hash(self.text)


def signature(text):
    """inspect.Signature of a recorded parameter list such as "(input, weight, eps=1e-06)"."""
    node = ast.parse(f"def f{text}: pass").body[0].args
    kinds = inspect.Parameter
    parameters = []

    def default(value):
        if value is None:
            return kinds.empty
        try:
            return ast.literal_eval(value)
        except ValueError:
            return Default(ast.unparse(value))

    positional = node.posonlyargs + node.args
    values = [None] * (len(positional) - len(node.defaults)) + node.defaults
    for index, (arg, value) in enumerate(zip(positional, values, strict=True)):
        kind = kinds.POSITIONAL_ONLY if index < len(node.posonlyargs) else kinds.POSITIONAL_OR_KEYWORD
        parameters.append(kinds(arg.arg, kind, default=default(value)))
    if node.vararg:
        parameters.append(kinds(node.vararg.arg, kinds.VAR_POSITIONAL))
    for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True):
        parameters.append(kinds(arg.arg, kinds.KEYWORD_ONLY, default=default(value)))
    if node.kwarg:
        parameters.append(kinds(node.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(parameters)


class RecordedClass:
    """Base of fake classes: an object with the fields that it was made with."""

    _target = ""
    _signature = inspect.Signature()

    def __init__(self, *args, **kwargs):
        bound = self._signature.bind(*args, **kwargs)
        self._given = dict(bound.arguments)
        bound.apply_defaults()
        self.__dict__.update(bound.arguments)


class Stack:
    """The fake packages of one stack.

    snapshot: the content of config/stacks/{name}.json. on_call(call) is asked for what a function returns.
    """

    def __init__(self, snapshot, on_call):
        self.name = snapshot["stack"]
        self.snapshot = snapshot
        self.on_call = on_call
        self.libraries = []
        self.made = {}  # (module, name): the recorder that stands there

    def has(self, target):
        """Whether "module:attr.attr" exists in this stack."""
        module, _, attribute = target.partition(":")
        if module.startswith("torch.ops."):
            namespace = module.removeprefix("torch.ops.")
            return attribute.split(".")[0] in self.snapshot["ops"].get(namespace, {})
        return attribute.split(".")[0] in self.snapshot["modules"].get(module, {})

    def signature_of(self, target):
        """Text of the recorded signature of a target, or None."""
        module, _, attribute = target.partition(":")
        if module.startswith("torch.ops."):
            return self.snapshot["ops"].get(module.removeprefix("torch.ops."), {}).get(attribute.split(".")[0])
        return self.snapshot["modules"].get(module, {}).get(attribute)

    def install(self):
        """Put the fake modules into sys.modules and the raw ops into torch.ops. Only ever done in a forked process."""
        import torch

        for name in list(sys.modules):
            if name.split(".")[0] in PACKAGES:
                del sys.modules[name]
        for name in sorted(self.snapshot["modules"]):
            self._module(name)
        for name, names in self.snapshot["modules"].items():
            sys.modules[name].__getattr__ = self._attributes(name, names)
        for namespace, ops in self.snapshot["ops"].items():
            library = torch.library.Library(namespace, "DEF")
            for schema in ops.values():
                library.define(schema)
            self.libraries.append(library)
        self._module("flashinfer_cubin")
        self._patch_metadata()

    def _module(self, name):
        if name in sys.modules:
            return sys.modules[name]
        module = types.ModuleType(name)
        module.__path__ = []
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(self._module(parent), leaf, module)
        else:
            for distribution in DISTRIBUTIONS.get(name, ()):
                if distribution in self.snapshot["versions"]:
                    module.__version__ = self.snapshot["versions"][distribution]
        sys.modules[name] = module
        return module

    def _attributes(self, module, names):
        """A module's __getattr__: recorders are made when they are asked for."""

        def attribute(name):
            if name not in names:
                raise AttributeError(f"module {module!r} has no attribute {name!r}")
            value = self._fake(f"{module}:{name}", names[name])
            setattr(sys.modules[module], name, value)
            self.made[module, name] = value
            return value

        return attribute

    def replaced(self):
        """Functions of the packages that are not the recorders any more, or that no package has."""
        found = []
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] not in PACKAGES or not isinstance(module, types.ModuleType):
                continue
            for attribute, value in list(vars(module).items()):
                if attribute.startswith("__") or isinstance(value, types.ModuleType):
                    continue
                known = attribute in self.snapshot["modules"].get(name, {})
                if self.made.get((name, attribute), self) is not value and (known or callable(value)):
                    found.append(f"{name}.{attribute}")
        return found

    def _fake(self, target, text):
        if text.startswith("enum"):
            return self._enum(target, text)
        if text.startswith("class "):
            namespace = {"_target": target, "_signature": signature(text.removeprefix("class "))}
            return type(target.rpartition(":")[2], (RecordedClass,), namespace)
        return self._function(target, signature(text))

    def _enum(self, target, text):
        members = []
        for name, value in re.findall(r"(\w+)=(.*?)(?= \w+=|$)", text):
            try:
                value = ast.literal_eval(value)
            except ValueError:
                value = len(members) + 1  # auto()
            members.append((name, value[0] if isinstance(value, tuple) else value))
        base = enum.IntEnum if all(isinstance(value, int) for _, value in members) else enum.Enum
        return base(target.rpartition(":")[2], members)

    def _function(self, target, bound_signature):
        def recorded(*args, **kwargs):
            call = Call(target)
            try:
                bound = bound_signature.bind(*args, **kwargs)
            except TypeError as error:
                call.error = str(error)
                self.on_call(call)
                raise TypeError(f"{target.replace(':', '.')}(): {error}") from None
            call.arguments = dict(bound.arguments)
            call.defaults = {
                name: p.default
                for name, p in bound_signature.parameters.items()
                if name not in bound.arguments and p.default is not p.empty
            }
            for name, parameter in bound_signature.parameters.items():
                if parameter.kind is parameter.VAR_KEYWORD and name in call.arguments:
                    call.arguments.update(call.arguments.pop(name))
            return self.on_call(call)

        recorded.__name__ = recorded.__qualname__ = target.rpartition(":")[2]
        recorded.__module__ = target.partition(":")[0]
        recorded.__signature__ = bound_signature
        recorded.roofbench_target = target
        return recorded

    def op_call(self, func, args, kwargs):
        """The Call of a raw operator that torch has bound already."""
        namespace, _, name = func._schema.name.partition("::")
        call = Call(f"torch.ops.{namespace}:{name}.{func._overloadname}")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            call.arguments[argument.name] = value
        call.arguments.update(kwargs)
        return call

    def _patch_metadata(self):
        versions = {name.replace("_", "-"): version for name, version in self.snapshot["versions"].items()}
        real = importlib.metadata.version
        owned = {d for names in DISTRIBUTIONS.values() for d in names} | {"flashinfer-cubin", "sgl-kernel", "triton"}

        def version(name):
            normal = name.replace("_", "-").lower()
            if normal in versions:
                return versions[normal]
            if normal in owned:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        importlib.metadata.version = version
