"""Edits that a person might make and that change nothing: the verifier must pass all of them.

GENERAL work on any script (source text in, source text out, or None where they do not apply); SPECIAL are
replacements in one script.
"""

import ast
import builtins
import copy
import re

GENERAL = {}


def general(function):
    GENERAL[function.__name__.replace("_", " ")] = function
    return function


def _function(tree, name):
    return next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)


@general
def other_formatting_and_no_comments(text):
    return ast.unparse(ast.parse(text))


@general
def more_comments(text):
    lines = text.split("\n")
    out = []
    for line in lines:
        if re.match(r"(def |class |@)", line):
            out.append("# A remark of ours.")
        out.append(line)
    return "\n".join(out) + "\n# the end\n"


@general
def blank_lines(text):
    return re.sub(r"\n(    return )", r"\n\n\1", text)


@general
def other_docstrings(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Module) and ast.get_docstring(node):
            node.body[0].value.value = "Rewritten by hand: {one}, {two} and 50 %."
    return ast.unparse(tree)


@general
def no_docstrings(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
            node.body = node.body[1:]
    return ast.unparse(tree)


@general
def windows_line_ends(text):
    return text.replace("\n", "\r\n")


class _Rename(ast.NodeTransformer):
    def __init__(self, names):
        self.names = names

    def visit_Name(self, node):
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node):
        node.arg = self.names.get(node.arg, node.arg)
        return node


@general
def renamed_local_variables(text):
    tree = ast.parse(text)
    for name in ("make_inputs", "columns", "run_benchmarks"):
        function = _function(tree, name)
        stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        # Names of keyword arguments are not touched, and `run` is part of nothing outside.
        _Rename({n: f"{n}_" for n in stored if not hasattr(builtins, n)}).visit(function)
    return ast.unparse(tree)


@general
def renamed_parameters_of_the_call(text):
    tree = ast.parse(text)
    _Rename({"kernel": "function", "x": "arguments"}).visit(_function(tree, "call_kernel"))
    return ast.unparse(tree)


@general
def reordered_functions(text):
    tree = ast.parse(text)
    places = [i for i, n in enumerate(tree.body) if isinstance(n, ast.FunctionDef) and not n.decorator_list]
    before = [
        i
        for i in places
        if i
        < next(
            j for j, n in enumerate(tree.body) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "BENCHMARK"
        )
    ]
    functions = [tree.body[i] for i in reversed(before)]
    for i, node in zip(before, functions, strict=True):
        tree.body[i] = node
    return ast.unparse(tree)


@general
def inputs_in_another_order(text):
    tree = ast.parse(text)
    for node in ast.walk(_function(tree, "make_inputs")):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict):
            if any(k is None for k in node.value.keys):
                return None
            node.value.keys.reverse()
            node.value.values.reverse()
    return ast.unparse(tree)


@general
def inputs_collected_first(text):
    tree = ast.parse(text)
    function = _function(tree, "make_inputs")
    if not isinstance(function.body[-1], ast.Return):
        return None
    value = function.body[-1].value
    function.body[-1:] = [
        ast.Assign([ast.Name("x", ast.Store())], value, lineno=0),
        ast.Return(ast.Name("x", ast.Load())),
    ]
    return ast.unparse(ast.fix_missing_locations(tree))


@general
def an_unused_input(text):
    return re.sub(
        r"(def make_inputs\(.*?\n    return \{\n)", r'\1        "note": "not used",\n', text, count=1, flags=re.S
    )


@general
def type_annotations(text):
    return text.replace(
        "def cost(op, point, x=None):", "def cost(op: Op, point, x: dict | None = None) -> Cost:"
    ).replace("def call_kernel(kernel, x):", "def call_kernel(kernel, x: dict):")


@general
def costs_as_floats(text):
    tree = ast.parse(text)
    for node in ast.walk(_function(tree, "cost")):
        if isinstance(node, ast.keyword) and node.arg in ("flops", "bytes"):
            node.value = ast.parse(f"float({ast.unparse(node.value)})", mode="eval").body
    return ast.unparse(tree)


@general
def costs_in_steps(text):
    tree = ast.parse(text)
    function = _function(tree, "cost")
    last = function.body[-1]
    keywords = {k.arg: k.value for k in last.value.keywords}
    function.body[-1:] = ast.parse(
        f"work = {ast.unparse(keywords['flops'])}\n"
        f"traffic = {ast.unparse(keywords['bytes'])}\n"
        "return Cost(work, traffic)"
    ).body
    return ast.unparse(tree)


@general
def inner_dimension_last(text):
    """The factors of the FLOPs in another order."""
    tree = ast.parse(text)
    for node in ast.walk(_function(tree, "cost")):
        if isinstance(node, ast.keyword) and node.arg == "flops":
            for product in ast.walk(node.value):
                if isinstance(product, ast.BinOp) and isinstance(product.op, ast.Mult):
                    product.left, product.right = product.right, product.left
    return ast.unparse(tree)


@general
def batch_sizes_as_a_tuple(text):
    return re.sub(r"^(BATCH_SIZES = )\[(.*)\]$", r"\1(\2)", text, flags=re.M)


@general
def batch_sizes_as_powers(text):
    return re.sub(r"^BATCH_SIZES = .*$", "BATCH_SIZES = [2**i for i in range(8)]", text, flags=re.M)


@general
def ops_as_a_list(text):
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OPS":
            node.value = ast.List(node.value.elts, ast.Load())
    return ast.unparse(ast.fix_missing_locations(tree))


@general
def ops_in_another_order(text):
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OPS":
            node.value.elts.reverse()
    return ast.unparse(tree)


@general
def loops_with_product(text):
    if "for L in kv_lens" in text:
        return text.replace(
            "            for B in batch_sizes:\n"
            "                for L in kv_lens:\n"
            "                    run.measure(op, B=B, S=1, L=L)",
            "            for B, L in product(batch_sizes, kv_lens):\n                run.measure(op, B=B, S=1, L=L)",
        ).replace("import sys\n", "import sys\nfrom itertools import product\n", 1)
    return text.replace(
        "[(B, S) for B in batch_sizes[:4] for S in seq_lens]", "list(product(batch_sizes[:4], seq_lens))"
    ).replace("import sys\n", "import sys\nfrom itertools import product\n", 1)


@general
def loops_backwards(text):
    return text.replace("for B in batch_sizes:", "for B in reversed(batch_sizes):").replace(
        "for B, S in sweep:", "for B, S in reversed(sweep):"
    )


@general
def progress_on_standard_output(text):
    return re.sub(r"^( +)(run\.measure\()", r'\1print("at", op.name, op.phase, B)\n\1\2', text, flags=re.M)


@general
def a_helper_extracted(text):
    """make_inputs hands over to a function of another name."""
    return text.replace("def make_inputs(op, point, device, seed=0):", "def build(op, point, device, seed):").replace(
        "\n\ndef call_kernel(",
        "\n\ndef make_inputs(op, point, device, seed=0):\n    return build(op, point, device, seed)\n"
        "\n\ndef call_kernel(",
    )


@general
def another_seed(text):
    return (
        text.replace("Random(device, seed)", "Random(device, seed + 12345)") if "active_experts" not in text else None
    )


@general
def torch_imported_directly(text):
    return text.replace("import sys\n", "import sys\n\nimport torch\n", 1)


@general
def an_alias_of_the_kernel(text):
    tree = ast.parse(text)
    function = _function(tree, "call_kernel")
    _Rename({"kernel": "launch"}).visit(ast.Module(function.body, []))
    function.body.insert(0, ast.parse("launch = kernel").body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


@general
def inputs_unpacked_first(text):
    """Keyword arguments through a dict of their own."""
    tree = ast.parse(text)
    for call in [n for n in ast.walk(_function(tree, "call_kernel")) if isinstance(n, ast.Call)]:
        if getattr(call.func, "id", "") == "kernel" and call.keywords and not call.args:
            items = ast.Dict([ast.Constant(k.arg) for k in call.keywords], [k.value for k in call.keywords])
            call.keywords = [ast.keyword(None, items)]
            return ast.unparse(ast.fix_missing_locations(tree))
    return None


@general
def keywords_in_another_order(text):
    tree = ast.parse(text)
    found = False
    for call in [n for n in ast.walk(_function(tree, "call_kernel")) if isinstance(n, ast.Call)]:
        if len(call.keywords) > 1:
            call.keywords.reverse()
            found = True
    return ast.unparse(tree) if found else None


@general
def columns_by_name(text):
    tree = ast.parse(text)
    function = _function(tree, "columns")
    M, N, K = (ast.unparse(e) for e in function.body[-1].value.elts)
    function.body[-1:] = ast.parse(f"found = dict(M={M}, N={N}, K={K})\nreturn found['M'], found['N'], found['K']").body
    return ast.unparse(tree)


@general
def columns_as_a_list(text):
    tree = ast.parse(text)
    last = _function(tree, "columns").body[-1]
    last.value = ast.List(last.value.elts, ast.Load())
    return ast.unparse(ast.fix_missing_locations(tree))


@general
def an_assertion(text):
    return text.replace(
        "    rng = Random(device, seed)\n", "    rng = Random(device, seed)\n    assert point.T >= 1\n", 1
    )


@general
def dimensions_from_the_dict(text):
    return re.sub(r"\bop\.([A-Z][a-z]*)\b(?!\()", r'op.dims["\1"]', text)


@general
def another_reason(text):
    return re.sub(r"the kernel takes at most 16 tokens", "more tokens than 16 are too many", text)


@general
def smaller_values(text):
    return text.replace("rng.normal((T, D))", "rng.normal((T, D), std=0.5)")


@general
def a_constant_for_the_dtype(text):
    if "torch.bfloat16" not in text:
        return None
    body = text.replace("torch.bfloat16", "BF16")
    return body.replace('\nKERNEL = "', '\nBF16 = torch.bfloat16 if torch else None\nKERNEL = "', 1)


@general
def an_unused_function(text):
    return text.replace("\n\ndef cost(", "\n\ndef unused(values):\n    return sorted(values)[0]\n\n\ndef cost(", 1)


# (kernel, name, [(what stands there, what is written instead)])
SPECIAL = (
    ("rmsnorm", "keywords for positions", [
        ('kernel(x["output"], x["input"], x["weight"], x["eps"], True)',
         'kernel(output=x["output"], input=x["input"], weight=x["weight"], eps=x["eps"], enable_pdl=True)')]),
    ("rmsnorm", "a constant written out", [('"eps": EPS', '"eps": 0.000001')]),
    ("rmsnorm", "torch's own factories", [
        ('rng.normal((T, D))', 'torch.randn(T, D, device=device).to(torch.bfloat16)')]),
    ("rmsnorm", "an output like the input", [
        ('rng.empty((T, D), torch.bfloat16)',
         'torch.empty_like(torch.empty((T, D), dtype=torch.bfloat16, device=device))')]),
    ("rmsnorm", "keys renamed", [('"weight": rng', '"gamma": rng'), ('x["weight"]', 'x["gamma"]')]),
    ("dsv3_fused_a_gemm", "the weight transposed by another name", [("weight.T", "weight.transpose(0, 1)")]),
    ("dsv3_fused_a_gemm", "the weight transposed with permute", [("weight.T", "weight.permute(1, 0)")]),
    ("dsv3_fused_a_gemm", "the output by position", [('output=x["output"]', 'x["output"]')]),
    ("cutlass_scaled_fp4_mm", "keywords for positions", [
        ('kernel(x["a"], x["b"], x["block_scale_a"], x["block_scale_b"], x["alpha"], torch.bfloat16)',
         'kernel(a=x["a"], b=x["b"], block_scale_a=x["block_scale_a"], block_scale_b=x["block_scale_b"], '
         'alpha=x["alpha"], out_dtype=torch.bfloat16)')]),
    ("silu_and_mul", "a view of the right shape", [
        ("rng.normal((rows, 2 * D))", "rng.normal((rows * 2 * D,)).view(rows, 2 * D)")]),
    ("topk_softmax", "a default written out", [('x["renormalize"])', 'x["renormalize"], moe_softcapping=0.0)')]),
    ("rmsnorm", "defaults resolved inside", [
        ("batch_sizes=BATCH_SIZES, seq_lens=SEQ_LENS,", "batch_sizes=None, seq_lens=None,"),
        ("    with BenchmarkRun(", "    batch_sizes, seq_lens = batch_sizes or BATCH_SIZES, seq_lens or SEQ_LENS\n"
         "    with BenchmarkRun(")]),
    ("rmsnorm", "keywords of the run", [
        ("BenchmarkRun(BENCHMARK, output_dir, **options)",
         "BenchmarkRun(benchmark=BENCHMARK, output_dir=output_dir, **options)")]),
    ("rmsnorm", "an error is shown and raised again", [
        ("                run.measure(op, B=B, S=S)",
         "                try:\n                    run.measure(op, B=B, S=S)\n                except Exception:\n"
         "                    print('at', op)\n                    raise")]),
    ("rmsnorm", "inference mode", [("def call_kernel(", "@torch.inference_mode()\ndef call_kernel(")]),
    ("rmsnorm", "guards that raise", [
        ("    rng = Random(", "    if T < 1:\n        raise ValueError(f'no tokens: {point}')\n    rng = Random(")]),
    ("rmsnorm", "the phases in two branches", [
        ("    rng = Random(device, seed)\n", "    rng = Random(device, seed)\n    if op.phase == 'decode':\n"
         "        x = rng.normal((T, D))\n    else:\n        x = rng.normal((T, D))\n"),
        ('"input": rng.normal((T, D))', '"input": x')]),
    ("rmsnorm", "the program in a function", [
        ("    sys.exit(main(BENCHMARK, run_benchmarks))", "    start()"),
        ("if __name__ ==", "def start():\n    raise SystemExit(main(BENCHMARK, run_benchmarks))\n\n\nif __name__ ==")]),
    ("fused_moe_kernel", "weights kept in a dict", [
        ("@lru_cache(maxsize=1)\ndef expert_weights(device, E, hidden, intermediate):",
         "_W = {}\n\n\ndef expert_weights(*key):\n    if key not in _W:\n        _W[key] = draw(*key)\n"
         "    return _W[key]\n\n\ndef draw(device, E, hidden, intermediate):")]),
    ("bmm_fp8", "scales that are drawn", [("rng.full((1,), A_SCALE, torch.float32)", "rng.uniform((1,), 0.2, 0.3)")]),
    ("prepare_moe_input", "ids from noise", [
        ("rng.routing(T, E, topk, ROUTING)",
         "torch.rand((T, E), generator=rng.cpu).topk(topk).indices.to(torch.int32)")]),
    ("concat_mla_k", "a part by split", [("kv[..., :Dn]", "kv.split([Dn, op.Dv], dim=-1)[0]")]),
    ("scaled_fp4_experts_quant", "one scale for all", [
        ("rng.uniform((E,), 200.0, 400.0, dtype=torch.float32)", "torch.full((E,), 300.0, device=device)")]),
    ("cutlass_mla_decode", "a larger pool of pages", [("(B * pages, PAGE", "(B * pages + 7, PAGE")]),
)  # fmt: skip


def edits(kernel, text):
    """(name, edited text) of every harmless edit that applies to a script and changes its text."""
    for name, function in GENERAL.items():
        edited = function(text)
        if edited is not None and edited != text:
            yield name, edited
    for owner, name, replacements in SPECIAL:
        if owner == kernel:
            edited = copy.copy(text)
            for old, new in replacements:
                if old not in edited:
                    raise AssertionError(f"{kernel} no longer holds {old!r}: harmless.SPECIAL must follow it")
                edited = edited.replace(old, new)
            yield name, edited
