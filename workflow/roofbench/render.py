"""From a kernel's spec and catalogue entry to its benchmark script."""

import re
import textwrap
import traceback
from pathlib import Path

import jinja2

from roofbench import grammar
from roofbench.errors import UserError
from roofbench.generated import seal

POINT_DIMS = ("T", "B", "S", "L")
WIDTH = 118
UTILITIES = "<utilities>"
# What bench_utils offers to scripts.
EXPORTS = {
    *("Benchmark", "BenchmarkRun", "Cost", "Op", "Provider", "Random", "Tolerance"),
    *("ceildiv", "expected_active_experts", "main", "round_up", "torch"),
}


def render_kernel(spec, entry, templates_dir):
    """The benchmark script of one kernel as sealed text.

    `spec` is the parsed results/specs/{kernel}.json, `entry` its catalogue entry, `templates_dir` the folder
    that holds base.py.j2 and kernels/. Raises UserError where the kernel has no template or the template is broken.
    """
    templates_dir = Path(templates_dir)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_dir),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is Python; every value from the ops file goes through repr() or checks
    )
    name = f"kernels/{spec['catalogue']}.py.j2"
    try:
        template = environment.get_template(name)
        text = template.render(spec=spec, entry=entry, **_parts(spec, entry))
        text = text.replace(UTILITIES, _utilities(text))
    except jinja2.TemplateNotFound as error:
        raise UserError(f"{templates_dir / str(error)}: the template of {spec['kernel']} is missing") from None
    except Exception as error:  # a template can do whatever Python can
        what = str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{_template_line(error, templates_dir) or templates_dir / name}: {what}") from None
    return seal(_squeeze(text))


def _template_line(error, templates_dir):
    """`file:line` of the template in which an error was raised, or None."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.filename}:{error.lineno}" if error.filename else None
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename.startswith(str(templates_dir))]
    return places[-1] if places else None


def _parts(spec, entry):
    dims = _op_dims(spec)
    return {
        "calls": [_describe_provider(provider) for provider in entry["providers"]],
        "needs": _needs(entry),
        "utilities": UTILITIES,
        "active_experts": entry.get("active_experts") if "active_experts" in _names(entry["cost"]["bytes"]) else None,
        "heading": _heading(spec, entry),
        "ops_table": _ops_table(spec),
        "constants": _constants(spec),
        "ops": _ops(spec),
        "providers": _providers(spec, entry),
        "cost_body": _cost_body(entry, dims),
        "columns_body": _columns_body(entry, dims),
        "limits_body": _limits_body(spec, entry, dims),
        "benchmark": _benchmark(spec, entry),
    }


def _op_dims(spec):
    """Names of the dimensions that every op carries, in the order of the spec."""
    names = list(spec["ops"][0]["dims"]) if spec["ops"] else []
    return [name for name in names if all(name in op["dims"] for op in spec["ops"])]


def _describe_provider(provider):
    module, _, attribute = provider["target"].partition(":")
    return f"{module}.{attribute} ({', '.join(provider['stacks'])})"


def _needs(entry):
    exact = entry.get("compute_capabilities")
    if exact:
        return " or ".join(exact) + " exactly"
    return f"{entry['min_compute_capability']} or newer"


def _utilities(text):
    """The import of what the rendered script uses of bench_utils."""
    code = text[text.index(UTILITIES) :].replace("torch.ops", "")  # a provider's target is a string
    tokens = set(re.findall(r"\w+", code))
    names = sorted(tokens & EXPORTS, key=lambda name: (name[0].islower(), name))
    return _call("from bench_utils import ", names, wrap=("(", ")"))


def _heading(spec, entry):
    """The first line of the docstring, and where the summary is too long for one line, a paragraph."""
    line = f"Benchmark of {spec['kernel']}: {entry['summary']}."
    if len(line) <= WIDTH - 2:
        return _docstring_text(line)
    summary = entry["summary"][0].upper() + entry["summary"][1:]
    return _docstring_text(f"Benchmark of {spec['kernel']}.\n\n{textwrap.fill(summary, WIDTH)}.")


def _docstring_text(text):
    return text.replace("\\", "\\\\").replace('"""', "'''")


def _ops_table(spec):
    """The ops as an aligned table for the docstring."""
    rows = [("Op", "Phase", "Points", "Shapes, as the ops file has them")]
    for op in spec["ops"]:
        shapes = f"{op['shapes']['inputs']} -> {op['shapes']['outputs']}"
        rows.append((op["op"], op["phase"], str(len(op["points"])), shapes))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = []
    for row in rows:
        head = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        shapes = textwrap.wrap(row[3], max(30, WIDTH - len(head) - 2)) or [""]
        lines.append(f"{head}  {shapes[0]}")
        lines += [f"{'':{len(head)}}  {more}" for more in shapes[1:]]
    return _docstring_text("\n".join(line.rstrip() for line in lines))


def _constants(spec):
    sweep = spec["sweep"]
    lines = [f"OPTIONS = {_literal(spec['options'])}"] if spec.get("options") else []
    lines.append(f"BATCH_SIZES = {_literal(list(sweep['batch_sizes']))}")
    if sweep["kind"] == "kv":
        lines.append(f"KV_LENS = {_literal(list(sweep['kv_lens']))}")
    else:
        lines.append(f"SEQ_LENS = {_literal(list(sweep['seq_lens']))}")
    if spec.get("routing"):
        lines.append(f"ROUTING = {_literal(spec['routing'])}")
    return "\n".join(lines)


def _literal(value):
    """Python source of a value of strings, numbers, lists and dicts, with double quotes."""
    if isinstance(value, str):
        text = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"' if text.isprintable() else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    return repr(value)


def _call(function, arguments, indent=0, wrap=None):
    """A call on one line where it fits, else one argument a line; `wrap` are parentheses needed only in the second."""
    line = f"{function}{', '.join(arguments)}" if wrap else f"{function}({', '.join(arguments)})"
    if indent + len(line) + 1 <= WIDTH:
        return line
    inner = "".join(f"{'':{indent + 4}}{argument},\n" for argument in arguments)
    return f"{function}(\n{inner}{'':{indent}})"


def _tuple(name, items):
    """An assignment of a tuple, one item a line, as a formatter leaves it."""
    if len(items) == 1 and len(name) + len(items[0]) + 6 <= WIDTH and "\n" not in items[0]:
        return f"{name} = ({items[0]},)"
    return f"{name} = (\n" + "".join(f"    {item},\n" for item in items) + ")"


def _ops(spec):
    items = []
    for op in spec["ops"]:
        dims = [f"{name}={value}" for name, value in op["dims"].items()]
        items.append(_call("Op", [_literal(op["op"]), _literal(op["phase"]), *dims], indent=4))
    return _tuple("OPS", items)


def _providers(spec, entry):
    items = []
    for provider in entry["providers"]:
        if provider["source"] != spec["source"]:
            continue
        arguments = [_literal(provider["target"])]
        for key in ("requires", "package"):
            if provider.get(key):
                arguments.append(f"{key}={_literal(provider[key])}")
        items.append(_call("Provider", arguments, indent=4))
    return _tuple("PROVIDERS", items)


def _unpack(names, dims, indent="    "):
    """One line that brings the names an expression uses into scope: `T, D = point.T, op.D`."""
    known = [name for name in (*POINT_DIMS, *dims) if name in names]
    if not known:
        return []
    values = [f"point.{name}" if name in POINT_DIMS else f"op.{name}" for name in known]
    return [f"{indent}{', '.join(known)} = {', '.join(values)}"]


def _names(*expressions):
    return set().union(*(grammar.free_names(str(text)) for text in expressions))


def _python(expression):
    return grammar.to_python(str(expression))


def _cost_body(entry, dims):
    cost = entry["cost"]
    names = _names(cost["flops"], cost["bytes"])
    lines = _unpack(names | ({"T", "E", "topk"} if entry.get("active_experts") == "expected" else set()), dims)
    if entry.get("active_experts") == "counted" and "active_experts" in names:
        lines.append("    experts = active_experts(op, point, x)")
    elif entry.get("active_experts") == "expected":
        lines.append("    experts = expected_active_experts(T, E, topk)")
    values = {key: grammar.to_python(str(cost[key]), {"active_experts": "experts"}) for key in ("flops", "bytes")}
    arguments = [
        f"{key}={_terms(value) if len(key) + len(value) + 10 > 120 else value}" for key, value in values.items()
    ]
    lines.append("    return " + _call("Cost", arguments, indent=4))
    return "\n".join(lines)


def _terms(source):
    """A long sum with one term a line, as a formatter leaves it as an argument eight columns deep."""
    depth, terms, start = 0, [], 0
    for i, character in enumerate(source):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and source[i : i + 3] in (" + ", " - "):
            terms.append(source[start:i])
            start = i + 1
    return ("\n" + " " * 8).join([*terms, source[start:]])


def _columns_body(entry, dims):
    columns = [entry["columns"][key] for key in ("M", "N", "K")]
    lines = _unpack(_names(*columns), dims)
    lines.append(f"    return {', '.join(_python(column) for column in columns)}")
    return "\n".join(lines)


def _limits_body(spec, entry, dims):
    limits = entry.get("limits") or []
    conditions = [op for op in spec["ops"] if op.get("condition")]
    names = _names(*(limit["require"] for limit in limits), *(op["condition"] for op in conditions))
    lines = _unpack(names, dims)
    for limit in limits:
        lines.append(f"    if not ({_python(limit['require'])}):")
        lines.append(f'        return f"{_values(limit["require"], dims)}: {limit["reason"]}"')
    for op in conditions:
        which = f"(op.name, op.phase) == ({_literal(op['op'])}, {_literal(op['phase'])})"
        condition = _python(op["condition"])
        lines.append(f"    if {which} and not ({condition}):")
        reason = f"the ops file uses this kernel only where {op['condition']}"
        lines.append(f'        return f"{_values(op["condition"], dims)}: {reason}"')
    lines.append("    return None")
    return "\n".join(lines)


def _values(expression, dims):
    """`T = {T}` of every name in an expression, for an f-string."""
    used = _names(expression)
    return ", ".join(f"{name} = {{{name}}}" for name in (*POINT_DIMS, *dims) if name in used)


def _benchmark(spec, entry):
    tolerance = ", ".join(f"{key}={value!r}" for key, value in entry["tolerance"].items())
    arguments = {
        "kernel": "KERNEL",
        "source": "SOURCE",
        "catalogue": _literal(spec["catalogue"]),
        "category": _literal(entry["category"]),
        "compute_dtype": "COMPUTE_DTYPE",
        "min_compute_capability": _literal(entry["min_compute_capability"]),
    }
    if entry.get("compute_capabilities"):
        arguments["compute_capabilities"] = _literal(entry["compute_capabilities"])
    arguments |= {
        "providers": "PROVIDERS",
        "ops": "OPS",
        "sweep": _literal(spec["sweep"]["kind"]),
        "tolerance": f"Tolerance({tolerance})",
    }
    if spec.get("options"):
        arguments["options"] = "OPTIONS"
    if spec.get("routing"):
        arguments["routing"] = "ROUTING"
    for name in ("make_inputs", "call_kernel", "cost", "columns", "not_applicable"):
        arguments[name] = name
    return "\n".join(f"    {key}={value}," for key, value in arguments.items())


def _squeeze(text):
    """Blank lines as Python's style has them: at most two, one after imports and inside blocks, none at the start."""
    lines, blank = [], 0
    for line in (line.rstrip() for line in text.splitlines()):
        if not line:
            blank += 1
            continue
        if lines:
            top = line.startswith(("def ", "class ", "@", "if __name__")) or (
                blank >= 1 and not line.startswith((" ", "#", ")")) and lines[-1].startswith("    return")
            )
            lines += [""] * (2 if top and blank and not lines[-1].startswith("@") else min(blank, 1))
        lines.append(line)
        blank = 0
    return "\n".join(lines) + "\n"
