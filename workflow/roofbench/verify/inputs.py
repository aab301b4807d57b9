"""Inputs beyond their shapes: sets that do not share memory, values that are random and depend on the seed.

A sweep on the meta device makes one set for each point and holds no values of large tensors. Here two sets are made
for each op: once on the meta device, to see which memory they share, and once on the CPU, at a small size, to look at
the values. Memory that nobody wrote is NaN there.
"""

from roofbench.verify import expected
from roofbench.verify.calls import check_errors, check_values, contract_call
from roofbench.verify.declared import script_ops

# Traffic that may come out of the cache without being noticed.
NEGLIGIBLE = 0.01
SEEDS = (0, 1)
# Sets up to this size are made on the CPU as they are; of larger ones the dimensions are reduced.
SMALL = 2 << 20
MOSTLY = 0.5
SAMPLE = 1 << 16
WIDE = 16


def check_inputs(session, module):
    """Two sets of each op, at its smallest point of more than one token, where it has one."""
    from bench_utils import Point

    ops = script_ops(module)
    for spec_op in session.job.spec["ops"]:
        op = ops.get((spec_op["op"], spec_op["phase"]))
        points = [
            Point(p["B"], p["S"], p.get("L", p["S"]), p["B"] if spec_op["phase"] == "decode" else p["B"] * p["S"])
            for p in spec_op["points"]
        ]
        if op is None or not points or session.kernel is None:
            continue
        point = min(points, key=lambda p: (p.T < 2, p.T * p.L))
        calls = _calls(session, module, op, point, "meta")
        if calls is None:
            return
        _check_memory(session, spec_op, calls)
        if not session.report.checked.get("kernel-call.error"):
            with session.shadow:
                x = module.BENCHMARK.make_inputs(op, point, "meta", SEEDS[0])
            check_errors(session, module.call_kernel, session.kernel, x)
        if session.stack_name != min(session.job.snapshots):
            continue
        small = _small(session, module, op, point, calls)
        values = None if small is None else _calls(session, module, small, point, "cpu")
        if values is None:
            return
        _check_values(session, values)
        if session.report.ok:
            call = values[0][1]
            check_values(session, contract_call(session, call), dict(session.returns_env), session.order, ())


def _calls(session, module, op, point, device):
    """[(inputs, recorded call)] with both seeds, or None, with a finding, where the script raises."""
    session.enter_point((op.name, op.phase, point.B, point.S, point.L))
    if session.returns_env is not None:
        session.returns_env = {**session.returns_env, **op.dims}
        session.made = None
    found = []
    marks, marks.phase = session.job.marks, "off"
    session.shadow.poison = device == "cpu"
    try:
        for seed in SEEDS:
            with session.shadow:
                x = module.make_inputs(op, point, device, seed)
                session.calls = []
                module.call_kernel(session.kernel, x)
            calls = [call for call in session.calls if call.target in session.kernel_targets]
            if not calls:
                return None
            found.append((x, calls[0]))
    except (Exception, SystemExit) as error:
        where = f" on the CPU, with {', '.join(f'{k}={v}' for k, v in op.dims.items())}" if device == "cpu" else ""
        session.script_error(error, f"making a second set of inputs raises{where}", "shapes.build")
        return None
    finally:
        marks.phase = None
        session.shadow.poison = False
    return found


def _tensors(session, call):
    """(catalogue index, item, tensor) of the tensors in a call."""
    import torch

    for index, item in session.layout.tensors():
        value = expected.lookup(call.arguments, item["name"])
        if isinstance(value, torch.Tensor):
            yield index, item, value


def _storage(tensor):
    return tensor.untyped_storage()._cdata


def _bytes(session, call):
    storages = {
        _storage(t): t.untyped_storage().nbytes() for _, i, t in _tensors(session, call) if i.get("role") != "workspace"
    }
    return sum(storages.values())


def _small(session, module, op, point, calls):
    """The op, with dimensions that fit on a CPU where its own do not; None where no call can be made with them."""
    from bench_utils import Op

    if _bytes(session, calls[0][1]) <= SMALL:
        return op
    large = sorted({v for v in op.dims.values() if v > 512})
    dims = {k: 256 + 128 * large.index(v) if v in large else v for k, v in op.dims.items()}
    for most in (512, 64, 16):
        small = Op(
            op.name,
            op.phase,
            **{k: min(v, most) if v not in large and op.dims[k] <= 512 else v for k, v in dims.items()},
        )
        found = _calls(session, module, small, point, "meta")
        if found is None or _bytes(session, found[0][1]) <= SMALL:
            break
    return small if found else None


def _check_memory(session, spec_op, calls):
    """What a call reads and writes lies elsewhere in the next set, unless it is larger than the cache."""
    (first, one), (second, other) = calls
    session.report.passed("shapes.shared")
    owned = {_storage(t) for _, _, t in _tensors(session, one)}
    moved, _ = session.parts.get(session.point, ({}, None))
    total = sum(moved.values())
    cache = session.job.roof.l2_bytes
    for index, item, tensor in _tensors(session, other):
        nbytes = tensor.untyped_storage().nbytes()
        small = moved.get(item["name"], 0) <= NEGLIGIBLE * total
        if item.get("role") == "workspace" or small or _storage(tensor) not in owned or nbytes >= cache:
            continue
        line, subject = session.source.subject(item["name"], session.order)
        session.fail(
            "shapes.shared",
            line,
            subject,
            f"the same memory in every input set, {nbytes / 1e6:.3g} MB of {cache / 1e6:.0f} MB of cache",
            "memory of its own in each set: what consecutive calls share comes out of the cache",
            f"docs/measurement.md, Cold; {session.job.from_catalogue(session.layout.key(index, item))}",
        )


def _check_values(session, calls):
    """What the kernel computes with is filled, finite, not one number, and other with another seed."""
    import torch

    (_, one), (_, other) = calls
    again = {item["name"]: tensor for _, item, tensor in _tensors(session, other)}
    varies, same = False, []
    for index, item, tensor in _tensors(session, one):
        if item.get("role") not in expected.READ_ROLES:
            continue
        if item["name"] in session.faulty or tensor.device.type != "cpu":
            varies = True  # nothing to be seen here
            continue
        second = again.get(item["name"])
        shared = second is not None and _storage(second) == _storage(tensor)
        equal = second is None or (second.shape == tensor.shape and bool(torch.equal(_plain(tensor), _plain(second))))
        varies = varies or not equal
        session.report.passed("shapes.random")
        if item["role"] == "index":
            continue
        problem = _problem(item, tensor)
        if problem:
            varies = True
            _fail(session, index, item, *problem)
        elif equal and not shared and not item.get("fixed") and expected.is_operand(item, tensor):
            same.append((index, item))
    session.report.passed("shapes.seed")
    if not varies:
        session.fail(
            "shapes.seed",
            session.source.of("make_inputs"),
            "make_inputs",
            "the same values with every seed",
            "values that depend on the seed: each input set has its own",
            "docs/design.md, A generated script",
        )
        return
    for index, item in same:
        found, wanted = "the same values with every seed", "values that depend on the seed: each input set has its own"
        _fail(session, index, item, "shapes.seed", found, wanted)


def _fail(session, index, item, check, found, wanted):
    line, subject = session.source.subject(item["name"], session.order)
    session.fail(
        check,
        line,
        subject,
        found,
        wanted,
        session.job.from_catalogue(session.layout.key(index, item, "role")),
    )


def _plain(tensor):
    """The tensor in a type that the CPU can compare."""
    if tensor.dtype.is_floating_point and tensor.element_size() == 1:
        return tensor.float()
    return tensor


def _problem(item, tensor):
    """(check, found, expected) of the first thing that is wrong with the values of an argument, or None."""
    import torch

    if not tensor.numel():
        return None
    values = _plain(tensor)
    if values.dtype.is_floating_point:
        bad = int((~torch.isfinite(values)).sum())
        if bad:
            share = f"{bad} of {values.numel()} elements are NaN or infinite, or were never written"
            return "shapes.uninitialised", share, "finite values, written before the call"
        if bool((values == 0).all()) and "bias" not in item["name"]:
            return "shapes.random", "all zeros", "values that are not all zero: with them the output check is trivial"
    if item.get("fixed") or not expected.is_operand(item, tensor):
        return None
    wanted = "random values: constant operands flatter power and clocks, and make the output check trivial"
    some = values.flatten()[:: max(1, values.numel() // SAMPLE)].float()
    most = some.mode().values.item()
    share = float((some == most).double().mean())
    if share > MOSTLY:
        return "shapes.random", f"{most:g} in {100 * share:.0f} % of the elements", wanted
    for dim, size in enumerate(values.shape):
        if 1 < size and values.numel() // size >= WIDE and bool((values == values.narrow(dim, 0, 1)).all()):
            return "shapes.random", f"the same numbers all along dimension {dim} of {list(values.shape)}", wanted
    return None
