"""What a script says of its kernel at the top level: names, ops, providers, BENCHMARK."""


def check_constants(session, module):
    """KERNEL, SOURCE, COMPUTE_DTYPE and OPTIONS are those of the spec. False where it is another kernel's script."""
    spec, source = session.job.spec, session.source
    wanted = {
        "KERNEL": ("imports.kernel", spec["kernel"], "the spec"),
        "SOURCE": ("imports.source", spec["source"], "the spec"),
        "COMPUTE_DTYPE": ("metrics.peak", spec["compute_dtype"], f"{session.job.catalogue_path}, compute_dtype"),
    }
    if spec.get("options"):
        wanted["OPTIONS"] = ("kernel-call.options", spec["options"], f"{session.job.catalogue_path}, options")
    for name, (check, value, origin) in wanted.items():
        session.report.passed(check)
        found = getattr(module, name, None)
        if found != value:
            session.fail(check, source.of(name), name, repr(found), repr(value), origin)
        carried = getattr(module.BENCHMARK, name.lower(), None)
        if name != "OPTIONS" and found == value and carried is not None and carried != value:
            session.fail(check, source.of("BENCHMARK"), f"BENCHMARK.{name.lower()}", repr(carried), repr(value), origin)
    return getattr(module, "KERNEL", None) == spec["kernel"]


def check_benchmark(session, module):
    """BENCHMARK holds this script's functions and what the catalogue says of the kernel."""
    job, source, benchmark = session.job, session.source, module.BENCHMARK
    place = source.of("BENCHMARK")
    for name in ("make_inputs", "call_kernel", "cost", "columns", "not_applicable"):
        session.report.passed("output.benchmark")
        if getattr(benchmark, name) is not getattr(module, name):
            found = getattr(getattr(benchmark, name), "__name__", repr(getattr(benchmark, name)))
            session.fail("output.benchmark", place, f"BENCHMARK.{name}", found, f"this script's {name}")
    if list(benchmark.ops) != list(module.OPS):
        session.fail("output.benchmark", place, "BENCHMARK.ops", f"{len(benchmark.ops)} ops", "this script's OPS")
    entry = job.entry
    wanted = {
        "catalogue": (job.spec["catalogue"], "the spec"),
        "category": (entry["category"], job.from_catalogue("category")),
        "min_compute_capability": (entry.get("min_compute_capability"), job.from_catalogue("min_compute_capability")),
        "compute_capabilities": (entry.get("compute_capabilities") or [], job.from_catalogue("compute_capabilities")),
        "sweep": (job.spec["sweep"]["kind"], "the spec"),
        "routing": (job.spec.get("routing"), "the spec"),
        "options": (job.spec.get("options") or {}, job.from_catalogue("options")),
    }
    for name, (value, origin) in wanted.items():
        found = getattr(benchmark, name, None)
        session.report.passed("output.benchmark")
        if (list(found) if isinstance(value, list) and found is not None else found) != value:
            session.fail("output.benchmark", place, f"BENCHMARK.{name}", repr(found), repr(value), origin)
    session.report.passed("output.tolerance")
    for field in ("rtol", "atol", "cosine", "match_fraction"):
        name, value = field, entry["tolerance"].get(field)
        found = getattr(benchmark.tolerance, name, None)
        if found != value:
            session.fail(
                "output.tolerance", place, f"the tolerance {name}", found, value, job.from_catalogue("tolerance")
            )


def check_ops(session, module):
    """OPS has the ops of the spec with their dimensions."""
    job, place = session.job, session.source.of("OPS")
    ops = script_ops(module)
    for op in job.spec["ops"]:
        found = ops.get((op["op"], op["phase"]))
        session.report.passed("shapes.dims", len(op["dims"]))
        if found is None:
            continue
        line = line_with(session.source, f'"{op["op"]}", "{op["phase"]}"') or place
        if any(found.dims.get(name, value) != value for name, value in op["dims"].items()):
            session.own_dims[op["op"], op["phase"]] = dict(found.dims)
        for name, value in op["dims"].items():
            if found.dims.get(name, value) != value:
                session.fail(
                    "shapes.dims",
                    line,
                    f"dimension {name} of {op['op']} ({op['phase']})",
                    found.dims.get(name),
                    value,
                    job.from_ops_file(op),
                )


def check_providers(session, module):
    """The provider that this stack would use is one that the catalogue allows there, and it exists."""
    job, source, stack = session.job, session.source, session.stack
    allowed = session.allowed_targets
    session.report.passed("imports.provider")
    targets = [getattr(p, "target", str(p)) for p in module.BENCHMARK.providers]
    for target in targets:
        known = [p for p in job.entry["providers"] if p["target"] == target]
        if not known:
            session.fail(
                "imports.provider",
                line_with(source, target) or source.of("PROVIDERS"),
                "a provider",
                target,
                " or ".join(dict.fromkeys(p["target"] for p in job.entry["providers"])),
                job.from_catalogue("providers"),
            )
        elif job.spec["source"] not in {p["source"] for p in known}:
            session.fail(
                "imports.provider",
                line_with(source, target) or source.of("PROVIDERS"),
                "a provider",
                f"{target}, of source {known[0]['source']}",
                f"a provider of source {job.spec['source']}",
                job.from_catalogue("providers"),
            )
    for provider in module.BENCHMARK.providers:
        for known in (p for p in job.entry["providers"] if p["target"] == provider.target):
            for name in ("requires", "package"):
                if getattr(provider, name) != known.get(name):
                    session.fail(
                        "imports.provider",
                        line_with(source, provider.target) or source.of("PROVIDERS"),
                        f"{name} of the provider {provider.target}",
                        repr(getattr(provider, name)),
                        repr(known.get(name)),
                        job.from_catalogue(f"providers[{job.entry['providers'].index(known)}]"),
                    )
    for target in allowed:
        session.report.passed("imports.name")
        if not stack.has(target):
            session.fail(
                "imports.name",
                source.of("PROVIDERS"),
                target.replace(":", "."),
                f"missing in the stack {session.stack_name}",
                "a function of the pinned packages",
                f"config/stacks/{session.stack_name}.json",
            )
    for helper in job.entry.get("helpers", []):
        if session.stack_name in helper.get("stacks", [session.stack_name]):
            session.report.passed("imports.name")
            if not stack.has(helper["target"]):
                session.fail(
                    "imports.name",
                    source.place(None),
                    helper["target"].replace(":", "."),
                    f"missing in the stack {session.stack_name}",
                    "a function of the pinned packages",
                    f"config/stacks/{session.stack_name}.json",
                )
    present = [t for t in targets if stack.has(t)]
    if allowed and not present:
        session.fail(
            "imports.provider",
            source.of("PROVIDERS"),
            f"no provider of the stack {session.stack_name}",
            ", ".join(targets) or "none",
            " or ".join(allowed),
            job.from_catalogue("providers"),
        )
    elif present and present[0] not in allowed:
        session.fail(
            "imports.provider",
            line_with(source, present[0]) or source.of("PROVIDERS"),
            f"the provider that the stack {session.stack_name} would use",
            present[0],
            " or ".join(allowed) or "none",
            job.from_catalogue("providers"),
        )


def line_with(source, text):
    for number, line in enumerate(source.text.splitlines(), 1):
        if text in line and not line.lstrip().startswith(("#", '"""')):
            if "Provider(" in line or f'"{text}"' in line:
                return number
    return None


def script_ops(module):
    return {(op.name, op.phase): op for op in module.OPS}


def check_helpers(session):
    """The functions beside the kernel that the catalogue names, such as the one that tunes it, were called."""
    job = session.job
    for index, helper in enumerate(job.entry.get("helpers", [])):
        if session.stack_name not in helper.get("stacks", [session.stack_name]):
            continue
        if (session.stack.signature_of(helper["target"]) or "").startswith("class "):
            continue  # making an object leaves no call behind
        session.report.passed("kernel-call.helper")
        if helper["target"] not in session.helpers:
            session.fail(
                "kernel-call.helper",
                session.source.of("BENCHMARK"),
                helper["target"].replace(":", "."),
                "never called",
                "a call before the timing",
                job.from_catalogue(f"helpers[{index}]"),
            )
