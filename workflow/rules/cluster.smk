# Where benchmarks run: on the GPUs of this host, or as Slurm jobs (`--profile slurm`).
from snakemake.logging import logger

from roofbench import cluster

from benchlib import gpus

NO_SUCH_GPU = ""
SIDE_BY_SIDE = workflow.is_main_process and workflow.resource_settings.nodes is not None

# For the supervisor of each benchmark, here or in a Slurm job.
os.environ.update(ROOFBENCH_BUSY=settings["busy_gpus"])

# As many benchmarks at a time as there are GPUs: more would only wait for each other's locks.
if workflow.is_main_process and workflow.resource_settings.nodes is None:
    if settings["gpus"] != "all":
        os.environ.update(ROOFBENCH_GPUS=",".join(map(str, settings["gpus"])))
    try:
        usable = gpus.choose(gpus.visible(), os.environ.get("ROOFBENCH_GPUS"))
        if "gpu" in workflow.global_resources:  # so many at a time were asked for, and no more
            os.environ.setdefault("ROOFBENCH_SPLIT", "0")
        elif usable:
            workflow.global_resources["gpu"] = len(usable)
        SIDE_BY_SIDE = len(usable) > 1
    except ValueError as error:
        NO_SUCH_GPU = f"gpus: {error}"


def before_benchmarks():
    """Refuse what cannot work before anything is begun. Under Slurm, look after the jobs that wait as well."""
    if not {job.rule.name for job in workflow.dag.needrun_jobs()} & {"run_benchmark", "aggregate", "peaks"}:
        return
    if NO_SUCH_GPU:
        raise WorkflowError(NO_SUCH_GPU)
    if workflow.executor_plugin.name != "slurm":
        return
    resources = workflow.get_rule("run_benchmark").resources
    try:
        if not {"cluster", "clusters", "slurm_cluster"} & set(resources):
            request = cluster.request_of({name: resources[name].raw for name in resources})
            cluster.check(request, cluster.read_nodes(cluster.ask(cluster.SINFO)))
        cluster.refuse_second_run(cluster.queued(workflow.workdir_init))
    except UserError as error:
        raise WorkflowError(str(error))
    logger.addHandler(cluster.Failures())
    cluster.Watch(workflow.workdir_init).start()
