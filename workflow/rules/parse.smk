# From the ops file, the catalogue and the configuration to one spec for each kernel.
PARSE_CODE = [
    "scripts/parse_ops.py",
    *files_under("workflow/roofbench/schemas"),
    *files_under("workflow/roofbench/opsfile", "*.py"),
    *files_under("workflow/roofbench/results", "*.py"),
    *(f"workflow/roofbench/{name}.py" for name in ("catalogue", "config", "documents", "errors", "grammar", "join")),
]
STEPS_CONFIG = "config/model_steps.yaml"


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
