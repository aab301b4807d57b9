"""Follow the values of small tensors to torch's meta device.

A tensor on the meta device has a shape and no memory. Index tensors (offsets, ids, tables, lengths) are made on the
CPU and moved; this mode keeps their values beside them, through views, casts and arithmetic, so that checks see them
at full size. It also knows what was never written, what is one constant, and what was created or copied while the
timed call ran.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# Elements up to which values are kept: indices, and everything else (scales, biases).
INDEX_TYPES = (torch.int32, torch.int64, torch.int16, torch.bool)
MAX_INTEGERS = 1 << 22
MAX_OTHERS = 1 << 13

UNWRITTEN = "unwritten"
WRITTEN = "written"
RANDOM = "random"

_FACTORIES = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "zeros", "zeros_like",
    "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full", "arange", "linspace", "eye",
    "scalar_tensor", "rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "tril_indices",
}  # fmt: skip
_UNWRITTEN = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}
_RANDOM = {"rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm"}
_RANDOM_IN_PLACE = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_"}


class Memory:
    """What is known about one piece of storage, shared by all views of it."""

    __slots__ = ("state", "valid", "in_call")

    def __init__(self, state, in_call=False):
        self.state = state
        self.valid = True
        self.in_call = in_call


def memory_of(tensor):
    """Memory of a tensor, or None if it was made outside of the mode."""
    return getattr(tensor, "_rb_memory", None)


def value_of(tensor):
    """Values of a tensor as a CPU tensor, or None where they are unknown."""
    if not tensor.is_meta:
        return tensor if tensor.device.type == "cpu" else None
    memory = memory_of(tensor)
    if memory is None or not memory.valid:
        return None
    return getattr(tensor, "_rb_value", None)


def is_written(tensor):
    """Whether somebody wrote the tensor since it was allocated."""
    memory = memory_of(tensor)
    return memory is None or memory.state != UNWRITTEN


def constant_of(tensor):
    """The number that fills a tensor, or None where it is not known to be constant."""
    value = value_of(tensor)
    if value is None or not is_written(tensor) or value.numel() == 0:
        return None
    if any(stride for size, stride in zip(value.shape, value.stride(), strict=True) if size > 1):
        flat = value.reshape(-1)
        if value.dtype.is_floating_point and value.element_size() == 1:
            flat = flat.float()
        if not bool((flat == flat[0]).all()):
            return None
    index = (0,) * value.dim()
    return value[index].item()


def _keeps(tensor):
    return tensor.numel() <= (MAX_INTEGERS if tensor.dtype in INDEX_TYPES else MAX_OTHERS)


def _alone(args, kwargs):
    """Whether a tensor on the meta device is the only tensor among the arguments."""
    if not isinstance(args[0], torch.Tensor) or not args[0].is_meta:
        return False
    return not any(isinstance(a, torch.Tensor | tuple | list) for a in (*args[1:], *kwargs.values()))


class Shadow(TorchDispatchMode):
    """Dispatch mode under which a script's inputs are built and its kernel is called.

    in_call() says whether the timed call is running; on_event(kind, text) hears of what must not happen in there;
    on_op(func, args, kwargs) receives calls of operators that are not torch's own and returns their result.
    """

    @classmethod
    def _should_skip_dynamo(cls):
        """Nothing is compiled here; saying so spares every process the import of the compiler."""
        return False

    def __init__(self, in_call, on_event, on_op):
        super().__init__()
        self.in_call = in_call
        self.on_event = on_event
        self.on_op = on_op
        self.recording = True
        self.poison = False  # whether memory that nobody wrote shows on the CPU: NaN, or zero in integers

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace not in ("aten", "prim", "prims"):
            return self.on_op(func, args, kwargs)
        name = func._schema.name.partition("::")[2]
        if name == "_local_scalar_dense" and args[0].is_meta:
            return self._scalar(args[0])
        device = kwargs.get("device")
        if name == "_to_copy" and args[0].is_meta and device is not None and torch.device(device).type != "meta":
            return self._to_host(args[0], kwargs)
        if name == "copy_" and args[1].is_meta and not args[0].is_meta:
            return args[0].copy_(self._to_host(args[1], {"dtype": args[1].dtype}))
        result = self._run(name, func, args, kwargs)
        return result

    # Reading a tensor from the device.

    def _scalar(self, tensor):
        if self.recording and self.in_call():
            self.on_event("sync", "a tensor's value is read on the host (.item(), bool(), a Python index)")
        value = value_of(tensor)
        if value is None or not is_written(tensor):
            raise ValueError("the value of a tensor is read on the host, but it is not known without a GPU")
        return value.item()

    def _to_host(self, tensor, kwargs):
        if self.recording and self.in_call():
            self.on_event("sync", 'a tensor is copied to the host (.cpu(), .tolist(), .to("cpu"))')
        value = value_of(tensor)
        dtype = kwargs.get("dtype") or tensor.dtype
        if value is None or not is_written(tensor):
            if tensor.numel() > MAX_INTEGERS:
                raise ValueError(f"a tensor of {tensor.numel()} elements is copied to the host")
            return torch.zeros(tensor.shape, dtype=dtype)
        return value.to(dtype).clone()

    # Everything else.

    def _run(self, name, func, args, kwargs):
        if name.endswith("_") and args and _alone(args, kwargs):
            # In place and with no other tensor: no shape to compute, and torch would import its compiler to do it.
            self._write(name, func, args, kwargs)
            return args[0]
        result = func(*args, **kwargs)
        if not isinstance(result, torch.Tensor):
            if isinstance(result, tuple | list):
                self._attach_many(name, func, args, kwargs, result)
            return result
        if not result.is_meta:
            if self.poison and name in _UNWRITTEN:
                result.fill_(float("nan") if result.dtype.is_floating_point else 0)
            return result
        returns = func._schema.returns[0].alias_info
        if returns is not None and returns.is_write:
            self._write(name, func, args, kwargs)
        elif returns is not None:
            self._view(func, args, kwargs, result)
        else:
            self._make(name, func, args, kwargs, result)
        return result

    def _shadows(self, value):
        """The argument with meta tensors replaced by their values; raises LookupError where one is unknown."""
        if isinstance(value, torch.Tensor):
            if value.is_meta:
                known = value_of(value)
                if known is None:
                    raise LookupError
                return known
            return value
        if isinstance(value, tuple | list):
            return type(value)(self._shadows(v) for v in value)
        return value

    def _compute(self, func, args, kwargs):
        """The operator applied to the values, or None."""
        try:
            known_args = self._shadows(list(args))
            known = {k: self._shadows(v) for k, v in kwargs.items()}
        except LookupError:
            return None
        if known.get("device") is not None:
            known["device"] = torch.device("cpu")
        try:
            return func(*known_args, **known)
        except (RuntimeError, NotImplementedError, TypeError):
            return None

    def _make(self, name, func, args, kwargs, result):
        in_call = self.recording and self.in_call()
        if in_call and name != "scalar_tensor":
            shape = "x".join(map(str, result.shape)) or "scalar"
            made = "created" if name in _FACTORIES else f"computed by torch ({name})"
            self.on_event(
                "allocation", f"a tensor of shape {shape} {str(result.dtype).removeprefix('torch.')} is {made}"
            )
        state = UNWRITTEN if name in _UNWRITTEN else RANDOM if name in _RANDOM else WRITTEN
        inputs = [a for a in args if isinstance(a, torch.Tensor)]
        if state == WRITTEN and name in ("clone", "_to_copy") and inputs:
            source = memory_of(inputs[0])
            if source is not None and source.state != WRITTEN:
                state = source.state
        result._rb_memory = Memory(state, in_call)
        value = None
        if state == RANDOM or not _keeps(result):
            if state == WRITTEN and name in (
                "zeros",
                "zeros_like",
                "new_zeros",
                "ones",
                "ones_like",
                "new_ones",
                "full",
                "full_like",
                "new_full",
            ):
                scalar = torch.full((1,), self._fill(name, args)).to(result.dtype)
                value = scalar.reshape((1,) * result.dim()).expand(result.shape)
        elif state == UNWRITTEN:
            # A value that no index may have shows what was never written.
            odd = float("nan") if result.dtype.is_floating_point else -1 if result.dtype.is_signed else 1
            value = torch.full(result.shape, odd).to(result.dtype)
        else:
            value = self._compute(func, args, kwargs)
        result._rb_value = value

    @staticmethod
    def _fill(name, args):
        if "zeros" in name:
            return 0
        return 1 if "ones" in name else args[1]

    def _view(self, func, args, kwargs, result):
        base = next(a for a in args if isinstance(a, torch.Tensor))
        memory = memory_of(base)
        if memory is None:
            memory = base._rb_memory = Memory(WRITTEN)
        result._rb_memory = memory
        result._rb_value = self._compute(func, args, kwargs) if value_of(base) is not None else None

    def _attach_many(self, name, func, args, kwargs, results):
        metas = [r for r in results if isinstance(r, torch.Tensor) and r.is_meta]
        if not metas:
            return
        values = self._compute(func, args, kwargs)
        views = func._schema.returns[0].alias_info is not None
        base = next((a for a in args if isinstance(a, torch.Tensor)), None)
        for index, result in enumerate(results):
            if not isinstance(result, torch.Tensor):
                continue
            result._rb_memory = (memory_of(base) if views and base is not None else None) or Memory(WRITTEN)
            result._rb_value = values[index] if values is not None else None
        if self.recording and self.in_call() and not views:
            self.on_event("allocation", f"tensors are computed by torch ({name})")

    def _write(self, name, func, args, kwargs):
        target = args[0] if args and isinstance(args[0], torch.Tensor) else kwargs.get("out")
        if target is None or not target.is_meta:
            return
        if self.recording and self.in_call():
            self.on_event("write", f"torch writes a tensor ({name})")
        memory = memory_of(target)
        if memory is None:
            memory = target._rb_memory = Memory(WRITTEN)
        if name in _RANDOM_IN_PLACE:
            memory.state, memory.valid = RANDOM, False
            return
        covers = target.numel() * target.element_size() >= target.untyped_storage().nbytes()
        if (
            covers
            and name in ("zero_", "fill_")
            and not _keeps(target)
            and not isinstance(args[-1], torch.Tensor | bool)
        ):
            number = 0 if name == "zero_" else args[1]
            one = torch.full((1,), number).to(target.dtype).reshape((1,) * target.dim())
            target._rb_value, memory.state, memory.valid = one.expand(target.shape), WRITTEN, True
            return
        value = value_of(target)
        if value is None:
            memory.state, memory.valid = WRITTEN, False
            return
        expanded = any(stride == 0 and size > 1 for size, stride in zip(value.shape, value.stride(), strict=True))
        known = None if expanded else self._compute(func, args, kwargs)
        if known is None:
            memory.valid = False
        if memory.state == UNWRITTEN and not covers and known is None:
            memory.valid = False
        memory.state = WRITTEN
