# From the ops file, the catalogue and the configuration to one spec for each kernel.
from roofbench import parse as parser

PARSE_CODE = [
    "scripts/parse_ops.py",
    *files_under("workflow/roofbench/schemas"),
    *files_under("workflow/roofbench/opsfile", "*.py"),
    *files_under("workflow/roofbench/results", "*.py"),
    *(f"workflow/roofbench/{name}.py" for name in ("catalogue", "config", "documents", "errors", "grammar", "join")),
    "workflow/roofbench/parse.py",
]
STEPS_CONFIG = "config/model_steps.yaml"
PARSED = [settings["ops_file"], *files_under("config/kernels", "*.yaml"), STEPS_CONFIG, *PARSE_CODE]


def refuse_mistakes():
    """End before anything begins where the job below could only fail: its messages would stand amid Snakemake's.

    Without a parse to come, the last one says which kernels there are.
    """
    try:
        state.check_writable([".", ".snakemake", "logs", "results", BUNDLE, os.path.dirname(SCRIPT)])
        if not parse_is_lost() and all(state.is_newer(MANIFEST, path) for path in PARSED):
            kernels, steps = state.read_manifest(MANIFEST), state.read_steps(MODEL_STEPS)
        else:
            parsed = parser.parse(configuration, "config/kernels", STEPS_CONFIG)
            if parsed.problems.errors:
                sys.exit(parsed.problems.report())
            kernels = {entry["kernel"]: entry for entry in parsed.specs.manifest["kernels"]}
            steps = parsed.steps
        chosen = state.select(kernels, settings["kernels"], settings["exclude"], settings["ops_file"])
        state.check_paths(steps, settings["paths"])
        state.check_parts([kernels[kernel] for kernel in chosen])
    except UserError as error:
        sys.exit(str(error))


if workflow.is_main_process:
    refuse_mistakes()


localrules:
    parse_ops,


# Specs, origins and the steps of the model are maintained by the script and are no declared outputs: they keep their
# modification time while the content stays, so that a kernel is made anew only when its own spec changed.
checkpoint parse_ops:
    input:
        parse_inputs,
    output:
        manifest=update(MANIFEST),
        settings=PARSED_WITH,
    log:
        "logs/parse_ops.log",
    priority: 10
    conda:
        WORKFLOW_ENV
    params:
        settings=json.dumps(settings["parse"], sort_keys=True),
    shell:
        "python scripts/parse_ops.py --settings {params.settings:q} --output results 2>&1 | tee {log} >&2 && "
        "python scripts/prune.py --manifest {output.manifest} >&2 && "
        "printf '%s' {params.settings:q} > {output.settings}"
