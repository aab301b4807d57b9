"""Slurm: what would never start is said before it is submitted, or taken out of the queue.

`check` compares what a benchmark asks for with what the cluster has; `Watch` looks after jobs that wait. Both read
sinfo and squeue only, which need no accounting database.
"""

import logging
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import PurePath

from roofbench.errors import UserError, did_you_mean

PROFILE = "slurm/config.yaml"
SINFO = ["sinfo", "-h", "-a", "-e", "-o", "%P|%a|%T|%G|%f|%l|%c|%m|%D"]
SQUEUE = ["squeue", "-h", "-o", "%i|%T|%r|%Z|%k"]
UNUSABLE = ("down", "drain", "fail", "error", "unknown", "inval", "no_respond")
# Reasons that no waiting changes. Limits for users and groups are not among them: others' jobs end.
NEVER = (
    "AccountNotAllowed",
    "BadConstraints",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "JobHeldAdmin",
    "PartitionDown",
    "PartitionInactive",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
    "ReservationDeleted",
)
NEVER_PATTERN = re.compile(r"(Assoc|QOS)(Max|Min)\w*PerJob|requeued held|\bheld state|MaxWallDurationPerJob", re.I)


@dataclass(frozen=True)
class Nodes:
    """Nodes of a partition that are alike. minutes is its time limit (None: no limit), gpus counts by type."""

    partition: str
    default: bool
    up: bool
    state: str
    gpus: tuple
    features: frozenset
    minutes: int | None
    cpus: int
    memory_mb: int
    count: int

    @property
    def usable(self):
        return self.up and not self.state.startswith(UNUSABLE)


@dataclass(frozen=True)
class Request:
    """What one benchmark asks Slurm for; None or "" where nothing is said."""

    partition: str = ""
    gpus: int = 1
    gpu_model: str = ""
    constraint: str = ""
    minutes: int | None = None
    cpus: int | None = None
    memory_mb: int | None = None


def request_of(resources):
    """Request from a rule's resources, {name: value}; values that are not known yet (functions) are left out."""
    known = {name: value for name, value in resources.items() if isinstance(value, str | int) and value != ""}

    def number(name):
        value = known.get(name)
        return value if isinstance(value, int) and value > 0 else None

    gpus, model = number("gpu"), str(known.get("gpu_model", ""))
    gres = re.fullmatch(r"gpu(?::([A-Za-z_][\w.]*))?(?::(\d+))?", str(known.get("gres", "")))
    if gres:
        gpus, model = int(gres[2] or 1), gres[1] or model
    return Request(
        partition=str(known.get("slurm_partition", "")),
        gpus=gpus or 0,
        gpu_model=model,
        constraint=str(known.get("constraint", "")),
        minutes=number("runtime"),
        cpus=number("cpus_per_task"),
        memory_mb=number("mem_mb"),
    )


def ask(command):
    """Output lines of a Slurm command. Raises UserError in one line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not installed here: `--profile slurm` works on a host of the cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} has not answered for a minute: is Slurm's controller running?") from None
    if done.returncode:
        said = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "")[:300]
        raise UserError(
            f"{command[0]} fails: {said or f'exit status {done.returncode}'}. Is Slurm's controller running? "
            "`snakemake all` works without Slurm"
        )
    return [line for line in done.stdout.splitlines() if line.strip()]


def read_nodes(lines):
    """[Nodes] from the lines of SINFO."""
    return [_nodes(fields) for fields in (line.split("|") for line in lines) if len(fields) == 9]


def _nodes(fields):
    partition, available, state, gres, features, limit, cpus, memory, count = (field.strip() for field in fields)
    return Nodes(
        partition=partition.rstrip("*"),
        default=partition.endswith("*"),
        up=available == "up",
        state=state.lower(),
        gpus=_gpus(gres),
        features=frozenset(name for name in features.split(",") if name and name != "(null)"),
        minutes=_minutes(limit),
        cpus=_leading(cpus),
        memory_mb=_leading(memory),
        count=_leading(count),
    )


def _gpus(gres):
    """((type, count), ...) of `gpu:h100:4(S:0-1),gpu:2`; a GPU without a type has "" for one."""
    found = []
    for entry in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = entry.split(":")
        if name == "gpu":
            count = rest.pop() if rest and rest[-1].isdigit() else "1"
            found.append((rest[0] if rest else "", int(count)))
    return tuple(found)


def _leading(text):
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def _minutes(text):
    """Minutes of [days-]hours:minutes:seconds; None for infinite."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes


def check(request, nodes):
    """Raise UserError, in one line, where a job with this request would never start or would fit several GPU types."""
    names = [name.strip() for name in request.partition.split(",") if name.strip()]
    there = list(dict.fromkeys(group.partition for group in nodes))
    if not there:
        raise UserError("the cluster has no partition that you may see (sinfo -a lists none)")
    for name in names:
        if name not in there:
            raise UserError(
                _say(f"there is no partition {name}", did_you_mean(name, there, f"There are {', '.join(there)}."))
            )
    names = names or [group.partition for group in nodes if group.default][:1]
    if not names:
        raise UserError(
            _say(f"no partition is asked for, and none is the default: {', '.join(there)}", "Set slurm_partition.")
        )
    shown = f"partition {' or '.join(names)}"
    chosen = [group for group in nodes if group.partition in names]
    if not any(group.up for group in chosen):
        raise UserError(_say(f"{shown} is down, jobs in it would not start"))
    chosen = _with_features(request, chosen, shown)
    chosen = _with_gpus(request, chosen, shown)
    for wanted, have, what in (
        (request.minutes, "minutes", "runtime of {} minutes"),
        (request.cpus, "cpus", "cpus_per_task of {}"),
        (request.memory_mb, "memory_mb", "mem_mb of {}"),
    ):
        most = [getattr(group, have) for group in chosen]
        if wanted and None not in most:
            if wanted > max(most):
                raise UserError(_say(f"{shown} allows at most {max(most)}, less than the {what.format(wanted)}"))
            chosen = [group for group in chosen if getattr(group, have) >= wanted]
    if not any(group.usable for group in chosen):
        states = ", ".join(sorted({group.state if group.up else "partition down" for group in chosen}))
        number = sum(group.count for group in chosen)
        raise UserError(_say(f"{shown}: none of the {number} nodes that fit is in service ({states})"))


def _with_features(request, chosen, shown):
    names = re.findall(r"[A-Za-z_][\w.-]*", request.constraint)
    features = set().union(*(group.features for group in chosen))
    for name in names:
        if name not in features:
            has = f"It has {', '.join(sorted(features))}." if features else "It has none."
            raise UserError(_say(f"{shown} has no node with the feature {name}", did_you_mean(name, features, has)))
    if names and re.fullmatch(r"[\w.&-]+", request.constraint):
        chosen = [group for group in chosen if group.features.issuperset(names)]
        if not chosen:
            raise UserError(_say(f"{shown} has no node with all features of {request.constraint}"))
    return chosen


def _with_gpus(request, chosen, shown):
    if not request.gpus:
        raise UserError(_say("the benchmarks ask for no GPU", "Leave gpu=1 of the rule run_benchmark as it is."))
    types = sorted({kind for group in chosen for kind, _ in group.gpus})
    if not types:
        raise UserError(_say(f"{shown} has no node with a GPU"))
    wanted = request.gpu_model
    if wanted and wanted.lower() not in (kind.lower() for kind in types):
        named = [kind for kind in types if kind]
        has = f"It has {', '.join(named)}." if named else "Its GPUs have no type in Slurm: leave gpu_model out."
        raise UserError(_say(f"{shown} has no GPU of type {wanted}", did_you_mean(wanted, named, has)))
    if not wanted and len(types) > 1:
        kinds = ", ".join(kind or "(no type)" for kind in types)
        raise UserError(
            _say(f"{shown} has GPUs of several types ({kinds}), whose numbers cannot share a table", "Set gpu_model.")
        )
    chosen = [
        group
        for group in chosen
        if any(count >= request.gpus and (not wanted or kind.lower() == wanted.lower()) for kind, count in group.gpus)
    ]
    if not chosen:
        raise UserError(_say(f"{shown} has no node with {request.gpus} GPUs{f' of type {wanted}' if wanted else ''}"))
    return chosen


def _say(text, hint=""):
    return f"Slurm: {text}.{' ' + hint if hint else ''} The benchmarks' requests are in {PROFILE}."


@dataclass(frozen=True)
class Queued:
    """A benchmark's job in the queue."""

    id: str
    state: str
    reason: str
    kernel: str

    @property
    def hopeless(self):
        return self.state == "PENDING" and (self.reason in NEVER or bool(NEVER_PATTERN.search(self.reason)))


def queued(folder, lines=None):
    """Benchmarks that were submitted from a folder and have not ended: [Queued]."""
    lines = ask([*SQUEUE, "-u", str(os.getuid())]) if lines is None else lines
    rows = (line.split("|", 4) for line in lines)
    mark = "rule_run_benchmark_wildcards_"
    return [
        Queued(row[0], row[1], row[2].strip("()"), row[4].removeprefix(mark))
        for row in rows
        if len(row) == 5 and row[3] == str(folder) and row[4].startswith(mark)
    ]


def refuse_second_run(jobs):
    """Raise UserError where an earlier run's jobs still go on: two of them would write the same results."""
    if jobs:
        names = ", ".join(f"{job.kernel} ({job.id}, {job.state.lower()})" for job in jobs)
        ids = " ".join(job.id for job in jobs)
        raise UserError(
            f"Slurm: jobs of an earlier run of this folder are still there: {names}. "
            f"Wait until they end, or end them with: scancel {ids}"
        )


class Watch(threading.Thread):
    """Takes jobs out of the queue that would wait for ever; Snakemake then reports them as failed.

    A job is judged when it has been found hopeless twice, `seconds` apart.
    """

    def __init__(self, folder, seconds=20.0, look=queued, cancel=None):
        super().__init__(daemon=True, name="slurm-watch")
        self.folder, self.seconds, self.look = folder, seconds, look
        self.cancel = cancel or (lambda job: subprocess.run(["scancel", job.id], check=False, timeout=60))
        self._suspects, self._held = set(), set()
        self._ended = threading.Event()

    def run(self):
        while not self._ended.wait(self.seconds):
            try:
                self.once()
            except (UserError, OSError, subprocess.SubprocessError):
                continue  # a busy controller; Snakemake's own queries report one that stays away

    def stop(self):
        self._ended.set()

    def once(self):
        """Look at the queue once. Returns the jobs that were cancelled."""
        jobs = self.look(self.folder)
        for job in jobs:
            if job.reason == "JobHeldUser" and job.id not in self._held:
                self._held.add(job.id)
                _print(f"{job.kernel}: job {job.id} is held and waits for: scontrol release {job.id}")
        hopeless = [job for job in jobs if job.hopeless]
        gone = [job for job in hopeless if job.id in self._suspects]
        self._suspects = {job.id for job in hopeless}
        for job in gone:
            _print(
                f"{job.kernel}: job {job.id} would never start ({job.reason}) and is cancelled. "
                f"The benchmarks' requests are in {PROFILE}; `scontrol show job {job.id}` has the details."
            )
            self.cancel(job)
        return gone


class Failures(logging.Handler):
    """Says which benchmark's job failed and why. Snakemake itself says so only where it lists every job."""

    def emit(self, record):
        if getattr(getattr(record, "event", None), "value", "") != "job_error" or record.rule_name != "run_benchmark":
            return
        log = record.log[0].split()[0] if record.log else "run_benchmark"
        _print(f"{PurePath(log).stem}: {_first_sentences(record.rule_msg)} See {log} and logs/slurm.")


def _first_sentences(message):
    """What sbatch or the status query said, without the command line that was tried."""
    text = " ".join((message or "the job failed").partition("sbatch call:")[0].split())
    return f"{text.rstrip('. ')}."


def _print(text):
    print(f"Slurm: {text}", file=sys.stderr, flush=True)
