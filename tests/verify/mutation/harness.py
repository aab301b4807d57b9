"""Run the verifier over mutants in parallel, and print who was killed by what.

python tests/verify/mutation/harness.py [--scripts FOLDER --specs FOLDER] [--kernel NAME ...] [--limit N]
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "workflow"), str(ROOT / "tests" / "verify")]

from mutation import careless, mutations  # noqa: E402, F401
from mutation.equivalent import reason_of  # noqa: E402

_state = {}


def load(scripts, specs, kernels=None):
    """Script objects of every spec that has a script."""
    from roofbench.catalogue import load_entry

    found = []
    for path in sorted(Path(specs).glob("*.json")):
        if kernels and path.stem not in kernels:
            continue
        spec = json.loads(path.read_text())
        entry = load_entry(ROOT / "config" / "kernels" / f"{spec['catalogue']}.yaml").data
        text = (Path(scripts) / f"bench_{path.stem}.py").read_text()
        found.append(mutations.Script(path.stem, text, spec, entry))
    return found


def judge(task):
    """(kernel, kind, label, checks that failed, first message) of one mutant."""
    index, kind, label, text, bundle = task
    script = _state["scripts"][index]
    verifier = _state["verifier"]
    if bundle:
        from roofbench.verify.check import Verifier

        verifier = Verifier(bundle=bundle, seconds=30, stop_early=True)
    path = _state["folder"] / f"bench_{script.kernel}.py"
    report, _ = verifier.verify(path, script.spec, text=text)
    checks = sorted({f.check for f in report.findings.values()})
    return script.kernel, kind, label, checks, report.text(1)


def run(scripts, folder, tasks, processes=None):
    """Results of judge() for all tasks, in a pool of forks that share the imports of this process."""
    import roofbench.verify.warm  # noqa: F401
    from roofbench.verify.check import Verifier

    _state.update(scripts=scripts, folder=Path(folder), verifier=Verifier(seconds=30, stop_early=True))
    context = multiprocessing.get_context("fork")
    with context.Pool(processes or os.cpu_count()) as pool:
        yield from pool.imap_unordered(judge, tasks, chunksize=4)


def tasks_of(scripts, limit=None):
    """Tasks for run(): every mutant of every script, at most `limit` of each kind and script, spread over its sites."""
    for index, script in enumerate(scripts):
        by_kind = defaultdict(list)
        for kind, label, text in mutations.mutants(script):
            by_kind[kind].append((label, text))
        for kind, found in by_kind.items():
            step = max(1, len(found) // limit) if limit else 1
            chosen = found[::step][:limit] if limit else found
            for label, text in chosen:
                yield index, kind, label, text, None


def one_of_each_kind(scripts):
    """Tasks for run(): one mutant of each kind, of the first script that has one."""
    for kind in mutations.KINDS:
        for index, script in enumerate(scripts):
            found = next(mutations.mutants(script, kind), None)
            if found:
                yield index, *found, None
                break


def shared_tasks(scripts, bundle, folder, kernel="cutlass_scaled_fp4_mm"):
    """Tasks for errors in the shared code, each in a copy of the bundle, on a kernel with both phases and bounds."""
    index = next((i for i, s in enumerate(scripts) if s.kernel == kernel), None)
    if index is None:
        return
    for number, (kind, file, old, new) in enumerate(mutations.SHARED):
        copy = Path(folder) / f"bundle{number}"
        shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("__pycache__", "bench_*.py"))
        shutil.copy(Path(bundle) / "bench_utils.py", copy)
        target = copy / file
        target.write_text(target.read_text().replace(old, new))
        yield index, kind, f"{file}: {old.strip()[:40]} -> {new.strip()[:40]}", scripts[index].text, copy


def every_task(scripts, bundle, folder, limit=None):
    """Tasks for run(), made while others run."""
    yield from shared_tasks(scripts, bundle, folder)
    yield from tasks_of(scripts, limit)


def table(results):
    """The kill table as text, and the survivors that are not known to be equivalent."""
    total, killed, by, survivors, equivalents = Counter(), Counter(), defaultdict(Counter), [], []
    for kernel, kind, label, checks, _ in results:
        reason = None if checks else reason_of(kernel, kind, label)
        if reason:
            equivalents.append((kernel, kind, label, reason))
            continue
        total[kind] += 1
        if checks:
            killed[kind] += 1
            by[kind].update({checks[0].split(".")[0]} if len(checks) == 1 else {c.split(".")[0] for c in checks})
        else:
            survivors.append((kernel, kind, label))
    lines = [f"{'error':28s} {'mutants':>7s} {'killed':>7s}   by"]
    for kind in sorted(total):
        families = ", ".join(f"{name} {count}" for name, count in by[kind].most_common(4))
        lines.append(f"{kind:28s} {total[kind]:7d} {killed[kind]:7d}   {families}")
    every, dead = sum(total.values()), sum(killed.values())
    lines.append(f"{'all':28s} {every:7d} {dead:7d}   {100 * dead / max(1, every):.2f} %")
    if equivalents:
        lines.append("\nMutants that change nothing:")
        reasons = defaultdict(list)
        for kernel, kind, label, reason in equivalents:
            reasons[kind, reason].append(f"{kernel}: {label}")
        for (kind, reason), where in sorted(reasons.items()):
            lines.append(f"  {kind}, {len(where)} ({where[0]}{', ...' if len(where) > 1 else ''}): {reason}")
    if survivors:
        lines.append("\nSurvivors:")
        lines += [f"  {kernel}  {kind}: {label}" for kernel, kind, label in sorted(survivors)]
    return "\n".join(lines), survivors, every, dead


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", type=Path, default=ROOT / "deepseek_kernel_benchmarks" / "scripts")
    parser.add_argument("--specs", type=Path, default=ROOT / "results" / "specs")
    parser.add_argument("--kernel", action="append")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--messages", action="store_true", help="print the first finding of every mutant")
    options = parser.parse_args()
    start = time.perf_counter()
    scripts = load(options.scripts, options.specs, options.kernel)
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for result in run(scripts, options.scripts, every_task(scripts, options.scripts, folder, options.limit)):
            results.append(result)
            if not result[3]:
                print("survives:", *result[:3], file=sys.stderr, flush=True)
            if options.messages:
                print(f"--- {result[0]} {result[1]}: {result[2]}\n{result[4]}")
    text, survivors, _, _ = table(results)
    print(text)
    print(f"{len(results)} mutants in {time.perf_counter() - start:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
