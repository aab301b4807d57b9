# Helpers of all rules. Modification times decide what runs, as usual; what they cannot tell is decided here from the
# outputs themselves (see `again`), so that nothing depends on the metadata in .snakemake.
import json
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

SOURCE = "workflow/bundle"

sys.path.insert(0, os.path.join(workflow.basedir, "workflow"))
sys.path.append(os.path.join(workflow.basedir, SOURCE, "scripts"))

from benchlib import estimate
from roofbench import config as project
from roofbench import state
from roofbench.errors import UserError, did_you_mean, plural
from roofbench.estimate import expected_seconds_of
from roofbench.worker import Worker

HARDWARE = "config/hardware.json"
BUNDLE = "deepseek_kernel_benchmarks"
RESULTS = f"{BUNDLE}/results"
MANIFEST = "results/specs.json"
MODEL_STEPS = "results/model_steps.json"
PARSED_WITH = "results/parse_settings.json"
SCRIPT = f"{BUNDLE}/scripts/bench_{{kernel}}.py"
STAMP = "results/verified/{kernel}.json"
SIDECAR = f"{RESULTS}/{{kernel}}.jsonl"
SELECTED = "results/selected.json"
AGGREGATED = "results/aggregated.json"
ADDED_UP_WITH = "results/model_time_paths.json"
ENVIRONMENT = "results/environment.json"
ATTEMPT = "results/attempts/{kernel}.json"
WORKFLOW_ENV = "../../envs/workflow.yaml"

try:
    project.check_file("config/config.yaml")
except UserError as error:
    sys.exit(str(error))


configfile: "config/config.yaml"


try:
    configuration = project.config_of_workflow(config, workflow.configfiles)
    settings = project.settings_of(configuration)
    state.check_files(settings, HARDWARE)
except UserError as error:
    sys.exit(str(error))

os.environ.update(state.for_jobs(settings))


wildcard_constraints:
    kernel=r"(?!(?:utils|all_kernels)\b)[A-Za-z_][A-Za-z0-9_]*",
    reference=r"[A-Za-z_][A-Za-z0-9_]*",


def files_under(folder, pattern="*"):
    """Every file under a folder, sorted, relative to the root of the repository."""
    found = (path for path in Path(folder).rglob(pattern) if path.is_file())
    return sorted(str(path) for path in found if "__pycache__" not in path.parts)


def again(path):
    """Let the job that makes `path` run although its files look finished; only if that job is wanted at all.

    Snakemake's own triggers compare with what it recorded in .snakemake: a value that asks for one more run would
    ask for another when it goes away again, and nothing is seen where the records were lost.
    """
    if workflow.is_main_process:
        workflow.dag.forcefiles.add(path)


def manifest():
    """The kernels of the ops file by name, in its order. Asks for the parse first."""
    return state.read_manifest(checkpoints.parse_ops.get().output.manifest)


def selected():
    """Names of the kernels that the configuration asks for."""
    try:
        return state.select_from(checkpoints.parse_ops.get().output.manifest, settings)
    except UserError as error:
        raise WorkflowError(str(error))


def catalogue_of(kernel):
    """Name of the catalogue entry behind a kernel of the ops file."""
    known = manifest()
    if kernel not in known:
        ops_file = settings["ops_file"]
        raise WorkflowError(f"{ops_file}: there is no kernel {kernel}. {did_you_mean(kernel, known)}")
    return known[kernel]["catalogue"]


def of_each_kernel(pattern):
    """Input function: the pattern's file of every selected kernel."""
    return lambda wildcards: [pattern.format(kernel=kernel) for kernel in selected()]


def of_catalogue(pattern):
    """Input function: the pattern's file of the catalogue entry behind the kernel."""
    return lambda wildcards: pattern.format(catalogue=catalogue_of(wildcards.kernel))


def of_each_catalogue(pattern):
    """Input function: the pattern's file of every catalogue entry that a selected kernel uses."""
    return lambda wildcards: [pattern.format(catalogue=catalogue_of(kernel)) for kernel in selected()]


def selection(wildcards):
    """Params function: the selected kernels."""
    return selected()


def bundled(path):
    """Where a file of the bundle's sources goes."""
    if path == HARDWARE:
        return f"{BUNDLE}/scripts/benchlib/hardware.json"
    return os.path.join(BUNDLE, os.path.relpath(path, SOURCE))


def replaceable(path, source=None):
    """Let an edited file be made again if `overwrite` says so, and an edited copy of a data file in any case."""
    data = source and not source.endswith(".py")
    if state.is_edited_copy(path, source) if data else settings["overwrite"] and state.is_edited(path):
        again(path)


def parse_is_lost():
    """Whether the ops file has to be parsed again although nothing is newer: a spec is gone or the settings changed."""
    lost = state.missing_specs(MANIFEST, "results/specs") or not os.path.exists(MODEL_STEPS)
    return lost or not state.holds(PARSED_WITH, settings["parse"])


def parse_inputs(wildcards):
    """What the specs are made of. Asks for another parse where the last one is lost."""
    if os.path.exists(MANIFEST) and parse_is_lost():
        again(MANIFEST)
    return PARSED


def spec_of(wildcards):
    """The kernel's spec, once the ops file has been parsed."""
    catalogue_of(wildcards.kernel)
    return f"results/specs/{wildcards.kernel}.json"


def spec_to_render(wildcards):
    """The kernel's spec, for the job that makes its script."""
    replaceable(SCRIPT.format(kernel=wildcards.kernel))
    return spec_of(wildcards)


def sources_of(paths):
    """Input function: bundle sources, for the job that copies them."""

    def sources(wildcards):
        chosen = [path.format(**wildcards) for path in paths]
        for path in chosen:
            replaceable(bundled(path), path)
        return chosen

    return sources


def listing_kernels(path):
    """Input function without files, for a job whose output lists kernels. Asks for it again where others are meant."""

    def nothing(wildcards):
        known, chosen = manifest(), selected()
        if os.path.exists(path) and not state.lists(path, [known[kernel] for kernel in chosen]):
            again(path)
        return []

    return nothing


def reference_of(wildcards):
    """The reference in the bundle that the kernel's script compares with."""
    return f"{BUNDLE}/scripts/references/{catalogue_of(wildcards.kernel)}.py"


def bundle_files(wildcards):
    """Everything around the scripts."""
    return [*map(bundled, [*TOOLS, *LIBRARY, *REFERENCES]), INDEX, STEPS]


def model_steps(wildcards):
    """The steps of the model, once the ops file has been parsed; `paths` must fit them."""
    checkpoints.parse_ops.get()
    try:
        state.check_paths(state.read_steps(MODEL_STEPS), settings["paths"])
    except UserError as error:
        raise WorkflowError(str(error))
    return MODEL_STEPS


def chosen_paths(path):
    """Input function without files, for a job that adds up. Asks for it again where `paths` changed."""

    def nothing(wildcards):
        if os.path.exists(ADDED_UP_WITH) and not state.holds(ADDED_UP_WITH, settings["paths"]):
            again(path)
        return []

    return nothing


def before_comparison():
    """Refuse to begin where there is nothing to compare."""
    if "compare" in {job.rule.name for job in workflow.dag.needrun_jobs()}:
        try:
            state.comparable(settings["baseline"], RESULTS)
        except UserError as error:
            raise WorkflowError(str(error))


def run_inputs(wildcards):
    """The stamp, for the job that runs the benchmark. Asks for another try where that could change the outcome."""
    sidecar, attempt = (pattern.format(kernel=wildcards.kernel) for pattern in (SIDECAR, ATTEMPT))
    if workflow.executor_plugin is None:  # a report runs nothing
        return STAMP.format(kernel=wildcards.kernel)
    now = environment()
    if os.path.exists(sidecar) and state.wants_run(
        sidecar, attempt, now, settings["retry"], settings["allow_failures"]
    ):
        again(sidecar)
    return STAMP.format(kernel=wildcards.kernel)


def urgency(wildcards):
    """Priority of a kernel's jobs: where benchmarks run side by side, none that takes long should begin last."""
    if not SIDE_BY_SIDE:
        return 0
    expected = expected_seconds_of(wildcards.kernel, "results/specs", "config/kernels")
    return estimate.seconds(wildcards.kernel, RESULTS, f"{BUNDLE}/journal", expected)


def environment():
    """What the outcome of a run depends on beside its files, taken once. Left in a file for the jobs."""
    outcome = {key: settings[key] for key in ("hardware", "timing")}
    executor = workflow.executor_plugin.name
    dry = executor == "dryrun"  # it foretells what a local run would do, and leaves no trace
    write = workflow.is_main_process and not dry
    return state.environment(ENVIRONMENT, "local" if dry else executor, outcome, write)


def after_failure():
    """What the failed jobs say, once more and last, where it is found among everything that Snakemake says."""
    failed = sorted(workflow.scheduler.failed, key=lambda job: (job.rule.name, str(job.wildcards)))
    if not failed:
        return ["Interrupted. What is finished is kept: the same command goes on where this one stopped."]
    verifying = [job.wildcards.kernel for job in failed if job.rule.name == "verify_script"]
    lines = []
    for job in failed:
        name = " ".join([job.rule.name, *map(str, job.wildcards)])
        lines += state.explain(name, str(job.log[0]) if job.log else None, first=job.rule.name.startswith("verify"))
    if verifying:
        out = ",".join([*settings["exclude"], *verifying])
        lines += [
            f"{plural(len(verifying), 'script')} not verified, and therefore not run: the table and the roofline wait.",
            f"Repair them, or leave them out: --config exclude={out}",
        ]
    return lines


scripts = of_each_kernel(SCRIPT)
stamps = of_each_kernel(STAMP)
sidecars = of_each_kernel(SIDECAR)
tables = of_each_kernel(f"{RESULTS}/{{kernel}}.csv")
