"""A Slurm cluster of this host alone, with GPUs that are only names, from Debian's slurm-wlm and munge.

    python one_node.py up /tmp/one-node 2     start it with two GPUs
    python one_node.py down /tmp/one-node     end it and clean up

Needs root, and /etc/slurm without a configuration: the srun inside a job finds it nowhere else.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ETC = Path("/etc/slurm")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "setpriv")
PARTITIONS = """
PartitionName=gpu Nodes={host} Default=YES MaxTime=600 DefaultTime=10 State=UP
PartitionName=short Nodes={host} MaxTime=1 DefaultTime=1 State=UP
PartitionName=closed Nodes={host} MaxTime=600 State=DOWN
"""
SLURM_CONF = """
ClusterName=onenode
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket
SlurmctldPort=17827
SlurmdPort=17828
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.log
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={base}/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=5,sched_interval=5,sched_min_interval=100000
MinJobAge=3600
KillWait=5
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=100000 Feature=fast,fake Gres=gpu:fake:{gpus} State=UNKNOWN
"""


def why_not():
    """Why the cluster cannot be started here, or None."""
    if os.geteuid() != 0:
        return "a one-node Slurm needs root"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)"
    if any((ETC / name).exists() for name in ("slurm.conf", "gres.conf")):
        return "this host has a Slurm configuration in /etc/slurm already"
    return None


class OneNode:
    """The cluster. `start` and `stop`, or a context manager; `jobs` are those that ended."""

    def __init__(self, base, gpus=2):
        self.base, self.gpus, self.host = Path(base).resolve(), gpus, socket.gethostname().partition(".")[0]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start munged, slurmctld and slurmd, and wait until the node is idle."""
        reason = why_not()
        if reason:
            raise RuntimeError(reason)
        try:
            self._configure()
            self._start_munge()
            for program in ("slurmctld", "slurmd"):
                subprocess.run([_program(program), "-c"], check=True, capture_output=True, timeout=60)
            self.wait_until(lambda: self.output("sinfo", "-h", "-p", "gpu", "-o", "%t").strip() == "idle", 60)
        except BaseException:
            logs = "".join(path.read_text(errors="replace")[-2000:] for path in self.base.glob("*.log"))
            self.stop()
            sys.stderr.write(logs)
            raise

    def _configure(self):
        for folder in ("state", "spool", "munge"):
            (self.base / folder).mkdir(parents=True)
        for folder in (self.base, self.base.parent):
            folder.chmod(folder.stat().st_mode | 0o055)  # munged is another user
        values = {"base": self.base, "host": self.host, "gpus": self.gpus}
        (self.base / "slurm.conf").write_text((SLURM_CONF + PARTITIONS).format(**values))
        lines = ["AutoDetect=off"]
        for number in range(self.gpus):
            device = self.base / f"gpu{number}"
            os.mknod(device, 0o600 | 0o020000, os.makedev(1, 3))  # Slurm wants a device file of each: /dev/null's twin
            lines.append(f"NodeName={self.host} Name=gpu Type=fake File={device}")
        (self.base / "gres.conf").write_text("\n".join(lines) + "\n")
        ETC.mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).symlink_to(self.base / name)

    def _start_munge(self):
        folder = self.base / "munge"
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for path in (folder, key):
            shutil.chown(path, "munge", "munge")
        command = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", _program("munged")]
        command += [f"--key-file={key}", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        command += [f"--log-file={folder}/log", f"--seed-file={folder}/seed"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def stop(self):
        """Cancel what runs, end the daemons that this object started, take the configuration away."""
        if (self.base / "slurmctld.pid").exists():
            subprocess.run(["scancel", "--user=root"], check=False, capture_output=True, timeout=60)
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            _end(self.base / name)
        for name in ("slurm.conf", "gres.conf"):
            link = ETC / name
            if link.is_symlink() and link.readlink() == self.base / name:
                link.unlink()
        shutil.rmtree(self.base, ignore_errors=True)

    @staticmethod
    def output(*command):
        """Standard output of a Slurm command."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    @staticmethod
    def wait_until(condition, seconds=180):
        """Wait for a condition; TimeoutError if it does not come."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"it did not happen in {seconds} s")
            time.sleep(0.2)

    def queue(self):
        """[(id, state, reason, comment)] of the jobs that have not ended."""
        lines = self.output("squeue", "-h", "-o", "%i|%T|%r|%k").splitlines()
        return [tuple(line.split("|", 3)) for line in lines]

    def details(self, job):
        """What the controller knows of a job, as text: scontrol show job."""
        return self.output("scontrol", "show", "job", "-d", job)

    def jobs(self):
        """Jobs that ended: [{JobId, JobState, ...}] in the order of their ends."""
        path = self.base / "jobcomp.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]


def _program(name):
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _end(pid_file):
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    for _ in range(100):
        time.sleep(0.1)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    action, folder, *rest = sys.argv[1:]
    cluster = OneNode(folder, *map(int, rest))
    cluster.start() if action == "up" else cluster.stop()
