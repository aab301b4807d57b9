"""The script's command line, as `python bench_NAME.py` runs it: options, points, a short run, a dry run."""

import ast
import contextlib
import dataclasses
import io
import json
import os
import re
import sys

from roofbench.verify import sandbox, sweep
from roofbench.verify.job import spec_points
from roofbench.verify.stack import PACKAGES

# Options of a run that the command line sets itself.
SET_BY_CLI = ("plan", "on_point", "on_end", "command", "record", "journal_dir", "mode", "keep")


def check_command_line(session, module, attempts):
    """--help names the options; points, settings and exit status are right; --dry-run needs no kernel packages."""
    import bench_utils

    source = session.source
    if not hasattr(bench_utils, "main"):
        return
    session.point = None
    session.report.passed("output.cli")
    blocks = [node for node in source.tree.body if _is_main(node)]
    if not blocks:
        session.fail(
            "output.cli",
            len(source.text.splitlines()),
            "the script, run as a program",
            'nothing that runs: no `if __name__ == "__main__":`',
            "sys.exit(main(BENCHMARK, run_benchmarks))",
        )
        return
    program = Program(session, module, blocks)
    for check in (_check_help, _check_points, _check_status, _check_short_run, _check_dry_run):
        check(session, program, attempts)
        if not session.report.ok:
            return


def _is_main(node):
    return isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))


class Program:
    """The script's main block."""

    def __init__(self, session, module, blocks):
        self.session, self.module = session, module
        self.place = session.source.place(blocks[0].body[0].lineno)
        self.code = compile(ast.Module(blocks, []), session.source.path, "exec")

    def run(self, arguments, hooks=False):
        """(exit status, standard output, standard error). Without hooks the script may do without what inputs need."""
        out, err = io.StringIO(), io.StringIO()
        argv, sys.argv = sys.argv, [self.module.__file__, *arguments]
        width, observed = os.environ.get("COLUMNS"), self.module.BENCHMARK
        os.environ["COLUMNS"] = "400"
        if not hooks:
            plain = {name: getattr(observed, name)._function for name in sweep.HOOKED}
            self.module.BENCHMARK = dataclasses.replace(observed, **plain)
        names = {**self.module.__dict__, "__name__": "__main__"}
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), self.session.shadow:
                exec(self.code, names)
            status = None
        except SystemExit as error:
            status = error.code or 0
        except sandbox.Denied:
            raise
        except Exception as error:
            status = f"{type(error).__name__}: {error}"
        finally:
            sys.argv, self.module.BENCHMARK = argv, observed
            if width is None:
                del os.environ["COLUMNS"]
            else:
                os.environ["COLUMNS"] = width
        return status, out.getvalue(), err.getvalue()

    def fail(self, subject, found, wanted, source=""):
        self.session.fail("output.cli", self.place, subject, found, wanted, source)


def _check_help(session, program, attempts):
    spec = session.job.spec
    status, out, err = program.run(["--help"])
    flags = ["--batch-sizes", "--output", "--op", "--phase", "--hardware", "--dry-run"]
    flags.append("--kv-lens" if spec["sweep"]["kind"] == "kv" else "--seq-lens")
    missing = [flag for flag in flags if not re.search(rf"{re.escape(flag)}\b", out + err)]
    if status or missing:
        found = f"without {', '.join(missing)}" if missing else _end(status, out + err)
        program.fail("--help", found, "all options of a benchmark")


def _check_points(session, program, attempts):
    """--list-points, from which the orchestrator knows what to expect."""
    session.report.passed("output.cli")
    status, out, err = program.run(["--list-points"])
    try:
        listed = json.loads(out[out.index("{\n") :])  # a script may say more than that
        found = {_key(point) for point in listed["points"] + listed["not_applicable"]}
    except (ValueError, KeyError, TypeError):
        program.fail("--list-points", _end(status, out + err), "the points as JSON", "docs/design.md")
        return
    points, excluded = spec_points(session.job.spec)
    odd = sorted(found ^ {*points, *excluded}, key=str)
    if odd:
        which = "without" if odd[0] in points or odd[0] in excluded else "with"
        text = f"{len(found)} points, {which} {session.where(odd[0])}"
        program.fail("--list-points", text, f"the {len(points) + len(excluded)} points of the spec", "the spec")


def _key(point):
    return point["op"], point["phase"], point["B"], point["S"], point["L"]


def _check_status(session, program, attempts):
    """The exit status reaches those who started the script."""
    session.report.passed("output.cli")
    status, out, err = program.run(["--hardware", "no-such-device", "--list-points"])
    if status != 2:
        found = "status 0" if not status else f"status {status}"
        program.fail("a command line with a mistake", found, "status 2: sys.exit(main(BENCHMARK, run_benchmarks))")


def _check_short_run(session, program, attempts):
    """A run over some sizes only, with the cache warm: what is asked for is what is measured."""
    spec = session.job.spec
    batches = spec["sweep"]["batch_sizes"][: sweep.SHORT]
    lengths = spec["sweep"][sweep.lengths_name(spec)][:1]
    name = "--" + sweep.lengths_name(spec).replace("_", "-")
    arguments = ["--batch-sizes", *map(str, batches), name, *map(str, lengths), "--cache", "warm", "--output"]
    session.report.passed("output.cli")
    session.given, session.free, session.runs = {"cache": "warm", "ops": ()}, SET_BY_CLI, []
    attempts.clear()
    status, out, err = program.run([*arguments, str(session.folder / "program")], hooks=True)
    session.given, session.free = None, ()
    shown = " ".join(arguments[:-1])
    wanted = sweep.short_points(spec, batches, lengths)
    odd = sorted(set(attempts) ^ wanted, key=str)
    if status:
        program.fail(shown, _end(status, out + err), "status 0")
    elif odd:
        text = f"{len(set(attempts))} points; the first difference is {session.where(odd[0])}"
        program.fail(shown, text, f"{len(wanted)} points", "the spec")


def _check_dry_run(session, program, attempts):
    spec = session.job.spec
    for name in list(sys.modules):
        if name.split(".")[0] in PACKAGES:
            sys.modules[name] = None
    status, out, err = program.run(["--dry-run"])
    points, _ = spec_points(spec)
    session.report.passed("output.cli")
    lines = out.splitlines()
    if status:
        program.fail("--dry-run, without the kernel packages", _end(status, out + err), "status 0")
    elif sum(any(op["op"] in line for op in spec["ops"]) for line in lines) < len(points):
        program.fail("--dry-run", f"{len(lines)} lines", f"each of the {len(points)} points")


def _end(status, text):
    return f"status {status}: {text[-300:].strip()}" if status else text[-300:].strip() or "nothing"
