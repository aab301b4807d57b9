#!/usr/bin/env python3
"""Record the functions and signatures of a GPU stack's real wheels in a small JSON file.

Reads    the wheels of one stack (sgl-kernel or sglang-kernel, flashinfer-python, sglang) and `config/kernels/*.yaml`
Writes   `config/stacks/{stack}.json`

Nothing is imported from the wheels and nothing is unpacked: signatures come from their syntax trees, the schemas of
`torch.ops.sgl_kernel` from the strings of the compiled library. Recorded are names, parameters and defaults, nothing
else. Which modules are recorded: those that the catalogue's providers and helpers name, and the fixed list below.

    python scripts/snapshot_stack.py --stack cu12 --torch 2.9.1 sgl_kernel-*.whl flashinfer_python-*.whl sglang-*.whl

`--check` writes nothing and fails when the file differs from what the wheels say.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MODULES = (
    "sgl_kernel",
    "flashinfer",
    "flashinfer.activation",
    "flashinfer.autotuner",
    "flashinfer.concat_ops",
    "flashinfer.decode",
    "flashinfer.fused_moe",
    "flashinfer.gemm",
    "flashinfer.mla",
    "flashinfer.norm",
    "flashinfer.prefill",
    "flashinfer.rope",
    "sglang.jit_kernel.concat_mla",
    "sglang.jit_kernel.moe_fused_gate",
    "sglang.jit_kernel.norm",
    "sglang.jit_kernel.nvfp4",
    "sglang.jit_kernel.rope",
    "sglang.srt.layers.moe.fused_moe_triton.fused_moe",
    "sglang.srt.layers.moe.moe_runner",
    "sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe",
    "sglang.srt.layers.moe.topk",
    "sglang.srt.server_args",
)

# Branches that do not run on a CUDA machine.
OTHER_PLATFORMS = re.compile(r"TYPE_CHECKING|hip|darwin|npu|xpu|musa|hpu", re.I)
SCHEMA = re.compile(
    rb"([a-z_][a-z0-9_]*)\("
    rb"((?:Tensor|int|float|bool|str|SymInt|ScalarType)[^\x00()]*(?:\([a-z]!?\)[^\x00()]*)*)"
    rb"\)\s*->\s*([^\x00]{0,80})\x00"
)


class Wheels:
    """The Python modules of several wheels, by dotted name, and what each of them exports."""

    def __init__(self, paths):
        self.archives = [zipfile.ZipFile(p) for p in paths]
        self.files = {}
        self.versions = {}
        for archive in self.archives:
            for name in archive.namelist():
                if name.endswith(".dist-info/METADATA"):
                    text = archive.read(name).decode()
                    dist = re.search(r"^Name: (\S+)", text, re.M).group(1).replace("_", "-").lower()
                    self.versions[dist] = re.search(r"^Version: (\S+)", text, re.M).group(1)
                if name.endswith(".py"):
                    module = name[:-3].replace("/", ".")
                    module = module.removesuffix(".__init__")
                    self.files[module] = (archive, name)
        self.trees = {}
        self.names = {}

    def tree(self, module):
        if module not in self.trees:
            archive, name = self.files[module]
            self.trees[module] = ast.parse(archive.read(name))
        return self.trees[module]

    def exports(self, module):
        """Every name bound at the top of a module: {name: node or (module, name)}."""
        if module in self.names:
            return self.names[module]
        self.names[module] = found = {}
        is_package = self.files[module][1].endswith("__init__.py")
        self._bind(self.tree(module).body, module, is_package, found)
        return found

    def _bind(self, body, module, is_package, found):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        found[target.id] = node
            elif isinstance(node, ast.ImportFrom):
                self._bind_import(node, module, is_package, found)
            elif isinstance(node, ast.If):
                if not OTHER_PLATFORMS.search(ast.unparse(node.test)):
                    self._bind(node.body, module, is_package, found)
                self._bind(node.orelse, module, is_package, found)
            elif isinstance(node, ast.Try):
                self._bind(node.body, module, is_package, found)
            elif isinstance(node, ast.With):
                self._bind(node.body, module, is_package, found)

    def _bind_import(self, node, module, is_package, found):
        source = node.module or ""
        if node.level:
            base = module.split(".")
            base = base[: len(base) - node.level + (1 if is_package else 0)]
            source = ".".join([*base, source] if source else base)
        for alias in node.names:
            if alias.name == "*":
                if source in self.files:
                    names = self.exports(source)
                    public = self._all(source) or [n for n in names if not n.startswith("_")]
                    found.update({n: (source, n) for n in public if n in names})
            elif f"{source}.{alias.name}" not in self.files or alias.name in self._own(source):
                found[alias.asname or alias.name] = (source, alias.name)

    def _own(self, module):
        return self.exports(module) if module in self.files else {}

    def _all(self, module):
        for node in self.tree(module).body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                if isinstance(node.value, ast.List | ast.Tuple):
                    return [ast.literal_eval(e) for e in node.value.elts]
        return None

    def resolve(self, module, name, seen=()):
        """The definition that a name stands for, following imports between the wheels; None outside of them."""
        if module not in self.files or (module, name) in seen:
            return None
        target = self.exports(module).get(name)
        if isinstance(target, tuple):
            return self.resolve(*target, seen=(*seen, (module, name)))
        if target is None:
            return None
        return module, target


def parameters(arguments, skip_first=False):
    """A parameter list as text, without annotations."""
    plain = ast.arguments(
        posonlyargs=[ast.arg(a.arg) for a in arguments.posonlyargs],
        args=[ast.arg(a.arg) for a in arguments.args],
        vararg=arguments.vararg and ast.arg(arguments.vararg.arg),
        kwonlyargs=[ast.arg(a.arg) for a in arguments.kwonlyargs],
        kw_defaults=arguments.kw_defaults,
        kwarg=arguments.kwarg and ast.arg(arguments.kwarg.arg),
        defaults=arguments.defaults,
    )
    if skip_first:
        plain.args = plain.args[1:]
        plain.defaults = plain.defaults[-len(plain.args) :] if plain.args else []
    return f"({ast.unparse(plain)})"


def describe(node):
    """What a script can see of a definition: "(parameters)", "class (parameters)", "enum A=0 B=1" or None."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return parameters(node.args)
    if not isinstance(node, ast.ClassDef):
        return None
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return "class " + parameters(item.args, skip_first=True)
    if any("Enum" in ast.unparse(base) for base in node.bases):
        assigned = [item for item in node.body if isinstance(item, ast.Assign)]
        return "enum " + " ".join(f"{item.targets[0].id}={ast.unparse(item.value)}" for item in assigned)
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    required = [item.target.id for item in fields if item.value is None]
    optional = [f"{item.target.id}={field_default(item.value)}" for item in fields if item.value is not None]
    return f"class ({', '.join(required + optional)})"


def field_default(value):
    """Default of a dataclass field as text; `...` where it is made by a function."""
    text = ast.unparse(value)
    return "..." if "field(" in text or "\n" in text else text


def schemas(wheels):
    """Schemas of torch.ops.sgl_kernel, from the strings of the compiled library."""
    found = {}
    for archive in wheels.archives:
        libraries = [n for n in archive.namelist() if n.endswith("common_ops.abi3.so")]
        for library in libraries[:1]:
            data = archive.read(library)
            for match in SCHEMA.finditer(data):
                name, params, result = (part.decode() for part in match.groups())
                found[name] = f"{name}({params}) -> {result.strip() or '()'}"
    return dict(sorted(found.items()))


def named_by_catalogue(folder, stack):
    """Modules and (module, attribute) pairs that the catalogue's providers and helpers use on a stack."""
    import yaml

    modules, pairs = set(), set()
    for path in sorted(folder.glob("*.yaml")):
        entry = yaml.safe_load(path.read_text())
        for item in [*entry.get("providers", []), *entry.get("helpers", [])]:
            module, _, attribute = item["target"].partition(":")
            if module.startswith("torch.ops"):
                continue
            modules.add(module)
            if stack in item.get("stacks", [stack]):
                pairs.add((module, attribute.split(".")[0]))
    return modules, pairs


def snapshot(stack, torch_version, paths, catalogue):
    """The content of config/stacks/{stack}.json."""
    wheels = Wheels(paths)
    named, pairs = named_by_catalogue(catalogue, stack)
    modules = {}
    missing = [f"{m}:{a}" for m, a in sorted(pairs) if wheels.resolve(m, a) is None]
    for module in sorted({*MODULES, *named}):
        if module not in wheels.files:
            continue
        names = {}
        for name in sorted(wheels.exports(module)):
            target = wheels.resolve(module, name)
            if target is None or (name.startswith("_") and (module, name) not in pairs):
                continue
            entry = describe(target[1])
            if entry is not None:
                names[name] = entry
        modules[module] = names
    return {
        "schema_version": 1,
        "stack": stack,
        "versions": {"torch": torch_version, **dict(sorted(wheels.versions.items()))},
        "wheels": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths, key=lambda p: p.name)},
        "modules": modules,
        "ops": {"sgl_kernel": schemas(wheels)},
    }, missing


def dump(content):
    """JSON with a line for each recorded name, so that a new release reads well as a difference."""
    return json.dumps(content, indent=1) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--stack", required=True, help="name of the stack, as in the catalogue")
    parser.add_argument("--torch", required=True, help="torch version of the stack")
    parser.add_argument("--catalogue", type=Path, default=ROOT / "config" / "kernels")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    output = args.output or ROOT / "config" / "stacks" / f"{args.stack}.json"
    for path in args.wheels:
        if not path.is_file():
            parser.error(f"{path}: no such wheel")
    content, missing = snapshot(args.stack, args.torch, args.wheels, args.catalogue)
    for name in missing:
        print(f"{args.stack}: the catalogue names {name}, which the wheels do not have", file=sys.stderr)
    text = dump(content)
    if args.check:
        same = output.is_file() and output.read_text() == text
        print(f"{output}: {'as the wheels say' if same else 'differs from the wheels'}")
        return 0 if same else 1
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text)
    count = sum(len(names) for names in content["modules"].values())
    print(f"{output}: {count} names in {len(content['modules'])} modules, {len(content['ops']['sgl_kernel'])} raw ops")
    return 0


if __name__ == "__main__":
    sys.exit(main())
