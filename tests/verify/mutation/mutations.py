"""Realistic errors, one at a time, made in the syntax tree of a good benchmark script.

Each kind is a generator of (what was done, new source text) for one script. `Script` holds the tree and what the
kinds need to know about it. Formatting and comments are lost on the way, which the verifier must not mind.
"""

import ast
import copy
import re
from dataclasses import dataclass, field

KINDS = {}

DTYPES = {
    "bfloat16": "float16", "float16": "bfloat16", "float32": "bfloat16", "float8_e4m3fn": "float8_e5m2",
    "uint8": "int8", "int32": "int64", "int64": "int32",
}  # fmt: skip
MAKERS = ("normal", "uniform", "empty", "zeros", "full", "fp8", "nvfp4", "nvfp4_experts", "nvfp4_scales")


@dataclass
class Script:
    kernel: str
    text: str
    spec: dict
    entry: dict
    tree: ast.Module = field(init=False)

    def __post_init__(self):
        self.tree = ast.parse(self.text)
        self.plain = ast.unparse(self.tree)

    def function(self, name):
        return next((n for n in self.tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)

    def nodes(self, function, *types):
        root = self.function(function) if function else self.tree
        return [n for n in ast.walk(root) if isinstance(n, types)] if root else []

    def constant(self, name):
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
                return node
        return None

    def changed(self, node, change):
        """Source with `change(copy of node)` in place of node; change may edit in place (and return None)."""
        memo = {}
        tree = copy.deepcopy(self.tree, memo)
        target = memo[id(node)]
        new = change(target)
        if new is not None and new is not target:
            tree = _Replace(target, new).visit(tree)
        return ast.unparse(ast.fix_missing_locations(tree))

    def without(self, node):
        """Source without a statement or list element."""
        memo = {}
        tree = copy.deepcopy(self.tree, memo)
        target = memo[id(node)]
        for parent in ast.walk(tree):
            for _, value in ast.iter_fields(parent):
                if isinstance(value, list) and any(item is target for item in value):
                    value[:] = [item for item in value if item is not target] or (
                        [ast.Pass()] if isinstance(target, ast.stmt) else []
                    )
        return ast.unparse(ast.fix_missing_locations(tree))

    def kernel_calls(self):
        function = self.function("call_kernel")
        name = function.args.args[0].arg
        return [n for n in ast.walk(function) if isinstance(n, ast.Call) and getattr(n.func, "id", None) == name]

    def makers(self):
        """Calls in make_inputs that make a tensor of a given shape."""
        found = []
        for node in self.nodes("make_inputs", ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in MAKERS and node.args:
                found.append(node)
        return found

    def inputs(self):
        """(key, value node) of the dict that make_inputs returns."""
        for node in self.nodes("make_inputs", ast.Return):
            if isinstance(node.value, ast.Dict):
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    if isinstance(key, ast.Constant):
                        yield key, value


class _Replace(ast.NodeTransformer):
    def __init__(self, target, new):
        self.target, self.new = target, new

    def visit(self, node):
        return self.new if node is self.target else self.generic_visit(node)


def expr(text):
    return ast.parse(text, mode="eval").body


def stmt(text):
    return ast.parse(text).body[0]


def kind(function):
    KINDS[function.__name__.replace("_", "-")] = function
    return function


def mutants(script, only=None):
    """(kind, what was done, new text) of every mutant, or of those of one kind, that differs from the script."""
    for name, function in KINDS.items():
        if only not in (None, name):
            continue
        seen = set()
        for label, text in function(script):
            if text is None or text in seen or _same(text, script):
                continue
            seen.add(text)
            yield name, label, text


def _same(text, script):
    try:
        return ast.unparse(ast.parse(text)) == script.plain
    except SyntaxError:
        return False


# Shapes and layout.


@kind
def swapped_dimensions(s):
    for call in s.makers():
        shape = call.args[0]
        if isinstance(shape, ast.Tuple) and len(shape.elts) >= 2:
            for i in range(len(shape.elts) - 1):
                if ast.unparse(shape.elts[i]) != ast.unparse(shape.elts[i + 1]):

                    def swap(node, i=i):
                        elts = node.args[0].elts
                        elts[i], elts[i + 1] = elts[i + 1], elts[i]

                    yield f"dimensions {i} and {i + 1} of {ast.unparse(call)}", s.changed(call, swap)
        elif call.func.attr.startswith("nvfp4") and len(call.args) >= 2:

            def swap_args(node):
                node.args[-1], node.args[-2] = node.args[-2], node.args[-1]

            yield f"rows and columns of {ast.unparse(call)}", s.changed(call, swap_args)


@kind
def row_major_weight(s):
    for node in s.nodes("make_inputs", ast.Attribute):
        if node.attr in ("T", "mT"):
            yield (
                f"{ast.unparse(node)} made contiguous",
                s.changed(node, lambda n: expr(f"{ast.unparse(n)}.contiguous()")),
            )
            yield f"{ast.unparse(node)} without .T", s.changed(node, lambda n: n.value)
    for node in s.nodes("make_inputs", ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "transpose":
            yield "transpose made contiguous", s.changed(node, lambda n: expr(f"{ast.unparse(n)}.contiguous()"))
            yield "without transpose", s.changed(node, lambda n: n.func.value)


@kind
def transposed_tensor(s):
    """A tensor of the right shape, laid out the other way round."""
    for call in s.makers():
        shape = call.args[0]
        if call.func.attr in ("normal", "empty") and isinstance(shape, ast.Tuple) and len(shape.elts) == 2:

            def turn(node):
                node.args[0].elts.reverse()
                return expr(f"{ast.unparse(node)}.T")

            yield f"{ast.unparse(call)} column-major", s.changed(call, turn)


@kind
def wrong_dtype(s):
    for node in s.nodes("make_inputs", ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "torch" and node.attr in DTYPES:

            def other(n):
                n.attr = DTYPES[n.attr]

            yield f"torch.{node.attr} -> {DTYPES[node.attr]} in line {node.lineno}", s.changed(node, other)
    for call in s.makers():
        if call.func.attr == "normal" and not any(k.arg == "dtype" for k in call.keywords):
            yield (
                f"{ast.unparse(call)} in float16",
                s.changed(call, lambda n: n.keywords.append(ast.keyword("dtype", expr("torch.float16")))),
            )


@kind
def output_too_small(s):
    for key, value in s.inputs():
        if isinstance(value, ast.Call) and getattr(value.func, "attr", "") in ("empty", "zeros") and value.args:
            shape = value.args[0]
            for i in range(len(shape.elts) if isinstance(shape, ast.Tuple) else 0):
                if ast.unparse(shape.elts[i]) == "1":
                    continue

                def smaller(node, i=i):
                    node.args[0].elts[i] = expr(f"max(1, ({ast.unparse(node.args[0].elts[i])}) // 2)")

                yield f"{key.value}: half of dimension {i}", s.changed(value, smaller)


@kind
def one_too_few(s):
    """Off by one in a dimension of an input."""
    for call in s.makers():
        shape = call.args[0]
        for i in range(len(shape.elts) if isinstance(shape, ast.Tuple) else 0):

            def fewer(node, i=i):
                node.args[0].elts[i] = expr(f"({ast.unparse(node.args[0].elts[i])}) + 1")

            yield f"{ast.unparse(call)}: dimension {i} + 1", s.changed(call, fewer)


@kind
def unpacked_fp4(s):
    for node in s.nodes("make_inputs", ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("nvfp4", "nvfp4_experts"):

            def doubled(n):
                n.args[-1] = expr(f"2 * ({ast.unparse(n.args[-1])})")

            yield f"{ast.unparse(node)} with a byte an element", s.changed(node, doubled)


@kind
def scale_not_padded(s):
    for key, value in s.inputs():
        if "scale" in key.value and not isinstance(value, ast.Constant) and "fp4" in s.text:
            if isinstance(value, ast.Name | ast.Call):
                yield (
                    f"{key.value} cut to the rows",
                    s.changed(value, lambda n: expr(f"({ast.unparse(n)})[:point.T - 1]")),
                )
                yield (
                    f"{key.value} with a column less",
                    s.changed(value, lambda n: expr(f"({ast.unparse(n)})[..., :-1]")),
                )


@kind
def strided_input(s):
    """A column slice of a wider tensor where the kernel wants contiguous memory."""
    allowed = {a["name"] for a in s.entry["arguments"] if a.get("any_stride")}
    for key, value in s.inputs():
        if isinstance(value, ast.Call) and getattr(value.func, "attr", "") in ("normal", "empty") and value.args:
            shape = value.args[0]
            strided_ok = key.value in allowed or not isinstance(shape, ast.Tuple) or len(shape.elts) < 2
            if not strided_ok:

                def wider(node):
                    last = ast.unparse(node.args[0].elts[-1])
                    node.args[0].elts[-1] = expr(f"({last}) + 64")
                    return expr(f"{ast.unparse(node)}[..., :{last}]")

                yield f"{key.value} as a slice of a wider tensor", s.changed(value, wider)


@kind
def workspace_not_zeroed(s):
    for node in s.nodes(None, ast.Attribute):
        if node.attr == "zeros":

            def empty(n):
                n.attr = "empty"

            yield f"zeros -> empty in line {node.lineno}", s.changed(node, empty)


@kind
def uninitialised_input(s):
    for call in s.makers():
        if call.func.attr == "normal":

            def empty(node):
                dtype = next((ast.unparse(k.value) for k in node.keywords if k.arg == "dtype"), "torch.bfloat16")
                return expr(f"rng.empty({ast.unparse(node.args[0])}, {dtype})")

            yield f"{ast.unparse(call)} never filled", s.changed(call, empty)


@kind
def left_on_the_host(s):
    for node in s.nodes("make_inputs", ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "index":
            yield f"{ast.unparse(node)} not moved", s.changed(node, lambda n: n.args[0])


@kind
def shared_memory(s):
    """Two arguments in the same memory."""
    pairs = [(k, v) for k, v in s.inputs() if isinstance(v, ast.Call) and getattr(v.func, "attr", "") == "empty"]
    for (key, value), (_, other) in zip(pairs, pairs[1:], strict=False):
        if ast.dump(value) == ast.dump(other):
            text = s.plain
            name = key.value
            yield (
                f"{name} twice",
                text.replace("    return {", f"    _one = {ast.unparse(value)}\n    return {{", 1).replace(
                    ast.unparse(value) + ",", "_one,"
                )
                if text.count(ast.unparse(value)) >= 2
                else None,
            )


# Values.


@kind
def all_tokens_to_one_expert(s):
    for node in s.nodes("make_inputs", ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "routing":
            yield (
                "every id is the last expert",
                s.changed(node, lambda n: expr(f"torch.full_like({ast.unparse(n)}, op.E - 1)")),
            )
            yield (
                "every token has the same experts",
                s.changed(node, lambda n: expr(f"({ast.unparse(n)})[:1].repeat(point.T, 1)")),
            )
            yield "ids beyond the experts", s.changed(node, lambda n: expr(f"({ast.unparse(n)}) + 1"))


@kind
def duplicate_pages(s):
    for node in s.nodes("make_inputs", ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "page_table":
            yield "all pages the same", s.changed(node, lambda n: expr(f"torch.zeros_like({ast.unparse(n)})"))
            yield "pages of half the pool", s.changed(node, lambda n: expr(f"({ast.unparse(n)}) // 2"))
            yield "pages beyond the pool", s.changed(node, lambda n: expr(f"({ast.unparse(n)}) + 1"))


@kind
def wrong_lengths(s):
    for node in s.nodes("make_inputs", ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("lengths", "cumulative"):
            yield f"{ast.unparse(node)} half as long", s.changed(node, lambda n: expr(f"({ast.unparse(n)}) // 2"))
            yield f"{ast.unparse(node)} longer", s.changed(node, lambda n: expr(f"({ast.unparse(n)}) + 1"))


@kind
def wrong_offsets(s):
    for node in s.nodes("make_inputs", ast.Call):
        text = ast.unparse(node.func)
        if text in ("moe.expert_offsets", "moe.blockscale_offsets"):
            other = {"moe.expert_offsets": "moe.blockscale_offsets", "moe.blockscale_offsets": "moe.expert_offsets"}[
                text
            ]

            def swap(n, other=other):
                n.func = expr(other)

            yield f"{text} -> {other}", s.changed(node, swap)
            yield f"{text} shifted by one row", s.changed(node, lambda n: expr(f"({ast.unparse(n)}) + 1"))
        elif text == "moe.problem_sizes" and len(node.args) == 4:

            def swapped(n):
                n.args[2], n.args[3] = n.args[3], n.args[2]

            yield "N and K of the problem sizes swapped", s.changed(node, swapped)
    for node in s.nodes("make_inputs", ast.Subscript):
        if "offsets" in ast.unparse(node.value) and isinstance(node.slice, ast.Slice):
            yield f"{ast.unparse(node)} whole", s.changed(node, lambda n: n.value)
            yield (
                f"{ast.unparse(node)} from the other end",
                s.changed(node, lambda n: expr(f"{ast.unparse(n.value)}[1:]")),
            )


@kind
def wrong_permutation(s):
    for node in s.nodes("make_inputs", ast.Call):
        text = ast.unparse(node.func)
        if text.endswith(("permutation", "permutations")):
            if text.startswith("rng"):
                yield (
                    f"{ast.unparse(node)} all zero",
                    s.changed(node, lambda n: expr(f"torch.zeros_like({ast.unparse(n)})")),
                )
            else:
                yield (
                    f"{ast.unparse(node)} in the other order",
                    s.changed(node, lambda n: expr(f"({ast.unparse(n)})[::-1]")),
                )


@kind
def wrong_count(s):
    """A size that is passed as a number is one off."""
    for key, value in s.inputs():
        if re.search(r"num_|topk|top_k|size|batch|max_", key.value) and not isinstance(value, ast.Dict):
            text = ast.unparse(value)
            if "rng" in text or "torch" in text or "weights" in text:
                continue
            yield f"{key.value} + 1", s.changed(value, lambda n: expr(f"({ast.unparse(n)}) + 1"))
            if "+ 1" in text:
                yield f"{key.value} without + 1", s.changed(value, lambda n: expr(ast.unparse(n).replace(" + 1", "")))


# The call.


@kind
def missing_argument(s):
    for call in s.kernel_calls():
        for i, arg in enumerate(call.args):
            if not isinstance(arg, ast.Starred):
                yield f"without positional argument {i}", s.changed(call, lambda n, i=i: n.args.pop(i) and None)
        for i, keyword in enumerate(call.keywords):
            yield f"without {keyword.arg}", s.changed(call, lambda n, i=i: n.keywords.pop(i) and None)


@kind
def swapped_arguments(s):
    for call in s.kernel_calls():
        for i in range(len(call.args) - 1):
            if ast.dump(call.args[i]) != ast.dump(call.args[i + 1]):

                def swap(n, i=i):
                    n.args[i], n.args[i + 1] = n.args[i + 1], n.args[i]

                yield f"positional arguments {i} and {i + 1}", s.changed(call, swap)
        for i in range(len(call.keywords) - 1):
            if ast.dump(call.keywords[i].value) != ast.dump(call.keywords[i + 1].value):

                def swap_keywords(n, i=i):
                    a, b = n.keywords[i], n.keywords[i + 1]
                    a.value, b.value = b.value, a.value

                pair = f"{call.keywords[i].arg} and {call.keywords[i + 1].arg}"
                yield f"values of {pair}", s.changed(call, swap_keywords)


@kind
def misspelt_argument(s):
    for call in s.kernel_calls():
        for i, keyword in enumerate(call.keywords):

            def misspell(n, i=i):
                n.keywords[i].arg += "s"

            yield f"{keyword.arg}s", s.changed(call, misspell)


@kind
def misspelt_key(s):
    for node in s.nodes("call_kernel", ast.Subscript):
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):

            def misspell(n):
                n.slice.value += "_"

            yield f"x[{node.slice.value!r}]", s.changed(node, misspell)


@kind
def wrong_scalar(s):
    for call in s.kernel_calls():
        owner = {id(keyword.value): f" ({keyword.arg})" for keyword in call.keywords}
        for node in ast.walk(call):
            if isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):

                def other(n):
                    n.value = (not n.value) if isinstance(n.value, bool) else n.value * 2 + 1

                yield f"{node.value} in the call{owner.get(id(node), '')}", s.changed(node, other)
            elif isinstance(node, ast.Name) and node.id.isupper():
                yield f"{node.id} in the call", s.changed(node, lambda n: expr(f"{n.id} * 2 + 1"))
    for node in s.tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.targets[0].id.isupper():
            value = node.value.value
            if type(value) in (int, float) and re.search(rf"\b{node.targets[0].id}\b", _body(s, "call_kernel")):

                def double(n):
                    n.value.value = n.value.value * 2

                yield f"{node.targets[0].id} doubled", s.changed(node, double)
    for key, value in s.inputs():
        if "scale" in key.value or key.value in ("eps", "is_neox", "block_size"):
            text = ast.unparse(value)
            if "rng" not in text and "torch" not in text and isinstance(value, ast.BinOp | ast.Constant | ast.Name):
                if isinstance(value, ast.Constant) and isinstance(value.value, bool):
                    yield f"{key.value} negated", s.changed(value, lambda n: expr(f"not {ast.unparse(n)}"))
                elif not isinstance(value, ast.Name) or value.id.isupper():
                    yield f"{key.value} doubled", s.changed(value, lambda n: expr(f"2 * ({ast.unparse(n)})"))


def _body(s, name):
    return ast.unparse(s.function(name))


@kind
def allocation_in_the_call(s):
    for call in s.kernel_calls():
        for i, keyword in enumerate(call.keywords):
            if isinstance(keyword.value, ast.Subscript) and not re.search(
                "scale$|size|len|num|batch|top_k", keyword.arg or ""
            ):

                def clone(n, i=i):
                    n.keywords[i].value = expr(f"{ast.unparse(n.keywords[i].value)}.clone()")

                yield f"{keyword.arg} cloned", s.changed(call, clone)
        for i, arg in enumerate(call.args):
            if isinstance(arg, ast.Subscript) and "params" not in ast.unparse(arg):

                def clone_arg(n, i=i):
                    n.args[i] = expr(f"{ast.unparse(n.args[i])}.clone()")

                yield f"positional argument {i} cloned", s.changed(call, clone_arg)
    function = s.function("call_kernel")

    def scratch(n):
        n.body.insert(
            1,
            stmt(
                "scratch = torch.zeros((16,), device='cpu' if False else next("
                "v.device for v in x.values() if isinstance(v, torch.Tensor)))"
            ),
        )

    yield "a scratch tensor", s.changed(function, scratch)


@kind
def synchronised_call(s):
    function = s.function("call_kernel")
    yield "torch.cuda.synchronize()", s.changed(function, lambda n: n.body.insert(1, stmt("torch.cuda.synchronize()")))
    first = "next(v for v in x.values() if isinstance(v, torch.Tensor))"
    yield "a value read back", s.changed(function, lambda n: n.body.insert(1, stmt(f"{first}.flatten()[0].item()")))
    yield "a copy to the host", s.changed(function, lambda n: n.body.insert(1, stmt(f"{first}.cpu()")))


@kind
def called_twice(s):
    for call in s.kernel_calls():
        yield "the kernel is called twice", s.changed(call, lambda n: expr(f"({ast.unparse(n)}, {ast.unparse(n)})[1]"))


@kind
def never_called(s):
    for call in s.kernel_calls():
        yield "the kernel is not called", s.changed(call, lambda n: ast.Constant(None))


@kind
def result_dropped(s):
    for node in s.nodes("call_kernel", ast.Return):
        if s.entry.get("returns") and node.value is not None:
            yield "call_kernel returns nothing", s.changed(node, lambda n: ast.Expr(n.value))


# Imports.


@kind
def wrong_provider(s):
    for node in s.nodes(None, ast.Call):
        if getattr(node.func, "id", "") == "Provider" and node.args:
            target = node.args[0].value
            module, _, name = target.partition(":")
            for other in (
                f"{module}:{name}s",
                f"{module}s:{name}",
                "flashinfer.norm:rmsnorm",
                "sgl_kernel:silu_and_mul_",
            ):
                if other != target:

                    def change(n, other=other):
                        n.args[0].value = other

                    yield f"{target} -> {other}", s.changed(node, change)


@kind
def provider_missing(s):
    node = s.constant("PROVIDERS")
    for item in node.value.elts:
        yield f"without {ast.unparse(item)}", s.without(item)


@kind
def wrong_import(s):
    for node in s.nodes(None, ast.ImportFrom):
        for i, alias in enumerate(node.names):
            if node.module == "bench_utils" and alias.name in ("Op", "torch"):
                continue

            def misspell(n, i=i):
                n.names[i] = ast.alias(n.names[i].name + "_v2", n.names[i].asname or n.names[i].name)

            yield f"from {node.module} import {alias.name}_v2", s.changed(node, misspell)


@kind
def wrong_helper(s):
    for node in s.nodes("make_inputs", ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id in ("moe", "paged", "nvfp4") and node.attr.islower():

            def misspell(n):
                n.attr += "_"

            yield f"{ast.unparse(node)}_", s.changed(node, misspell)


@kind
def workspace_size_wrong(s):
    """A size that is asked for with arguments in the wrong position, or for another number of requests or splits."""
    for node in s.nodes("make_inputs", ast.Call):
        if getattr(node.func, "id", "") == "cutlass_mla_get_workspace_size":
            name = node.func.id
            length, batch = (ast.unparse(a) for a in node.args[:2])
            splits = ast.unparse(node.keywords[0].value)
            for arguments in (
                f"{length}, {batch}, {splits}",
                f"{batch}, {length}, num_kv_splits={splits}",
                f"{length}, 1, num_kv_splits={splits}",
                f"{length}, {batch}, num_kv_splits=0",
                f"{length}, {batch}, num_kv_splits=2 * {splits}",
                f"{length}, {batch}, 148, {splits}",
                f"{length} - PAGE, {batch}, num_kv_splits={splits}",
            ):
                yield f"{name}({arguments})", s.changed(node, lambda n, a=arguments, f=name: expr(f"{f}({a})"))
            yield "num_kv_splits left out", s.changed(node, lambda n: n.keywords.clear())
            yield "a size of one's own", s.changed(node, lambda n, b=batch: expr(f"{b} * 128 * 512 * 4"))
    for node in s.nodes("call_kernel", ast.keyword):
        if node.arg == "num_kv_splits":
            yield "a call with more splits", s.changed(node.value, lambda n: expr(f"4 * ({ast.unparse(n)})"))
    for key, value in s.inputs():
        if "workspace" in key.value and "empty" in ast.unparse(value):
            yield f"{key.value} halved", s.changed(value, lambda n: expr(f"({ast.unparse(n)})[::2]"))
            yield f"{key.value} cut", s.changed(value, lambda n: expr(f"({ast.unparse(n)})[:1 << 14]"))


# Cost.


def _cost_keyword(s, name):
    for node in s.nodes("cost", ast.Call):
        if getattr(node.func, "id", "") == "Cost":
            for keyword in node.keywords:
                if keyword.arg == name:
                    yield keyword


@kind
def all_experts_charged(s):
    for node in s.nodes("cost", ast.Assign):
        if "active_experts" in ast.unparse(node.value):
            yield "experts = op.E", s.changed(node.value, lambda n: expr("op.E"))
            yield "experts = op.topk", s.changed(node.value, lambda n: expr("op.topk"))
    function = s.function("active_experts")
    if function and "active_experts" in ast.unparse(_body_node(s, "cost")):
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and "x[" in ast.unparse(node):
                yield "active experts counted as E", s.changed(node.value, lambda n: expr("op.E"))
    for key, value in s.inputs():
        if key.value == "active_experts":
            yield "the count is E", s.changed(value, lambda n: expr("op.E"))


def _body_node(s, name):
    return s.function(name)


@kind
def wrong_element_size(s):
    for keyword in _cost_keyword(s, "bytes"):
        for node in ast.walk(keyword.value):
            if isinstance(node, ast.Constant) and node.value in (2, 4, 8):

                def other(n):
                    n.value = {2: 4, 4: 2, 8: 4}[n.value]

                yield f"{node.value} bytes -> {({2: 4, 4: 2, 8: 4})[node.value]}", s.changed(node, other)


@kind
def bytes_forgotten(s):
    for keyword in _cost_keyword(s, "bytes"):
        for node in ast.walk(keyword.value):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
                yield f"without {ast.unparse(node.right)}", s.changed(node, lambda n: n.left)
                yield f"without {ast.unparse(node.left)}", s.changed(node, lambda n: n.right)


@kind
def bytes_padded(s):
    for keyword in _cost_keyword(s, "bytes"):
        yield "intermediates counted", s.changed(keyword.value, lambda n: expr(f"({ast.unparse(n)}) + 2 * point.T"))
        yield "bytes twice", s.changed(keyword.value, lambda n: expr(f"2 * ({ast.unparse(n)})"))


@kind
def factor_in_flops(s):
    for keyword in _cost_keyword(s, "flops"):
        text = ast.unparse(keyword.value)
        if text == "0":
            yield "some FLOPs", s.changed(keyword.value, lambda n: expr("point.T"))
        else:
            yield "twice the FLOPs", s.changed(keyword.value, lambda n: expr(f"2 * ({ast.unparse(n)})"))
            yield "half the FLOPs", s.changed(keyword.value, lambda n: expr(f"({ast.unparse(n)}) // 2"))
            yield (
                "FLOPs without a dimension",
                s.changed(keyword.value, lambda n: expr(f"({ast.unparse(n)}) // max(2, point.T)")),
            )
            yield (
                "causal pairs as a full square",
                (
                    s.changed(keyword.value, lambda n: expr(ast.unparse(n).replace("(S + 1)", "2 * S")))
                    if "(S + 1)" in text
                    else None
                ),
            )


@kind
def giga_for_mega(s):
    for name in ("flops", "bytes"):
        for keyword in _cost_keyword(s, name):
            if ast.unparse(keyword.value) != "0":
                yield f"{name} in thousands", s.changed(keyword.value, lambda n: expr(f"({ast.unparse(n)}) / 1000"))


@kind
def wrong_peak(s):
    node = s.constant("COMPUTE_DTYPE")
    for dtype in ("fp4", "fp8", "bf16"):
        if dtype != node.value.value:

            def change(n, dtype=dtype):
                n.value.value = dtype

            yield f"COMPUTE_DTYPE = {dtype}", s.changed(node, change)
    for call in s.nodes(None, ast.keyword):
        if call.arg == "compute_dtype":
            other = "fp8" if node.value.value != "fp8" else "bf16"
            yield f"compute_dtype={other}", s.changed(call.value, lambda n, o=other: ast.Constant(o))


@kind
def wrong_columns(s):
    for node in s.nodes("columns", ast.Return):
        if isinstance(node.value, ast.Tuple):
            for i in range(2):
                if ast.dump(node.value.elts[i]) != ast.dump(node.value.elts[i + 1]):

                    def swap(n, i=i):
                        elts = n.value.elts
                        elts[i], elts[i + 1] = elts[i + 1], elts[i]

                    yield f"columns {i} and {i + 1}", s.changed(node, swap)
            yield "M is B", s.changed(node.value.elts[0], lambda n: expr("point.B"))
            yield "N is 0", s.changed(node.value.elts[1], lambda n: expr("0"))


# Loops.


@kind
def first_three(s):
    for node in s.nodes("run_benchmarks", ast.Slice):
        if isinstance(node.upper, ast.Constant):
            for value in (3, 5):

                def change(n, value=value):
                    n.upper.value = value

                yield f"[:{value}]", s.changed(node, change)


@kind
def point_missing(s):
    for name in ("BATCH_SIZES", "SEQ_LENS", "KV_LENS"):
        node = s.constant(name)
        if node is not None and (name != "SEQ_LENS" or any(op["phase"] == "prefill" for op in s.spec["ops"])):
            yield f"{name} without its last", s.changed(node, lambda n: n.value.elts.pop() and None)
            yield f"{name} without its first", s.changed(node, lambda n: n.value.elts.pop(0) and None)
    ops = s.constant("OPS")
    for item in ops.value.elts:
        yield f"without {ast.unparse(item)[:40]}", s.without(item)
    for node in s.nodes("run_benchmarks", ast.Expr):
        if "run.measure" in ast.unparse(node):
            yield "B = 4 skipped", s.changed(node, lambda n: stmt(f"if B != 4:\n    {ast.unparse(n)}"))


@kind
def point_twice(s):
    for name in ("BATCH_SIZES", "KV_LENS"):
        node = s.constant(name)
        if node is not None:
            yield (
                f"{name} with its first twice",
                s.changed(node, lambda n: n.value.elts.insert(0, copy.deepcopy(n.value.elts[0]))),
            )
    ops = s.constant("OPS")
    yield "an op twice", s.changed(ops, lambda n: n.value.elts.append(copy.deepcopy(n.value.elts[0])))
    for node in s.nodes("run_benchmarks", ast.Expr):
        if "run.measure" in ast.unparse(node):
            yield "each point twice", s.changed(node, lambda n: stmt(f"for _ in range(2):\n    {ast.unparse(n)}"))


@kind
def point_too_many(s):
    for name in ("BATCH_SIZES", "KV_LENS"):
        node = s.constant(name)
        if node is not None:
            yield f"{name} with 256 more", s.changed(node, lambda n: n.value.elts.append(ast.Constant(4096)))


@kind
def decode_with_sequence(s):
    """Decode that counts B*S tokens."""
    for node in s.nodes("run_benchmarks", ast.ListComp):
        text = ast.unparse(node)
        if "(B, 1)" in text:
            yield "decode at S = 128", s.changed(node, lambda n: expr(ast.unparse(n).replace("(B, 1)", "(B, 128)")))
    for node in s.nodes("run_benchmarks", ast.keyword):
        if node.arg == "S" and isinstance(node.value, ast.Constant):
            yield "S is the KV length", s.changed(node.value, lambda n: expr("L"))
    if any(op["phase"] == "prefill" for op in s.spec["ops"]):
        for name in ("make_inputs", "cost", "columns"):
            for node in s.nodes(name, ast.Attribute):
                if ast.unparse(node) == "point.T":
                    yield f"{name}: T is B", s.changed(node, lambda n: expr("point.B"))


@kind
def phase_confused(s):
    for node in s.nodes("run_benchmarks", ast.Compare):
        if "decode" in ast.unparse(node):
            yield "the phases swapped", s.changed(node, lambda n: expr(ast.unparse(n).replace("==", "!=")))
    for node in s.nodes(None, ast.Call):
        if getattr(node.func, "id", "") == "Op" and len(node.args) == 2:
            other = "prefill" if node.args[1].value == "decode" else "decode"
            yield f"{node.args[0].value} in {other}", s.changed(node.args[1], lambda n, o=other: ast.Constant(o))


@kind
def arguments_ignored(s):
    branch = {}
    for comprehension in s.nodes("run_benchmarks", ast.ListComp):
        phase = "decode" if "(B, 1)" in ast.unparse(comprehension) else "prefill"
        branch.update({id(node): f" in {phase}" for node in ast.walk(comprehension)})
    for node in s.nodes("run_benchmarks", ast.Name):
        if node.id in ("batch_sizes", "seq_lens", "kv_lens") and isinstance(node.ctx, ast.Load):
            matters = node.id != "seq_lens" or any(op["phase"] == "prefill" for op in s.spec["ops"])
            if matters:
                label = f"{node.id} ignored{branch.get(id(node), '')}"
                yield label, s.changed(node, lambda n: expr(n.id.upper()))


@kind
def wrong_dimension(s):
    for node in s.nodes(None, ast.Call):
        if getattr(node.func, "id", "") == "Op":
            for i, keyword in enumerate(node.keywords):

                def change(n, i=i):
                    n.keywords[i].value = expr(f"{ast.unparse(n.keywords[i].value)} + 64")

                yield f"{node.args[0].value}: {keyword.arg} + 64", s.changed(node, change)


@kind
def wrong_label(s):
    for node in s.nodes(None, ast.Call):
        if getattr(node.func, "id", "") == "Op":
            yield f"{node.args[0].value} renamed", s.changed(node.args[0], lambda n: ast.Constant("self." + n.value))


@kind
def limit_ignored(s):
    function = s.function("not_applicable")
    if any(op.get("not_applicable") for op in s.spec["ops"]):
        yield "no limits", s.changed(function, lambda n: n.__setattr__("body", [stmt("return None")]))
        yield (
            "no reason",
            s.changed(function, lambda n: n.__setattr__("body", [stmt("return '' if point.T > 16 else None")])),
        )
    yield "everything refused", s.changed(function, lambda n: n.body.insert(1, stmt("return 'not today'")))
    yield (
        "one batch size refused",
        s.changed(function, lambda n: n.body.insert(1, stmt("if point.B == 2: return 'odd'"))),
    )


# The rest.


@kind
def wrong_kernel(s):
    yield (
        "KERNEL renamed",
        s.changed(s.constant("KERNEL"), lambda n: n.__setattr__("value", ast.Constant(s.kernel + "_fast"))),
    )
    yield "SOURCE renamed", s.changed(s.constant("SOURCE"), lambda n: n.__setattr__("value", ast.Constant("vllm")))


@kind
def wrong_tolerance(s):
    for node in s.nodes(None, ast.Call):
        if getattr(node.func, "id", "") == "Tolerance":
            for keyword in node.keywords:

                def looser(n):
                    n.value = expr(f"({ast.unparse(n.value)}) * 10 + 1")

                yield f"{keyword.arg} looser", s.changed(keyword, looser)


@kind
def wrong_requirement(s):
    for keyword in s.nodes(None, ast.keyword):
        if keyword.arg in ("min_compute_capability",) and isinstance(keyword.value, ast.Constant):
            yield f"{keyword.arg}=7.0", s.changed(keyword.value, lambda n: ast.Constant("7.0"))
        elif keyword.arg == "compute_capabilities":
            yield "compute_capabilities dropped", s.changed(keyword.value, lambda n: expr("[]"))
        elif keyword.arg == "catalogue":
            yield "another reference", s.changed(keyword.value, lambda n: ast.Constant("rmsnorm_"))


@kind
def results_thrown_away(s):
    for node in s.nodes("run_benchmarks", ast.Expr):
        if "run.measure" in ast.unparse(node):
            yield "nothing is measured", s.without(node)
    for node in s.nodes("run_benchmarks", ast.Call):
        if getattr(node.func, "id", "") == "BenchmarkRun":
            yield "another output folder", s.changed(node.args[1], lambda n: expr("output_dir + '_old'"))


@kind
def broken_syntax(s):
    yield "a template mark", s.text.replace("def make_inputs", "# {{ spec.kernel }}\ndef make_inputs", 1)
    yield "an open bracket", s.text.replace("OPS = (", "OPS = ((", 1)
    yield "a tab among spaces", s.text.replace("    rng =", "\t  rng =", 1)
    yield "a function renamed", s.text.replace("def make_inputs(", "def build_inputs(", 1)
    yield "an undefined name", s.text.replace("rng = Random(device, seed)", "rng = Random(device, sed)", 1)


@kind
def ends_the_process(s):
    for name in ("make_inputs", "call_kernel"):
        yield (
            f"os._exit in {name}",
            s.changed(s.function(name), lambda n: n.body.insert(1, stmt("__import__('os')._exit(0)"))),
        )
    yield (
        "sys.exit in run_benchmarks",
        s.changed(s.function("run_benchmarks"), lambda n: n.body.insert(1, stmt("sys.exit(0)"))),
    )
    yield (
        "a file elsewhere",
        s.changed(s.function("make_inputs"), lambda n: n.body.insert(1, stmt("open('/tmp/roofbench-mutant', 'w')"))),
    )


# Errors in the shared code: (file below the bundle's scripts, what stands there, what is written instead).
# Each is found by the run of any script.
SHARED = (
    ("warm-up-missing", "benchlib/timing.py", "WARMUP_CALLS = 10", "WARMUP_CALLS = 0"),
    ("warm-up-missing", "benchlib/point.py", "    timing.warm_up(runtime, call, rotation)\n", ""),
    ("too-few-calls", "benchlib/timing.py", "LEAST_CALLS = 100", "LEAST_CALLS = 20"),
    ("results-not-saved", "benchlib/run.py", "results.write(self.output_dir", "str((self.output_dir"),
    ("results-not-saved", "benchlib/run.py", "        self.records.append(record)\n", ""),
    ("milliseconds-for-seconds", "benchlib/results.py", "flops / latency_ms / 1e6", "flops / latency_ms / 1e9"),
    ("milliseconds-for-seconds", "benchlib/results.py", "nbytes / latency_ms / 1e6", "nbytes / latency_ms / 1e3"),
    ("wrong-peak", "benchlib/hardware.py", "flops / (peak * 1e9)", "flops / (peak * 1e10)"),
    ("wrong-peak", "benchlib/hardware.json", '"bandwidth_gbs": 8000', '"bandwidth_gbs": 7000'),
    ("wrong-bound", "benchlib/hardware.py", "compute > memory", "compute < memory"),
    ("mean-for-median", "benchlib/timing.py", "median = statistics.median(samples)",
     "median = statistics.mean(samples)"),
    ("mean-for-median", "benchlib/timing.py", "median = statistics.median(samples)", "median = min(samples)"),
    ("wrong-header", "benchlib/results.py", "    latency_ms: float\n    gflops: float",
     "    gflops: float\n    latency_ms: float"),
    ("wrong-intensity", "benchlib/results.py", "flops / nbytes if nbytes", "nbytes / flops if flops"),
    ("empty-field", "benchlib/results.py", '"{:.2f}".format,\n    "peak_pct"', 'lambda value: "",\n    "peak_pct"'),
    ("decode-with-sequence", "benchlib/model.py", 'B if op.phase == "decode" else B * S', "B"),
    ("decode-with-sequence", "benchlib/model.py", 'B if op.phase == "decode" else B * S', "B * (S if S > 1 else L)"),
    ("point-missing", "benchlib/run.py", "        self.planned.append((op, point))\n",
     "        if B == 2:\n            return None\n        self.planned.append((op, point))\n"),
)  # fmt: skip
