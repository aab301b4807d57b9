"""Verify benchmark scripts without a GPU: right kernel, right shapes and layout, right numbers.

Reads   a script, its spec (results/specs/{kernel}.json), its catalogue entry and contract, config/stacks/*.json,
        config/hardware.json, and the bench_utils.py beside the script (else the one in workflow/bundle/scripts)
Writes  the stamp, if one is asked for and every check passed; failures go to standard error

    python scripts/verify.py --script FILE --spec results/specs/rmsnorm.json --stamp results/verified/rmsnorm.json
    python scripts/verify.py deepseek_kernel_benchmarks/scripts/bench_rmsnorm.py my_own_script.py
    python scripts/verify.py --bundle deepseek_kernel_benchmarks

The exit status is 0 if all passed, 1 if a check failed. docs/verification.md lists the checks.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "workflow"))

from roofbench.errors import UserError, plural, run_cli  # noqa: E402


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="scripts whose specs are found by their KERNEL")
    parser.add_argument("--script", type=Path)
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--stamp", type=Path, help="where to write the report of a script that passed")
    parser.add_argument("--specs", type=Path, default=ROOT / "results" / "specs", help="folder of the specs")
    parser.add_argument("--stack", action="append", help="check this stack only; may be given more than once")
    parser.add_argument("--bundle", type=Path, help="verify the orchestrator and the plotter of this folder")
    parser.add_argument(
        "--manifest", type=Path, default=ROOT / "results" / "specs.json", help="kernels of the ops file"
    )
    options = parser.parse_args(argv)
    if not (options.files or options.script or options.bundle):
        parser.error("name a script, or a bundle")
    if bool(options.script) != bool(options.spec):
        parser.error("--script and --spec belong together")
    if options.stamp and not options.script and not options.bundle:
        parser.error("--stamp needs --script and --spec")

    from roofbench.verify.check import Verifier, find_spec, verify_file

    if options.bundle:
        from roofbench.verify.bundle import verify_bundle

        return verify_bundle(options.bundle, options.manifest, options.stamp)
    verifier = Verifier(stacks=options.stack)
    failed = 0
    work = [(options.script, options.spec)] if options.script else []
    # bench_*.py is what people type.
    work += [(path, None) for path in options.files if path.name != "bench_utils.py" or len(options.files) == 1]
    for script, spec in work:
        try:
            report, seconds = verify_file(verifier, script, spec or find_spec(script, options.specs), options.stamp)
        except UserError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        if report.ok:
            checks = sum(report.checked.values())
            print(f"{script}: passed {checks} checks of {len(report.checked)} kinds in {seconds:.1f} s")
        else:
            failed += 1
            print(report.text(), file=sys.stderr)
            print(f"{script}: {plural(len(report.findings), 'finding')}, not verified", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
