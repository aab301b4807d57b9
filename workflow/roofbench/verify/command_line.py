"""The script's command line: its options, and a dry run without the kernel packages."""

import contextlib
import dataclasses
import io
import os
import re
import sys

from roofbench.verify import sandbox
from roofbench.verify.job import spec_points
from roofbench.verify.stack import PACKAGES
from roofbench.verify.sweep import HOOKED


def check_command_line(session, module):
    """--help names the options, and --dry-run lists every point without the kernel packages."""
    import bench_utils

    source, spec = session.source, session.job.spec
    if not hasattr(bench_utils, "main"):
        return
    session.point = None
    status, text = command(session, module, ["--help"])
    session.report.passed("output.cli")
    flags = ["--batch-sizes", "--output", "--op", "--phase", "--hardware", "--dry-run"]
    flags.append("--kv-lens" if spec["sweep"]["kind"] == "kv" else "--seq-lens")
    missing = [flag for flag in flags if not re.search(rf"{re.escape(flag)}\b", text)]
    if status or missing:
        session.fail(
            "output.cli",
            source.place(None),
            "--help",
            f"without {', '.join(missing)}" if missing else text[-300:],
            "all options of a benchmark",
        )
    for name in list(sys.modules):
        if name.split(".")[0] in PACKAGES:
            sys.modules[name] = None
    status, text = command(session, module, ["--dry-run"])
    points, _ = spec_points(spec)
    session.report.passed("output.cli")
    if status:
        session.fail(
            "output.cli", source.place(None), "--dry-run", f"status {status}: {text[-300:].strip()}", "status 0"
        )
    elif sum(any(op["op"] in line for op in spec["ops"]) for line in text.splitlines()) < len(points):
        session.fail(
            "output.cli",
            source.place(None),
            "--dry-run",
            f"{len(text.splitlines())} lines",
            f"each of the {len(points)} points",
        )


def command(session, module, arguments):
    """(exit status, output) of the script's command line."""
    import bench_utils

    stream = io.StringIO()
    argv, sys.argv = sys.argv, [module.__file__, *arguments]
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "400"
    # Without the hooks: a script may do without what only make_inputs needs.
    plain = dataclasses.replace(
        module.BENCHMARK, **{name: getattr(module.BENCHMARK, name)._function for name in HOOKED}
    )
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), session.shadow:
            status = bench_utils.main(plain, module.run_benchmarks)
    except SystemExit as error:
        status = error.code
    except sandbox.Denied:
        raise
    except Exception as error:
        status = f"{type(error).__name__}: {error}"
    finally:
        sys.argv = argv
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width
    return status or 0, stream.getvalue()
