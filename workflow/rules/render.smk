# Benchmark scripts, and the bundle around them. Files that a person wrote or edited are kept: the outputs are
# marked `update`, so that Snakemake does not delete them, and the scripts decide by the hash in the last line.
TOOLS = [path for path in files_under(SOURCE) if os.path.dirname(path) == SOURCE]
REFERENCES = files_under(f"{SOURCE}/scripts/references")
LIBRARY = [path for path in files_under(f"{SOURCE}/scripts") if path not in REFERENCES] + [HARDWARE]
INDEX = f"{BUNDLE}/scripts/kernels.json"
STEPS = f"{BUNDLE}/scripts/benchlib/model_steps.json"


localrules:
    render_script,
    copy_tools,
    copy_library,
    copy_reference,
    index_scripts,
    copy_steps,


rule render_script:
    input:
        spec=spec_to_render,
        entry=of_catalogue("config/kernels/{catalogue}.yaml"),
        template=of_catalogue("workflow/templates/kernels/{catalogue}.py.j2"),
        base="workflow/templates/base.py.j2",
        code=["scripts/render.py", *(f"workflow/roofbench/{name}.py" for name in ("render", "generated", "grammar"))],
    output:
        update(SCRIPT),
    log:
        "logs/render/{kernel}.log",
    priority: urgency
    conda:
        WORKFLOW_ENV
    shell:
        "python scripts/render.py --spec {input.spec} --entry {input.entry} --templates workflow/templates"
        " --output {output} $ROOFBENCH_OVERWRITE 2>&1 | tee {log} >&2"


rule copy_tools:
    input:
        sources_of(TOOLS),
    output:
        update([bundled(path) for path in TOOLS]),
    log:
        "logs/bundle/tools.log",
    conda:
        WORKFLOW_ENV
    shell:
        "python scripts/bundle.py $ROOFBENCH_OVERWRITE {input} 2>&1 | tee {log} >&2"


rule copy_library:
    input:
        sources_of(LIBRARY),
    output:
        update([bundled(path) for path in LIBRARY]),
    log:
        "logs/bundle/library.log",
    conda:
        WORKFLOW_ENV
    shell:
        "python scripts/bundle.py $ROOFBENCH_OVERWRITE {input} 2>&1 | tee {log} >&2"


rule copy_reference:
    input:
        sources_of([f"{SOURCE}/scripts/references/{{reference}}.py"]),
    output:
        update(f"{BUNDLE}/scripts/references/{{reference}}.py"),
    log:
        "logs/bundle/reference_{reference}.log",
    conda:
        WORKFLOW_ENV
    shell:
        "python scripts/bundle.py $ROOFBENCH_OVERWRITE {input} 2>&1 | tee {log} >&2"


rule index_scripts:
    input:
        listing_kernels(INDEX),
        entries=of_each_catalogue("config/kernels/{catalogue}.yaml"),
        specs=of_each_kernel("results/specs/{kernel}.json"),
    output:
        index=INDEX,
        selected=SELECTED,
    log:
        "logs/bundle/index.log",
    conda:
        WORKFLOW_ENV
    params:
        kernels=selection,
        manifest=MANIFEST,
    shell:
        "python scripts/index.py --manifest {params.manifest} --output {output.index} --selected {output.selected}"
        " --kernels {params.kernels} 2>&1 | tee {log} >&2"


rule copy_steps:
    input:
        model_steps,
    output:
        STEPS,
    log:
        "logs/bundle/steps.log",
    conda:
        WORKFLOW_ENV
    shell:
        "cp {input} {output} 2>&1 | tee {log} >&2"
