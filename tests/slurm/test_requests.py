"""What Slurm would never start, and what it would keep waiting, from texts of sinfo and squeue."""

import pytest

from roofbench import cluster
from roofbench.cluster import Nodes, Queued, Request
from roofbench.errors import UserError

SINFO = """
debug*|up|idle|(null)|(null)|30:00|8|16000|2
gb200|up|mixed|gpu:gb200:4(S:0-1),shard:8|arm64,nvl72|1-00:00:00|144|900000|18
gb200|up|drained*|gpu:gb200:4(S:0-1)|arm64|1-00:00:00|144|900000|1
mixed|up|idle|gpu:h100:8|hopper,ib|infinite|96|2000000|3
mixed|up|idle|gpu:a100:8|ampere,ib|infinite|96|1000000|3
off|inact|idle|gpu:h100:8|hopper|infinite|96|2000000|1
broken|up|down*|gpu:2|(null)|infinite|96|2000000+|4
""".strip().splitlines()


def test_nodes_are_read():
    first, second, *_, last = cluster.read_nodes(SINFO)
    assert first == Nodes("debug", True, True, "idle", (), frozenset(), 30, 8, 16000, 2)
    assert second.gpus == (("gb200", 4),) and second.minutes == 24 * 60 and second.features == {"arm64", "nvl72"}
    assert last.gpus == (("", 2),) and last.minutes is None and last.memory_mb == 2000000 and not last.usable


@pytest.mark.parametrize(
    "request_",
    [
        Request("gb200", minutes=1440, cpus=144, memory_mb=900000),
        Request("gb200", gpus=4, gpu_model="GB200", constraint="arm64&nvl72"),
        Request("mixed", gpu_model="h100"),
        Request("mixed", constraint="hopper"),
        Request("gb200,debug"),
    ],
)
def test_what_can_start_is_let_through(request_):
    cluster.check(request_, cluster.read_nodes(SINFO))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("gb20"), "there is no partition gb20. Did you mean gb200?"),
        (Request(), "partition debug has no node with a GPU"),
        (Request("off"), "partition off is down"),
        (Request("broken"), "none of the 4 nodes that fit is in service (down*)"),
        (
            Request("mixed"),
            "has GPUs of several types (a100, h100), whose numbers cannot share a table. Set gpu_model.",
        ),
        (Request("gb200", gpu_model="b200"), "has no GPU of type b200. Did you mean gb200?"),
        (Request("broken", gpu_model="h100"), "Its GPUs have no type in Slurm: leave gpu_model out."),
        (Request("gb200", gpus=8), "has no node with 8 GPUs"),
        (Request("gb200", gpus=0), "ask for no GPU"),
        (Request("gb200", minutes=1441), "allows at most 1440, less than the runtime of 1441 minutes"),
        (Request("gb200", cpus=145), "allows at most 144, less than the cpus_per_task of 145"),
        (Request("gb200", memory_mb=900001), "allows at most 900000, less than the mem_mb of 900001"),
        (Request("gb200", constraint="arm64&ib"), "has no node with the feature ib"),
        (Request("mixed", constraint="hopper&ampere"), "has no node with all features of hopper&ampere"),
    ],
)
def test_what_would_never_start_is_refused_in_one_line(request_, message):
    with pytest.raises(UserError) as found:
        cluster.check(request_, cluster.read_nodes(SINFO))
    assert message in str(found.value)
    assert "slurm/config.yaml" in str(found.value) and "\n" not in str(found.value)


def test_the_request_is_read_from_resources():
    resources = {"gpu": 1, "slurm_partition": "gb200", "runtime": 60, "mem_mb": 1000, "tmpdir": len, "_nodes": 1}
    assert cluster.request_of(resources) == Request("gb200", 1, "", "", 60, None, 1000)
    assert cluster.request_of({"gres": "gpu:h100:2"}) == Request(gpus=2, gpu_model="h100")
    assert cluster.request_of({}).gpus == 0


def test_a_command_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="no-such-sinfo is not installed"):
        cluster.ask(["no-such-sinfo"])
    with pytest.raises(UserError, match="false fails: exit status 1"):
        cluster.ask(["false"])


def test_the_queue_of_a_folder():
    lines = [
        "7|PENDING|(Resources)|/home/me/project|rule_run_benchmark_wildcards_rmsnorm",
        "8|RUNNING|None|/home/me/other|rule_run_benchmark_wildcards_rmsnorm",
        "9|RUNNING|None|/home/me/project|mine",
    ]
    assert cluster.queued("/home/me/project", lines) == [Queued("7", "PENDING", "Resources", "rmsnorm")]


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        ("Resources", False),
        ("Priority", False),
        ("QOSGrpGRES", False),
        ("ReqNodeNotAvail, UnavailableNodes:n1", False),
        ("JobHeldUser", False),
        ("JobHeldAdmin", True),
        ("PartitionTimeLimit", True),
        ("QOSMaxGRESPerJob", True),
        ("AssocMaxWallDurationPerJobLimit", True),
        ("launch failed requeued held", True),
        ("BadConstraints", True),
    ],
)
def test_reasons_that_no_waiting_changes(reason, hopeless):
    assert Queued("7", "PENDING", reason, "rmsnorm").hopeless is hopeless
    assert not Queued("7", "RUNNING", reason, "rmsnorm").hopeless


def test_a_job_is_cancelled_when_it_is_found_hopeless_twice(capsys):
    hopeless, waiting = Queued("7", "PENDING", "BadConstraints", "rmsnorm"), Queued("8", "PENDING", "Priority", "bmm")
    held = Queued("9", "PENDING", "JobHeldUser", "topk")
    looks, cancelled = [[hopeless, waiting, held], [waiting, held], [hopeless], [hopeless]], []
    watch = cluster.Watch("/folder", look=lambda folder: looks.pop(0), cancel=cancelled.append)
    assert [watch.once() for _ in range(4)] == [[], [], [], [hopeless]]
    assert cancelled == [hopeless]
    said = capsys.readouterr().err
    assert "rmsnorm: job 7 would never start (BadConstraints) and is cancelled" in said
    assert said.count("scontrol release 9") == 1
