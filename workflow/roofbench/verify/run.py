"""Run a script as it would run on the GPU machine, with recorders for kernels, torch's meta device and a fake clock.

Everything here happens in a forked process (see sandbox.py), once for each stack. What comes back is a Report.
"""

import torch

from roofbench.verify import command_line, declared, figures, inputs, loading, sandbox, sweep, written
from roofbench.verify.session import Enough, Session, make_runtime
from roofbench.verify.shadow import Shadow


def run_stack(job, stack_name, folder):
    """Verify one script on one stack, in a forked process. Returns {"report": Report, "points": {...}}."""
    session = Session(job, stack_name, folder)
    session.compute_dtype = job.spec["compute_dtype"]
    providers = [p for p in job.entry["providers"] if p["source"] == job.spec["source"]]
    session.allowed_targets = [p["target"] for p in providers if stack_name in p["stacks"]]
    session.kernel_targets = {p["target"] for p in job.entry["providers"]}
    try:
        run_script(session)
    except Enough:
        pass
    except KeyboardInterrupt as error:
        if session.report.ok:
            session.script_error(error, "the script raises")
    session.job.stop_early = False
    broken = session.seal.broken() if session.seal else []
    session.point = None
    session.report.passed("output.isolation")
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        session.fail(
            "output.isolation",
            session.source.changed(broken[0].rpartition(".")[2]),
            "the script replaces what is not its own",
            ", ".join(broken[:3]) + more,
            "functions and settings of the bundle, of torch and of the packages as they are",
        )
    if session.surroundings:
        for check, line, subject, found, wanted in session.surroundings.findings(session.source):
            session.fail(check, line, subject, found, wanted)
    known = {f.check for f in session.report.findings.values()}
    for text, frames in sandbox.violations:
        if known.isdisjoint({"output.isolation", "output.exit"} if "os._exit" in text else {"output.isolation"}):
            wanted = "a benchmark that keeps to its process and its output folder"
            line = next((line for file, line in frames if file == session.source.path), None)
            session.fail("output.isolation", line, "the script", text, wanted)
    return {"report": session.report, "points": len(session.traffic), "seen": job.marks.seen()}


def run_script(session):
    """All checks that need the script to run; findings go to session.report."""
    job = session.job
    # Two stacks run beside each other, and other scripts beside them.
    torch.set_num_threads(1)
    loading.prepare_imports(job)
    session.stack.install()
    loading.patch_torch(session, torch)
    session.shadow = Shadow(lambda: session.in_call, session.on_event, session.on_op)
    module = loading.load(session)
    if module is None:
        return
    if not declared.check_constants(session, module):
        return
    declared.check_benchmark(session, module)
    declared.check_ops(session, module)
    declared.check_providers(session, module)
    if not session.report.ok:
        # A kernel from the wrong place would only repeat itself as hundreds of other findings.
        if any(f.check == "imports.provider" for f in session.report.findings.values()):
            return
    import benchlib.runtime

    runtime = make_runtime(benchlib.runtime, job.roof, session)
    benchlib.runtime.set_runtime(runtime)
    session.runtime = runtime
    attempts = sweep.watch_measure(session, module)
    module.BENCHMARK = sweep.observed(session, module)
    output = session.folder / "results"
    neighbours = written.put_neighbours(output)
    if sweep.run_benchmarks(session, module, {"output_dir": str(output)}):
        sweep.check_method(session)
        sweep.check_loops(session, attempts)
        written.check_output(session, output)
        written.check_neighbours(session, output, neighbours)
    elif attempts:
        sweep.check_loops(session, attempts, finished=False)
    sweep.check_not_applicable(session, module)
    figures.check_dry_cost(session, module)
    if session.kernel is not None and not session.raised:
        inputs.check_inputs(session, module)
        session.point = None
        declared.check_helpers(session)
    if session.report.ok:
        sweep.check_short_sweep(session, module, attempts)
    if session.report.ok and attempts is not None:
        sweep.check_endings(session, module)
    if session.report.ok and session.stack_name == min(job.snapshots):
        command_line.check_command_line(session, module, attempts)
