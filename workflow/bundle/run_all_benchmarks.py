#!/usr/bin/env python3
"""Run every kernel's benchmark, each in a process of its own, then write one table and a summary of all.

    python run_all_benchmarks.py --list
    python run_all_benchmarks.py --kernels rmsnorm silu_and_mul --output results
    python run_all_benchmarks.py --gpus 0,2

A run that was interrupted goes on where it stopped; --fresh measures everything again. Several visible GPUs are used
at once, one benchmark on each. The exit code is 1 if a kernel is partial, incorrect, failed or timed out.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from difflib import get_close_matches
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchlib import estimate, gpus, hardware, journal, supervise  # noqa: E402
from benchlib.arguments import integers  # noqa: E402
from benchlib.progress import Progress  # noqa: E402
from benchlib.results import CACHES  # noqa: E402
from benchlib.status import no_room  # noqa: E402

FAILURES = ("partial", "incorrect", "failed", "timeout")
POLL = 0.2


def kernels():
    """The kernels of this bundle: scripts/kernels.json, else every bench_*.py there."""
    listed = SCRIPTS / "kernels.json"
    if listed.exists():
        return json.loads(listed.read_text(encoding="utf-8"))
    scripts = sorted(path for path in SCRIPTS.glob("bench_*.py") if path.name != "bench_utils.py")
    return [{"kernel": path.stem.removeprefix("bench_"), "script": path.name} for path in scripts]


def choose(known, wanted):
    """The kernels that were named, in the order of the list. Raises ValueError for a name that is not in it."""
    wanted = [name for part in wanted or () for name in part.split(",") if name]
    if not wanted:
        return known
    names = [entry["kernel"] for entry in known]
    for name in wanted:
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
            raise ValueError(f"there is no kernel {name!r}; {hint} (--list shows all)")
    return [entry for entry in known if entry["kernel"] in wanted]


def nearest(name, names):
    """The names that are spelt nearly so; without any, up to four that the given one is a part of."""
    by_lower = {known.lower(): known for known in names}
    near = get_close_matches(name.lower(), by_lower, 1) or [known for known in by_lower if name.lower() in known][:4]
    return [by_lower[known] for known in near]


def show(known):
    """Print the list of kernels."""
    for entry in known:
        other = entry.get("catalogue", entry["kernel"])
        alias = f"  (calls {other})" if other != entry["kernel"] else ""
        print(f"{entry['kernel']:<42} {entry.get('source', ''):<12} {entry.get('category', '')}{alias}")


def journal_of(options):
    """The folder of the journals."""
    return Path(options.journal or options.output.resolve().parent / "journal")


class Job:
    """One kernel's supervisor, and how far it is by its journal."""

    def __init__(self, entry, options):
        self.kernel = entry["kernel"]
        self.sidecar = options.output / f"{self.kernel}.jsonl"
        self.journal = journal.path_of(journal_of(options), self.kernel)
        self.expected, self.done, self.label = entry.get("points", 0), 0, self.kernel
        self.offset = self.journal.stat().st_size if self.journal.exists() else 0
        self.log = options.output / "logs" / f"{self.kernel}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.earlier = self._head()
        command = [sys.executable, str(SCRIPTS / "benchlib" / "supervise.py")]
        command += ["--script", str(SCRIPTS / entry["script"]), "--output", str(options.output), *options.passed_on]
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)

    def news(self):
        """Points that ended since the last call; `expected` and `label` follow the journal."""
        records, self.offset = journal.read_whole(self.journal, self.offset)
        points = [record for record in records if record.get("type") == "point"]
        for record in records:
            if record.get("type") == "plan":
                self.expected = len(record["points"])
        for record in points[-1:]:
            self.label = f"{self.kernel} {record['op']} B={record['B']} S={record['S']}"
        self.done += len(points)
        return len(points)

    def outcome(self):
        """(status, reason) from the sidecar, or what the log ends with where this job wrote none."""
        head = self._head()
        try:
            run = json.loads(head)
            outcome = run["status"], run.get("reason", "")
        except (ValueError, TypeError, KeyError):
            return "failed", self._last_words() or "no results were written"
        if head == self.earlier and (kept := self._last_words(". Kept: ")):  # this job could not measure
            return "unavailable", kept.removeprefix(f"{self.kernel}: unavailable: ")
        return outcome

    def _last_words(self, holding=""):
        """The last line of the log that has more than blanks, and this in it; None without one."""
        lines = reversed(self.log.read_text(errors="replace").splitlines())
        return next((line for line in lines if line.strip() and holding in line), None)

    def _head(self):
        """First line of the sidecar, None without one."""
        try:
            with self.sidecar.open(encoding="utf-8") as stream:
                return stream.readline()
        except (OSError, UnicodeDecodeError):
            return None


def run(chosen, options, stream=None):
    """Run the kernels, as many at once as there are GPUs; returns {kernel: (status, reason)}."""
    stream = stream or sys.stderr
    # Without a GPU, jobs only find that out: one for each processor.
    usable = gpus.choose(gpus.visible(), options.gpus)
    width = len(usable) or min(4, os.cpu_count() or 1)
    waiting, running, outcomes, stopped = list(chosen), [], {}, []
    if width > 1:  # none should hold up the rest
        waiting = estimate.longest_first(waiting, options.output, journal_of(options))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.append(number))
    ended_points = 0
    with Progress(0, "all kernels") as progress, contextlib.ExitStack() as queue:
        queue.enter_context(gpus.awaiting(usable))  # no GPU helps with a kernel while others have not begun
        while (waiting and not stopped) or running:
            while waiting and len(running) < width and not stopped:
                running.append(Job(waiting.pop(0), options))
            if not waiting:
                queue.close()
            time.sleep(POLL)
            for number in stopped[:1]:
                for job in running:
                    job.process.send_signal(number)
                stopped[:] = [0]
            for job in list(running):
                ended = job.process.poll() is not None
                count = job.news()
                if ended:
                    running.remove(job)
                    ended_points += job.done
                if count or ended:
                    left = sum(entry.get("points", 0) for entry in waiting)
                    progress.set_total(ended_points + sum(each.expected for each in running) + left)
                    progress.advance(job.label, count)
                if ended:
                    outcomes[job.kernel] = job.outcome()
                    status, reason = outcomes[job.kernel]
                    print(f"{job.kernel}: {status}{f': {reason}' if reason else ''}", file=stream, flush=True)
    return outcomes, bool(stopped)


def conclude(output, names):
    """One table and the summary; says what is missing where they cannot be written. Returns whether both were."""
    try:
        from benchlib.aggregate import aggregate
        from benchlib.summary import write_summary

        aggregate(output, names)
        write_summary(output, names)
    except ImportError as error:
        print(f"the table of all kernels was not written: {error}", file=sys.stderr)
        return False
    except Exception as error:
        if type(error).__name__ != "ResultError":
            raise
        print(error, file=sys.stderr)
        return False
    return True


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="\n".join(__doc__.splitlines()[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sizes = {"nargs": "+", "metavar": "N", "type": integers}
    parser.add_argument("--list", action="store_true", help="list the kernels and do nothing")
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--batch-sizes", **sizes, help="default: as each script has them")
    parser.add_argument("--seq-lens", **sizes, help="default: as each script has them")
    parser.add_argument("--kv-lens", **sizes, help="KV lengths of decode attention; default: as each script has them")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="DIR", help="default: results/ here")
    parser.add_argument("--journal", metavar="DIR", help="default: journal/ beside the output folder")
    parser.add_argument("--hardware", default=hardware.AUTO, metavar="NAME", help="auto, or an entry of hardware.json")
    parser.add_argument("--cache", choices=CACHES, default="cold", help="state of the L2 cache that the CSV reports")
    parser.add_argument("--fresh", action="store_true", help="measure again what the journal has")
    parser.add_argument("--peaks", action="store_true", help="measure the GPU's own peaks and do nothing else")
    supervise.add_arguments(parser)
    options = parser.parse_args(arguments)
    passed = ["--hardware", options.hardware, "--cache", options.cache, "--busy", options.busy]
    for name in (
        "start-timeout",
        "first-timeout",
        "point-timeout",
        "gpu-timeout",
        "crashes",
        "gpus",
        "split",
        "journal",
    ):
        value = getattr(options, name.replace("-", "_"))
        passed += [f"--{name}", str(value)] if value is not None else []
    for name in ("batch-sizes", "seq-lens", "kv-lens"):
        numbers = [str(number) for group in getattr(options, name.replace("-", "_")) or () for number in group]
        passed += [f"--{name}", ",".join(numbers)] if numbers else []
    options.passed_on = passed + (["--fresh"] if options.fresh else [])
    return parser, options


def main(arguments=None):
    parser, options = parse(arguments)
    try:
        chosen = choose(kernels(), options.kernels)
        hardware.for_listing(options.hardware)
        if not options.list:
            gpus.choose(gpus.visible(), options.gpus)
    except (ValueError, hardware.HardwareError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.list:
        show(chosen)
        return 0
    if options.peaks:
        command = [sys.executable, str(SCRIPTS / "benchlib" / "peaks.py"), "--again"]
        return subprocess.call(command + (["--journal", options.journal] if options.journal else []))
    if not chosen:
        parser.error(f"there is no bench_*.py in {SCRIPTS}")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        outcomes, stopped = run(chosen, options)
        if stopped:
            print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
            return 130
        complete = conclude(options.output, [entry["kernel"] for entry in chosen])
    except OSError as error:
        print(f"error: {no_room(error, options.output)}", file=sys.stderr)
        return 2
    bad = [kernel for kernel, (status, _) in outcomes.items() if status in FAILURES]
    if bad:
        print(f"{len(bad)} of {len(chosen)} kernels were not measured as they should have been: {', '.join(bad)}")
    print(f"results: {os.path.relpath(options.output)}")
    return 1 if bad or not complete else 0


if __name__ == "__main__":
    sys.exit(main())
