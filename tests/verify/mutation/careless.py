"""Errors of people in a hurry: constant data, shared buffers, hidden errors, settings and surroundings.

They are edits of the text where that is how a person makes them; mutations.py has those of the syntax tree.
"""

import ast
import re

from mutation.mutations import expr, kind


def _before(text, what, code):
    """Text with lines of code before the first line that begins with `what`."""
    return re.sub(rf"^{what}", lambda match: f"{code}\n{match.group()}", text, count=1, flags=re.M)


def _top(s, code):
    return _before(s.plain, "KERNEL = ", code)


def _in_run(s, code):
    return re.sub(r"^    with BenchmarkRun\(", lambda m: f"    {code}\n{m.group()}", s.plain, count=1, flags=re.M)


def _around(s, name, parameters, body):
    """The script with a function renamed to _{name}, and another in its place."""
    text = re.sub(rf"^def {name}\(", f"def _{name}(", s.plain, count=1, flags=re.M)
    return _before(text, "BENCHMARK = ", f"def {name}({parameters}):\n{body}\n")


def _data(s):
    """Calls that draw data of two dimensions or more."""
    for call in s.makers():
        if call.func.attr in ("normal", "fp8") and isinstance(call.args[0], ast.Tuple) and len(call.args[0].elts) > 1:
            yield call


# Data.


@kind
def constant_data(s):
    for call in _data(s):
        for label, form in (
            ("filled with 1", "({}).fill_(1.0)"),
            ("times 0", "({0}).zero_()" if call.func.attr == "fp8" else "({}).mul_(0)"),
            ("the first row repeated", "({0})[:1].expand(({0}).shape).contiguous()"),
        ):
            text = ast.unparse(call)
            yield f"{text} {label}", s.changed(call, lambda n, f=form, t=text: expr(f.format(t)))


@kind
def partly_filled(s):
    for call in _data(s):
        text = s.changed(call, lambda n: expr(f"_half({ast.unparse(n)})"))
        body = "    y, n = x.new_empty(x.shape), x.shape[-1] // 2\n    y[..., :n] = x[..., :n]\n    return y\n"
        half = f"def _half(x):\n{body}"
        yield f"half of {ast.unparse(call)}", _before(text, "def make_inputs", half)


@kind
def zero_scale(s):
    for node in s.nodes("make_inputs", ast.Call):
        if getattr(node.func, "attr", "") == "full" and "rng" in ast.unparse(node.func):
            yield f"{ast.unparse(node)} of 0", s.changed(node.args[1], lambda n: expr("0.0"))


@kind
def seed_ignored(s):
    for node in s.nodes("make_inputs", ast.Call):
        if getattr(node.func, "id", "") == "Random":
            yield "seed 0", s.changed(node.args[1], lambda n: expr("0"))
            yield "no seed", s.changed(node, lambda n: n.args.pop() and None)


@kind
def sets_share_memory(s):
    body = (
        "    key = (op.name, op.phase, point, str(device))\n"
        "    if key not in _made:\n        _made[key] = _make_inputs(op, point, device, seed)\n    return _made[key]\n"
    )
    text = _around(s, "make_inputs", "op, point, device, seed=0", body)
    yield "inputs kept for each point", _before(text, "KERNEL = ", "_made = {}")


@kind
def wrong_routing_kind(s):
    for node in s.nodes("make_inputs", ast.Call):
        if getattr(node.func, "attr", "") == "routing" and len(node.args) == 4:
            for other in ("balanced", "power_law"):
                yield other, s.changed(node.args[3], lambda n, o=other: ast.Constant(o))


# The call.


@kind
def later_calls_skipped(s):
    body = "    if 'done' not in x:\n        x['done'] = (_call_kernel(kernel, x),)\n    return x['done'][0]\n"
    yield "the first result is kept", _around(s, "call_kernel", "kernel, x", body)
    body = "    x['n'] = x.get('n', 0) + 1\n    return _call_kernel(kernel, x) if x['n'] % 2 else None\n"
    yield "every second call is left out", _around(s, "call_kernel", "kernel, x", body)


@kind
def error_hidden(s):
    body = "    try:\n        return _call_kernel(kernel, x)\n    except Exception:\n        return None\n"
    yield "except Exception in call_kernel", _around(s, "call_kernel", "kernel, x", body)
    body = "    with contextlib.suppress(RuntimeError):\n        return _call_kernel(kernel, x)\n"
    yield "suppress in call_kernel", "import contextlib\n" + _around(s, "call_kernel", "kernel, x", body)


@kind
def another_stream(s):
    body = (
        "    import torch\n    with torch.cuda.stream(torch.cuda.Stream()):\n        return _call_kernel(kernel, x)\n"
    )
    yield "a stream of its own", _around(s, "call_kernel", "kernel, x", body)


@kind
def wrapped_kernel(s):
    body = "    import torch\n    return _call_kernel(torch.compile(kernel), x)\n"
    yield "torch.compile", _around(s, "call_kernel", "kernel, x", body)


@kind
def depends_on_the_machine(s):
    first = "    if str(device).startswith('cuda'):\n        seed = 0\n"
    last = "    return _make_inputs(op, point, device, seed)\n"
    yield "another branch on cuda", _around(s, "make_inputs", "op, point, device, seed=0", first + last)
    first = "    import torch\n    seed = 0 if torch.cuda.is_available() else seed\n"
    yield "asks for a GPU", _around(s, "make_inputs", "op, point, device, seed=0", first + last)
    first = "    import os\n    seed = int(os.environ.get('SEED', seed))\n"
    yield "asks the environment", _around(s, "make_inputs", "op, point, device, seed=0", first + last)


@kind
def tuning_left_out(s):
    for keyword in s.nodes(None, ast.keyword):
        if keyword.arg == "warm_up":
            yield "without warm_up", s.without(keyword)
    for node in s.nodes("warm_up", ast.Call):
        if getattr(node.func, "id", "") == "autotune":
            yield "autotune(False)", s.changed(node.args[0], lambda n: expr("False"))


# How it is measured.


@kind
def settings_changed(s):
    for node in s.nodes("run_benchmarks", ast.Call):
        if getattr(node.func, "id", "") == "BenchmarkRun":
            for change in ("'cache': 'warm'", "'check': False", "'hardware': 'B200'", "'resume': False"):

                def other(n, change=change):
                    n.keywords[-1].value = expr(f"{{**options, {change}}}")

                yield change, s.changed(node, other)
            yield "options dropped", s.changed(node, lambda n: n.keywords.pop() and None)
    for node in s.nodes("run_benchmarks", ast.Call):
        if ast.unparse(node.func) == "run.select" and len(s.spec["ops"]) > 1:
            yield "--op ignored", s.changed(node, lambda n: n.args[0])


@kind
def measuring_replaced(s):
    yield "the budget", _top(s, "from benchlib import timing\ntiming.COLD = timing.WARM")
    yield "the eviction", _top(s, "from benchlib import sets\nsets.EVICTION = 0")
    yield "the format", _top(s, "from benchlib import results\nresults.FORMATS['latency_ms'] = '{:.2f}'.format")
    yield "the clock", _top(s, "import time\ntime.perf_counter = time.time")
    yield "the run", _in_run(s, "pass").replace("run.select(OPS):", "setattr(run, '_check', print) or run.select(OPS):")
    runtime = "from benchlib import runtime\nruntime.set_runtime(runtime.CudaRuntime())"
    yield "the runtime", _top(s, runtime)
    other = "import dataclasses\n" + s.plain
    loose = "BenchmarkRun(dataclasses.replace(BENCHMARK, tolerance=Tolerance(1, 1)), "
    yield "the tolerance", other.replace("BenchmarkRun(BENCHMARK, ", loose)


@kind
def tolerance_added(s):
    for node in s.nodes(None, ast.Call):
        if getattr(node.func, "id", "") == "Tolerance" and "match_fraction" not in ast.unparse(node):
            yield (
                "match_fraction",
                s.changed(node, lambda n: n.keywords.append(ast.keyword("match_fraction", expr("0.5")))),
            )


@kind
def provider_without_its_package(s):
    for node in s.nodes(None, ast.Call):
        if getattr(node.func, "id", "") == "Provider" and node.keywords:
            yield ast.unparse(node), s.changed(node, lambda n: n.keywords.clear())


@kind
def errors_swallowed(s):
    for node in s.nodes("run_benchmarks", ast.Expr):
        if "run.measure" in ast.unparse(node):
            for what in ("BaseException", "Exception"):
                handler = f"try:\n    {ast.unparse(node)}\nexcept {what}:\n    pass"
                yield f"except {what}", s.changed(node, lambda n, h=handler: ast.parse(h).body[0])


# Surroundings.


@kind
def surroundings_changed(s):
    yield "CUDA_VISIBLE_DEVICES", _top(s, "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = '0'")
    yield "sys.path", _top(s, "sys.path.insert(0, '/opt/kernels')")
    yield "the folder", _in_run(s, "__import__('os').chdir('/tmp')")
    yield "a process, in a try", _top(s, "try:\n    __import__('subprocess').run(['true'])\nexcept OSError:\n    pass")


@kind
def reads_elsewhere(s):
    yield "a file", _top(s, "TUNED = open('/etc/hostname').read()")
    yield "a module beside it", _top(s, "try:\n    import my_tiles\nexcept ImportError:\n    my_tiles = None")
    yield "a package that no stack has", _top(s, "import pandas")


@kind
def neighbours_harmed(s):
    yield "emptied", _in_run(s, "__import__('shutil').rmtree(output_dir, ignore_errors=True)")
    copy = "__import__('shutil').copy(f'{output_dir}/{KERNEL}.csv', f'{output_dir}/another.csv')"
    yield "written", s.plain.replace("    return run.results", f"    {copy}\n    return run.results")


@kind
def results_rounded(s):
    code = (
        "    from pathlib import Path\n    path = Path(output_dir) / f'{KERNEL}.csv'\n    if path.exists():\n"
        "        text = path.read_text()\n        path.write_text(re.sub(r'(\\.\\d\\d)\\d{4},', r'\\1,', text))\n"
        "    return run.results"
    )
    yield "two decimals", "import re\n" + s.plain.replace("    return run.results", code)


@kind
def program_changed(s):
    last = next(n for n in s.tree.body if isinstance(n, ast.If))
    yield "nothing runs", s.without(last)
    text = "sys.exit(main(BENCHMARK, run_benchmarks))"
    yield "the exit status", s.plain.replace(text, "main(BENCHMARK, run_benchmarks)")
    yield "no options", s.plain.replace(text, "run_benchmarks()")
    fewer = "sys.exit(main(BENCHMARK, lambda b=BATCH_SIZES, s=None, o=None, **k: run_benchmarks(b[:2], s, o, **k)))"
    yield "fewer sizes", s.plain.replace(text, fewer)
    parameters = re.search(r"^def run_benchmarks\((batch_sizes=\w+), (\w+=\w+),", s.plain, re.M)
    swapped = f"def run_benchmarks({parameters[2]}, {parameters[1]},"
    yield "parameters in another order", s.plain.replace(parameters[0], swapped)
