"""One call of the kernel against its layout and its contract: what was given, what torch did meanwhile, what moved."""

import copy
import inspect

from roofbench import grammar
from roofbench.verify import expected

EVENTS = {
    "sync": ("kernel-call.sync", "no wait for the device"),
    "stream": ("kernel-call.stream", "the stream that is current: a graph captures no other"),
}


def compare(session, x, result):
    op = session.job.op(session.point[0], session.point[1])
    if op is None:
        return
    env = dict(session.returns_env)
    source = session.source
    check_events(session)
    kernel_calls = [c for c in session.calls if c.target in session.kernel_targets]
    session.report.passed("kernel-call.count")
    if len(kernel_calls) != 1 or len(session.calls) != 1:
        names = ", ".join(c.target.replace(":", ".") for c in session.calls) or "none"
        session.fail(
            "kernel-call.count",
            source.call_line(),
            "kernels called by one call_kernel",
            f"{len(session.calls)}: {names}",
            f"one, of {' or '.join(session.allowed_targets).replace(':', '.') or 'the kernel'}",
            session.job.from_catalogue("providers"),
        )
    if not kernel_calls:
        return
    call = kernel_calls[0]
    session.report.passed("kernel-call.bind")
    session.report.passed("imports.provider")
    if call.target not in session.allowed_targets:
        session.fail(
            "imports.provider",
            source.of("PROVIDERS"),
            "the kernel that is called",
            call.target,
            " or ".join(session.allowed_targets) or "no provider on this stack",
            session.job.from_catalogue("providers"),
        )
    call.all_defaults = defaults_of(session, call)
    session.order = order = list(call.all_parameters)
    try:
        mismatches = list(session.layout.compare(call, env))
    except grammar.GrammarError as error:
        session.fail(
            "shapes.shape",
            source.of("OPS"),
            "the layout cannot be evaluated",
            str(error),
            "dimensions of the spec",
            session.job.catalogue_path,
        )
        return
    count_layout(session)
    check_result(session, call, result)
    for item in mismatches:
        names = item.argument.split(" and ")
        line, subject = source.subject(names[0], order, item.check.startswith("shapes"))
        if len(names) > 1:
            subject = f"arguments {item.argument}"
        from_text = session.job.from_catalogue(item.key)
        if item.check == "shapes.shape":
            from_text += f"; dimensions from {session.job.from_ops_file(op)}"
        session.fail(item.check, line, subject, item.found, item.expected, from_text)
    seen = contract_call(session, call)
    broken = {m.argument for m in mismatches if m.check.startswith(("shapes", "kernel-call.missing"))}
    check_values(session, seen, env, order, broken)
    session.faulty |= broken
    check_names(session, call, x, order, broken)
    account(session, call, seen, env, op, broken)
    check_count(session, x, env)


def check_result(session, call, result):
    """What the kernel allocates and returns, call_kernel returns too: the reference is compared with it."""
    if not session.layout.returns or call.result is None:
        return
    session.report.passed("kernel-call.result")
    if result is not call.result:
        session.fail(
            "kernel-call.result",
            session.source.call_line(),
            "what call_kernel returns",
            type(result).__name__,
            "what the kernel returned",
            session.job.from_catalogue("returns"),
        )


def defaults_of(session, call):
    if call.target.startswith("torch.ops"):
        text = session.stack.signature_of(call.target) or ""
        names = [
            p.strip().rpartition(" ")[2].partition("=")[0]
            for p in text[text.find("(") + 1 : text.rfind(")")].split(",")
        ]
        call.all_parameters = [n for n in names if n]
        return {}
    from roofbench.verify.stack import signature

    text = session.stack.signature_of(call.target)
    found = signature(text) if text else inspect.Signature()
    call.all_parameters = list(found.parameters)
    return {n: p.default for n, p in found.parameters.items() if p.default is not p.empty}


def count_layout(session):
    tensors = len(session.layout.tensors())
    for check in ("shapes.shape", "shapes.dtype", "shapes.stride", "shapes.device"):
        session.report.passed(check, tensors)
    zeroed = sum(bool(i.get("zeroed")) for _, i in session.layout.arguments)
    if zeroed:
        session.report.passed("shapes.zeroed", zeroed)
    session.report.passed(
        "shapes.uninitialised", sum(i.get("role") in expected.READ_ROLES for _, i in session.layout.arguments)
    )
    session.report.passed("shapes.random", sum(i.get("role") in ("in", "inout") for _, i in session.layout.tensors()))
    session.report.passed("kernel-call.scalar", len(session.layout.arguments) - tensors)
    session.report.passed("kernel-call.missing", len(session.layout.arguments))
    session.report.passed("kernel-call.extra")
    session.report.passed("kernel-call.alias")


def fingerprint(calls):
    """What was called and with what: targets, numbers, and which memory tensors lie in."""
    return [(call.target, {name: _identity(value) for name, value in call.arguments.items()}) for call in calls]


def _identity(value):
    import torch

    if isinstance(value, torch.Tensor):
        return value.untyped_storage()._cdata, value.storage_offset(), tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return {name: _identity(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    fields = getattr(value, "_given", None)  # of a recorded class
    return {name: _identity(item) for name, item in fields.items()} if fields is not None else type(value)


def check_repeat(session, first):
    """A later call with the same inputs does what the first one did: that one was checked, this one is timed."""
    session.report.passed("kernel-call.repeat")
    found = fingerprint(session.calls)
    others = {f.check for f in session.report.findings.values()} - {"kernel-call.repeat"}
    if found == first or any(check.startswith("kernel-call.") for check in others):
        return
    if [target for target, _ in found] != [target for target, _ in first]:
        names = ", ".join(target.replace(":", ".") for target, _ in found) or "no kernel"
        text = f"calls {names}"
    else:
        pairs = zip(found, first, strict=True)
        names = [name for (_, mine), (_, other) in pairs for name in mine if mine[name] != other.get(name)]
        text = f"other values of {', '.join(names) or 'an argument'}"
    session.fail(
        "kernel-call.repeat",
        session.source.call_line(),
        "a later call with the same inputs",
        text,
        "the same call every time: the first one is checked, the others are timed",
        "docs/measurement.md",
    )


class Broken(RuntimeError):
    """What a kernel raises that cannot be launched."""


def check_errors(session, function, kernel, x):
    """What the kernel raises comes out of call_kernel: a benchmark that hides it would time something else."""
    known = any(f.check.startswith("kernel-call.") for f in session.report.findings.values())
    if known or not hasattr(kernel, "function"):
        return
    broken = copy.copy(kernel)

    def fails(*args, **kwargs):
        raise Broken("CUDA error: no kernel image is available for execution on the device")

    broken.function = fails
    session.report.passed("kernel-call.error")
    before, session.job.marks.phase = session.job.marks.phase, "off"
    try:
        with session.unrecorded(), session.shadow:
            function(broken, x)
    except Broken:
        return
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    else:
        found = "it returns as if nothing had happened"
    finally:
        session.job.marks.phase = before
    session.fail(
        "kernel-call.error",
        session.source.call_line(),
        "call_kernel, where the kernel raises an error",
        found,
        "the kernel's error, for the record",
        "docs/measurement.md, The sidecar",
    )


def check_events(session):
    session.report.passed("kernel-call.allocation")
    session.report.passed("kernel-call.sync")
    for kind, text, line in dict.fromkeys(session.events):
        check, wanted = EVENTS.get(kind, ("kernel-call.allocation", "tensors that make_inputs made"))
        session.fail(check, line or session.source.call_line(), "in the timed call", text, wanted)


def check_values(session, seen, env, order, broken):
    check = getattr(session.job.contract, "check", None)
    if check is None:
        return
    session.report.passed("shapes.value")
    try:
        findings = list(check(seen, env))
    except Exception as error:
        if broken:
            return  # the contract stumbles over what is reported already
        session.fail(
            "shapes.value",
            session.source.of("make_inputs"),
            "the contract cannot judge the call",
            f"{type(error).__name__}: {error}",
            "arguments that the contract understands",
            session.job.contract_path,
        )
        return
    for argument, found, wanted in findings:
        subject = argument if argument in session.source.functions else f"argument {argument}"
        in_call, made = session.source.argument(argument, order)
        line = made or in_call or session.source.of(argument if argument in session.source.functions else "make_inputs")
        session.fail("shapes.value", line, subject, found, wanted, session.job.contract_path)


def check_names(session, call, x, order, broken):
    """A tensor goes where the reference looks for it: x["name"], where there is one, is argument `name`."""
    from roofbench.verify import shadow

    if not isinstance(x, dict):
        return
    for index, item in session.layout.tensors():
        given = expected.lookup(call.arguments, item["name"])
        session.report.passed("kernel-call.name")
        if item["name"] in broken or getattr(shadow.memory_of(given), "in_call", False):
            continue
        if item["name"] in x and given is not x[item["name"]]:
            key = next((k for k, v in x.items() if v is given), None)
            in_call, _ = session.source.argument(item["name"], order)
            session.fail(
                "kernel-call.name",
                in_call or session.source.call_line(),
                f"argument {item['name']}",
                f"x[{key!r}]" if key else "another tensor",
                f"x[{item['name']!r}], which the reference reads",
                session.job.from_catalogue(session.layout.key(index, item)),
            )


def check_count(session, x, env):
    """The number of activated experts that goes into the sidecar is the number that the contract counts."""
    if isinstance(x, dict) and "active_experts" in x and "active_experts" in env:
        session.report.passed("metrics.experts")
        if x["active_experts"] != env["active_experts"]:
            line = session.source.argument("active_experts")[1] or session.source.of("make_inputs")
            session.fail(
                "metrics.experts",
                line,
                "activated experts",
                x["active_experts"],
                env["active_experts"],
                session.job.contract_path,
            )


def account(session, call, seen, env, op, broken):
    """FLOPs and bytes of this point, from the contract and the recorded tensors."""
    counts = getattr(session.job.contract, "counts", None)
    try:
        if counts is not None:
            env.update(counts(seen, env) or {})
        flops = session.job.contract.flops(env)
        traffic = session.layout.traffic(call, env, broken)
    except (grammar.GrammarError, KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        if not broken:
            session.fail(
                "metrics.bytes",
                session.source.of("cost"),
                "the traffic cannot be computed",
                f"{type(error).__name__}: {error}",
                "known values of the routed ids",
                session.job.contract_path,
            )
        return
    session.flops.setdefault(session.point, flops)
    session.traffic.setdefault(session.point, sum(traffic.values()))
    session.parts.setdefault(session.point, (traffic, env.get("active_experts")))


def contract_call(session, call):
    helpers = {target: list(calls) for target, calls in session.helpers.items()}
    return ContractCall(call, session.layout, helpers, session.job.spec.get("routing"))


class ContractCall:
    """What a contract's check() sees of a call: tensors, the values of small ones, scalars, and helper calls."""

    def __init__(self, call, layout, helpers, routing=None):
        from roofbench.verify import shadow

        self.arguments = call.arguments
        self.target = call.target
        self.tensors, self.values, self.helpers = {}, {}, helpers
        self.routing = routing
        import torch

        for _, item in layout.tensors():
            value = expected.lookup(call.arguments, item["name"])
            if isinstance(value, torch.Tensor):
                self.tensors[item["name"]] = value
                known = shadow.value_of(value) if shadow.is_written(value) else None
                self.values[item["name"]] = known
            else:
                self.values[item["name"]] = None

    def argument(self, name, default=None):
        """An argument by (nested) name, or the default where it was not given."""
        value = expected.lookup(self.arguments, name)
        return default if value is expected.MISSING else value
