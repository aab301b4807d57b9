"""FLOPs, bytes and roofline figures that a script reports, against the contract and the recorded tensors."""

import math

from roofbench.verify import metrics
from roofbench.verify.declared import script_ops
from roofbench.verify.job import spec_points


def check_figures(session, rows, points):
    """Every cell of every row against the spec, the contract's FLOPs, the recorded bytes and the fake clock."""
    job, source = session.job, session.source
    dtype = job.spec["compute_dtype"]
    for check in ("metrics.flops", "metrics.bytes", "metrics.columns", "metrics.latency", "metrics.bound"):
        session.report.passed(check, len(rows))
    for key in worst_first(session, rows):
        row = rows[key]
        op, point = points[key]
        if row["kernel"] != job.spec["kernel"]:
            session.fail(
                "output.field", source.of("KERNEL"), "kernel", row["kernel"], job.spec["kernel"], "the spec", key
            )
        for name in ("M", "N", "K"):
            if row[name] != str(point[name]) and key[:2] not in session.own_dims:
                session.fail(
                    "metrics.columns",
                    source.of("columns"),
                    name,
                    row[name],
                    point[name],
                    f"{job.from_catalogue('columns')}; dimensions from {job.from_ops_file(op)}",
                    key,
                )
        if key not in session.traffic:
            continue
        flops, nbytes, latency = session.flops[key], session.traffic[key], session.latency.get(key)
        if not check_cost(session, key, flops, nbytes):
            session.wrong_costs.add(key)
            continue
        if latency is None:
            continue
        want = job.roof.row(flops, nbytes, dtype, latency)
        places = {
            "latency_ms": "metrics.latency",
            "gflops": "metrics.rates",
            "bandwidth_gbs": "metrics.rates",
            "arith_intensity": "metrics.intensity",
            "peak_pct": "metrics.peak",
        }
        for name, check in places.items():
            session.report.passed(check)
            if not metrics.cell_agrees(row[name], want[name], metrics.DECIMALS[name]):
                session.fail(
                    check,
                    source.of("run_benchmarks"),
                    name,
                    row[name],
                    f"{want[name]:.{metrics.DECIMALS[name]}f}, {metrics.DECIMALS[name]} decimals",
                    f"the fake clock's {latency} ms, {flops:g} FLOPs, {nbytes:g} bytes, peaks of {job.roof.name}",
                    key,
                )
        if row["bound"] != want["bound"]:
            session.fail(
                "metrics.bound",
                source.of("run_benchmarks"),
                "bound",
                row["bound"],
                want["bound"],
                f"the roofline of {dtype} on {job.roof.name}",
                key,
            )


def check_cost(session, key, flops, nbytes):
    """What cost() returned with inputs. True where it agrees."""
    source, job = session.source, session.job
    agrees = True
    for cost in given_costs(session, key):
        if not metrics.close(cost.flops, flops, metrics.EXACT):
            session.fail(
                "metrics.flops",
                source.cost_place("flops"),
                "FLOPs",
                f"{cost.flops:.10g}",
                f"{flops:.10g}{ratio(cost.flops, flops)}",
                job.contract_path,
                key,
            )
            agrees = False
        if not metrics.close(cost.bytes, nbytes, metrics.EXACT):
            session.fail(
                "metrics.bytes",
                source.cost_place("bytes"),
                "bytes",
                f"{cost.bytes:.12g}",
                f"{nbytes:.12g}{ratio(cost.bytes, nbytes)}{parts_of(session, key)}",
                f"the recorded tensors and {job.catalogue_path}, arguments (role, traffic)",
                key,
            )
            agrees = False
        if not agrees:
            break
    return agrees


def check_dry_cost(session, module):
    """cost() without inputs, which --dry-run uses, says the same, with the expected number of activated experts."""
    from bench_utils import Point

    job = session.job
    points, _ = spec_points(job.spec)
    ops = script_ops(module)
    counted = job.entry.get("active_experts") == "counted"
    wrong = []
    for key, (spec_op, _) in points.items():
        if key not in session.traffic or key[:2] not in ops or key in session.wrong_costs:
            continue
        T = key[2] if spec_op["phase"] == "decode" else key[2] * key[3]
        session.report.passed("metrics.dry-run")
        try:
            cost = module.cost(ops[key[:2]], Point(B=key[2], S=key[3], L=key[4], T=T))
        except Exception as error:
            session.script_error(error, "cost without inputs raises", "metrics.dry-run")
            return
        flops, nbytes = session.flops[key], session.traffic[key]
        # The expected number of experts is close to the counted one, and never far from it.
        tolerance = 0.5 if counted else metrics.EXACT
        agree = metrics.close(cost.flops, flops, metrics.EXACT) and metrics.close(cost.bytes, nbytes, tolerance)
        if not agree:
            wrong.append((off(cost, flops, nbytes), key, cost, flops, nbytes))
    about = "about " if counted else ""
    for _, key, cost, flops, nbytes in sorted(wrong, key=lambda item: item[0], reverse=True):
        session.fail(
            "metrics.dry-run",
            session.source.of("cost"),
            "FLOPs and bytes without inputs",
            f"{cost.flops:.10g} and {cost.bytes:.10g}",
            f"{flops:.10g} and {about}{nbytes:.10g}{ratio(cost.bytes, nbytes)}",
            f"{job.contract_path}, the recorded tensors and {job.catalogue_path}, arguments (role, traffic)",
            key,
        )


def given_costs(session, key):
    """Costs that the script computed with inputs, else those without."""
    costs = session.costs.get(key, [])
    return [cost for with_inputs, cost in costs if with_inputs] or [cost for _, cost in costs]


def worst_first(session, keys):
    """Points in the order of how far their costs are off, so that a message shows the error where it is largest."""

    def distance(key):
        if key not in session.traffic:
            return 0.0
        return max(
            (off(cost, session.flops[key], session.traffic[key]) for cost in given_costs(session, key)), default=0.0
        )

    return sorted(keys, key=distance, reverse=True)


def off(cost, flops, nbytes):
    """How far FLOPs or bytes are off, as the logarithm of a factor."""
    pairs = [(found, wanted) for found, wanted in ((cost.flops, flops), (cost.bytes, nbytes)) if found != wanted]
    return max((abs(math.log(f / w)) if f > 0 and w > 0 else math.inf for f, w in pairs), default=0.0)


def parts_of(session, key):
    """What the bytes are made of, in words."""
    traffic, experts = session.parts.get(key, ({}, None))
    parts = sorted(((n, name) for name, n in traffic.items() if n), reverse=True)
    text = " + ".join(f"{name} {n:.12g}" for n, name in parts[:5])
    if len(parts) > 5:
        text += f" + {len(parts) - 5} smaller ones"
    op = session.job.op(key[0], key[1])
    total = (op or {}).get("dims", {}).get("E")
    activated = f"; {experts:.4g} of {total} experts are activated" if experts is not None and total else ""
    return f": {text}{activated}" if text else ""


def ratio(found, wanted):
    if not wanted or not found:
        return ""
    if abs(found / wanted - 1) < 0.01:
        return f" (found is {abs(found - wanted):.10g} {'more' if found > wanted else 'less'})"
    return f" (found is {found / wanted:.4g} times that)"
