"""What a call must look like: the catalogue's `arguments`, evaluated at one point, against a recorded call."""

import math
from dataclasses import dataclass

from roofbench import grammar

ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8_e4m3": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}
TORCH_NAMES = {
    "bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp8_e4m3": "float8_e4m3fn", "uint8": "uint8",
    "int32": "int32", "int64": "int64", "bool": "bool", "int8": "int8", "fp64": "float64", "int16": "int16",
}  # fmt: skip
ALIASES = {"fp8": "fp8_e4m3"}
SHORT_NAMES = {long: short for short, long in TORCH_NAMES.items()}
READ_ROLES = ("in", "inout", "index")
WRITE_ROLES = ("out", "inout")
MISSING = object()


@dataclass
class Mismatch:
    """One difference. `key` is the catalogue key that was violated, below the entry."""

    check: str
    argument: str
    found: str
    expected: str
    key: str


def short_dtype(dtype):
    """Catalogue name of a torch dtype: torch.bfloat16 is bf16."""
    name = str(dtype).removeprefix("torch.")
    return SHORT_NAMES.get(name, name)


def substitute(text, options):
    """Put the chosen options into a dtype such as "{kv_dtype}"."""
    text = str(text)
    for name, value in options.items():
        text = text.replace("{" + name + "}", value)
    return ALIASES.get(text, text)


def dims_of(entry, spec, op, point):
    """Every kernel dimension at one point of one op."""
    env = {}
    for name, option in (entry.get("options") or {}).items():
        chosen = (spec.get("options") or {}).get(name, option["default"])
        env.update(option["values"].get(chosen) or {})
    env.update(op["dims"])
    env.update({name: point[name] for name in ("T", "B", "S", "L") if name in point})
    if entry.get("active_experts") == "expected":
        E, topk, T = env["E"], env["topk"], env["T"]
        env["active_experts"] = E * (1.0 - (1.0 - topk / E) ** T)
    return env


def applies(item, stack):
    return stack in item.get("stacks", [stack])


def lookup(arguments, name):
    """Value of an argument, also of nested ones such as "params.ab_strides"; MISSING where it was not given."""
    head, *rest = name.split(".")
    value = arguments.get(head, MISSING)
    for part in rest:
        if value is MISSING or value is None:
            return MISSING
        value = value.get(part, MISSING) if isinstance(value, dict) else getattr(value, part, MISSING)
    return value


def contiguous(shape):
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return strides


def whole(expression, env):
    return grammar.whole(grammar.evaluate(expression, env), str(expression))


def is_operand(item, value):
    """Whether a tensor holds data that the kernel computes with: no index, no scale, no vector."""
    if item.get("role") not in ("in", "inout") or item.get("traffic") == "0" or "scale" in item["name"]:
        return False
    packed = value.dtype.itemsize == 1 and not value.dtype.is_signed
    return len(item["shape"]) > 1 and value.numel() > 1 and (value.dtype.is_floating_point or packed)


class Layout:
    """The catalogue's arguments and returns of one kernel on one stack, ready to be compared with calls."""

    def __init__(self, entry, spec, stack):
        self.entry = entry
        self.stack = stack
        self.options = {
            name: (spec.get("options") or {}).get(name, option["default"])
            for name, option in (entry.get("options") or {}).items()
        }
        self.arguments = [
            (index, item) for index, item in enumerate(entry.get("arguments") or []) if applies(item, stack)
        ]
        self.returns = [(index, item) for index, item in enumerate(entry.get("returns") or []) if applies(item, stack)]

    def tensors(self):
        return [(i, item) for i, item in self.arguments if "shape" in item]

    def compare(self, call, env):
        """Mismatch for everything in which a recorded call differs from the layout at the point of `env`."""
        for index, item in self.arguments:
            value = lookup(call.arguments, item["name"])
            if value is MISSING and not item.get("optional"):
                value = call.all_defaults.get(item["name"], MISSING)
            if "shape" in item:
                yield from self._tensor(index, item, value, env)
            else:
                yield from self._scalar(index, item, value, env)
        yield from self._extra(call)
        yield from self._aliases(call)

    def key(self, index, item, part=""):
        return f"arguments[{index}] ({item['name']}){'.' + part if part else ''}"

    def _tensor(self, index, item, value, env):
        import torch

        name = item["name"]
        if value is MISSING or value is None:
            if not item.get("optional"):
                yield Mismatch("kernel-call.missing", name, "not given", "a tensor", self.key(index, item))
            return
        if not isinstance(value, torch.Tensor):
            found = f"{type(value).__name__} {value!r}"[:80]
            yield Mismatch("kernel-call.scalar", name, found, "a tensor", self.key(index, item))
            return
        if value.device.type != "meta":
            yield Mismatch(
                "shapes.device",
                name,
                f"a tensor on {value.device}",
                "on the device that make_inputs gets",
                self.key(index, item),
            )
        dtype = substitute(item["dtype"], self.options)
        found = short_dtype(value.dtype)
        if found != dtype:
            yield Mismatch("shapes.dtype", name, found, dtype, self.key(index, item, "dtype"))
        shape, wanted = list(value.shape), [whole(e, env) for e in item["shape"]]
        if item.get("min_shape"):
            same = len(shape) == len(wanted) and all(a >= b for a, b in zip(shape, wanted, strict=True))
        else:
            same = shape == wanted
        if not same:
            least = "at least " if item.get("min_shape") else ""
            text = f"{least}{wanted} = [{', '.join(map(str, item['shape']))}]"
            yield Mismatch("shapes.shape", name, str(shape), text, self.key(index, item, "shape"))
        else:
            yield from self._strides(index, item, value, env, shape)
        yield from self._content(index, item, value)

    def _strides(self, index, item, value, env, shape):
        strides = list(value.stride())
        if item.get("any_stride"):
            gaps = [s for n, s in zip(shape, strides, strict=True) if n > 1]
            if shape and ((shape[-1] > 1 and strides[-1] != 1) or 0 in gaps or overlaps_itself(shape, strides)):
                yield Mismatch(
                    "shapes.stride",
                    item["name"],
                    f"strides {strides} of {shape}",
                    "the last dimension contiguous, rows apart from each other",
                    self.key(index, item, "any_stride"),
                )
            return
        written = item.get("strides")
        wanted = [whole(e, env) for e in written] if written else contiguous(shape)
        if any(n > 1 and a != b for n, a, b in zip(shape, strides, wanted, strict=True)):
            text = f"{wanted} = [{', '.join(map(str, written))}]" if written else f"{wanted}, contiguous"
            yield Mismatch(
                "shapes.stride",
                item["name"],
                f"strides {strides} of {shape}",
                f"strides {text}",
                self.key(index, item, "strides"),
            )

    def _content(self, index, item, value):
        from roofbench.verify import shadow

        if item.get("zeroed"):
            if shadow.constant_of(value) != 0:
                yield Mismatch(
                    "shapes.zeroed",
                    item["name"],
                    "memory that is not known to be zero",
                    "zeros before the first call",
                    self.key(index, item, "zeroed"),
                )
        elif item.get("role") in READ_ROLES and not shadow.is_written(value):
            yield Mismatch(
                "shapes.uninitialised",
                item["name"],
                "memory that nobody wrote",
                "filled before the call",
                self.key(index, item, "role"),
            )
        elif is_operand(item, value):
            constant = shadow.constant_of(value)
            if constant is not None:
                yield Mismatch(
                    "shapes.random",
                    item["name"],
                    "all zeros" if constant == 0 else f"{constant:g} everywhere",
                    "random values: constant operands flatter power and clocks, and make the output check trivial",
                    self.key(index, item, "role"),
                )
        if item.get("role") == "index" and (shadow.value_of(value) is None or not shadow.is_written(value)):
            yield Mismatch(
                "shapes.value",
                item["name"],
                "values that cannot be followed",
                "values made on the CPU and moved with Random.index()",
                self.key(index, item, "role"),
            )

    def _scalar(self, index, item, value, env):
        name = item["name"]
        if value is MISSING:
            if not item.get("optional"):
                expected = self._wanted_text(item, env)
                yield Mismatch("kernel-call.missing", name, "not given", expected, self.key(index, item))
            return
        if "one_of" in item:
            if not any(same_value(value, option, env, self.options) for option in item["one_of"]):
                expected = "one of " + ", ".join(map(str, item["one_of"]))
                yield Mismatch("kernel-call.scalar", name, show(value), expected, self.key(index, item, "one_of"))
        elif "value" in item and not same_value(value, item["value"], env, self.options):
            yield Mismatch(
                "kernel-call.scalar", name, show(value), self._wanted_text(item, env), self.key(index, item, "value")
            )

    def _wanted_text(self, item, env):
        if "value" not in item:
            return "a value"
        wanted = item["value"]
        if isinstance(wanted, str) and wanted.startswith("="):
            return f"{grammar.evaluate(wanted[1:], env)} {wanted}"
        return str(substitute(wanted, self.options))

    def _extra(self, call):
        listed = {item["name"] for _, item in self.arguments}
        heads = {name.split(".")[0] for name in listed}
        for name, value in call.arguments.items():
            if name not in heads:
                if name in call.all_defaults and same_default(value, call.all_defaults[name]):
                    continue
                yield Mismatch(
                    "kernel-call.extra", name, show(value), "left at its default", f"arguments ({name} is not listed)"
                )
            elif isinstance(value, dict):
                for key in value:
                    if f"{name}.{key}" not in listed and name not in listed:
                        yield Mismatch(
                            "kernel-call.extra",
                            f"{name}.{key}",
                            show(value[key]),
                            "not given",
                            f"arguments ({name}.{key} is not listed)",
                        )

    def _aliases(self, call):
        import torch

        given = []
        for _, item in self.tensors():
            value = lookup(call.arguments, item["name"])
            if isinstance(value, torch.Tensor):
                given.append((item, value))
        for position, (item, value) in enumerate(given):
            for other, more in given[:position]:
                writes = {"out", "inout", "workspace"} & {item.get("role"), other.get("role")}
                if writes and overlap(value, more):
                    yield Mismatch(
                        "kernel-call.alias",
                        f"{other['name']} and {item['name']}",
                        "tensors that share memory",
                        "memory of their own",
                        "arguments",
                    )

    def make_returns(self, env):
        """The tensors that the function allocates and returns, on the meta device."""
        import torch

        made = []
        for _, item in self.returns:
            shape = [whole(e, env) for e in item["shape"]]
            dtype = getattr(torch, TORCH_NAMES[substitute(item["dtype"], self.options)])
            made.append(torch.empty(shape, dtype=dtype, device="meta"))
        return made

    def traffic(self, call, env, broken=()):
        """Bytes that one call must move: {argument: bytes}, from the recorded tensors and the catalogue's roles.

        broken: arguments of another shape or type than they should have, which count as if they were right.
        """
        import torch

        moved = {}
        for _, item in self.tensors():
            value = lookup(call.arguments, item["name"])
            if not isinstance(value, torch.Tensor):
                continue
            nbytes = value.numel() * value.element_size()
            if item["name"] in broken:
                nbytes = self._nbytes(item, env)
            moved[item["name"]] = self._moved(item, nbytes, env)
        for _, item in self.returns:
            moved[f"returned {item.get('name', '')}".strip()] = self._moved(item, self._nbytes(item, env), env)
        return moved

    def _nbytes(self, item, env):
        return math.prod(whole(e, env) for e in item["shape"]) * ITEMSIZE[substitute(item["dtype"], self.options)]

    @staticmethod
    def _moved(item, nbytes, env):
        if "traffic" in item:
            return grammar.evaluate(item["traffic"], env)
        return {"workspace": 0, "inout": 2 * nbytes}.get(item.get("role"), nbytes)


def show(value):
    return f"{value!r}"[:80]


def same_default(value, default):
    if hasattr(default, "text"):
        return False
    return type(value) is type(default) and value == default


def same_value(value, wanted, env, options):
    """Whether a recorded scalar is what the catalogue writes: a literal, "=expression", or a dtype's name."""
    import torch

    if isinstance(wanted, str):
        if wanted.startswith("="):
            wanted = grammar.evaluate(wanted[1:], env)
        else:
            wanted = substitute(wanted, options)
            if isinstance(value, torch.dtype):
                return short_dtype(value) == wanted
            if isinstance(value, torch.device):
                return wanted in (value.type, str(value), "device")
            if wanted == "device":
                return str(value) == "meta"
            if wanted == "none":
                return value is None
    if isinstance(value, torch.Tensor):
        return False
    if wanted is None or value is None:
        return wanted is value
    if isinstance(wanted, bool) or isinstance(value, bool):
        return isinstance(value, bool) and value == wanted
    if isinstance(wanted, int | float) and isinstance(value, int | float):
        return math.isclose(value, wanted, rel_tol=1e-6, abs_tol=0.0)
    return type(value) is type(wanted) and value == wanted


def overlaps_itself(shape, strides):
    reach = 1
    for stride, size in sorted((s, n) for n, s in zip(shape, strides, strict=True) if n > 1):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


def overlap(a, b):
    """Whether two tensors share bytes. Column slices of one buffer do not."""
    if a.untyped_storage()._cdata != b.untyped_storage()._cdata or not a.numel() or not b.numel():
        return False
    first, second = _spans(a), _spans(b)
    if first[1] <= second[0] or second[1] <= first[0]:
        return False
    row = _row(a)
    if row and row == _row(b):
        # Slices of the same rows: compare where they lie within a row.
        x, y = first[0] % row, second[0] % row
        width_x, width_y = _width(a, row), _width(b, row)
        if x + width_x <= row and y + width_y <= row:
            return not (x + width_x <= y or y + width_y <= x)
    return True


def _spans(t):
    size = t.element_size()
    last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    start = t.storage_offset() * size
    return start, start + (last + 1) * size


def _row(t):
    """Bytes between rows: the smallest stride above the contiguous inner block."""
    size, reach = t.element_size(), 1
    for n, s in sorted(((n, s) for n, s in zip(t.shape, t.stride(), strict=True) if n > 1), key=lambda x: x[1]):
        if s > reach:
            return s * size
        reach = s * n
    return 0


def _width(t, row):
    size, reach = t.element_size(), 1
    for n, s in sorted(((n, s) for n, s in zip(t.shape, t.stride(), strict=True) if n > 1), key=lambda x: x[1]):
        if s * size >= row:
            break
        reach += (n - 1) * s
    return reach * size
