# From the ops file, the catalogue and the configuration to one spec for each kernel.
PARSE_CODE = [
    "scripts/parse_ops.py",
    *files_under("workflow/roofbench/schemas"),
    *files_under("workflow/roofbench/opsfile", "*.py"),
    *(f"workflow/roofbench/{name}.py" for name in ("catalogue", "config", "documents", "errors", "grammar", "join")),
]


localrules:
    parse_ops,


# Specs and origins are maintained by the script and are no declared outputs: a spec keeps its modification time
# while its content stays, so that a kernel is made anew only when its own spec changed.
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
