# From the results of every kernel to one table, a summary, a picture, and a verdict.


localrules:
    aggregate,
    plot,
    check_status,


rule aggregate:
    input:
        listing_kernels(AGGREGATED),
        csv=tables,
        sidecars=sidecars,
        library=rules.copy_library.output,
        code=["scripts/aggregate.py"],
    output:
        table=f"{RESULTS}/all_kernels.csv",
        summary=f"{RESULTS}/benchmark_summary.md",
        selection=AGGREGATED,
    log:
        "logs/aggregate.log",
    conda:
        WORKFLOW_ENV
    params:
        kernels=selection,
        results=lambda wildcards, output: os.path.dirname(output.table),
    shell:
        "python scripts/aggregate.py --results {params.results} --kernels {params.kernels} 2>&1 | tee {log} >&2 && "
        "python -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {params.kernels} > {output.selection}"


rule plot:
    input:
        table=rules.aggregate.output.table,
        sidecars=sidecars,
        tool=f"{BUNDLE}/plot_roofline.py",
        library=rules.copy_library.output,
    output:
        png=f"{RESULTS}/roofline.png",
        svg=f"{RESULTS}/roofline.svg",
    log:
        "logs/plot.log",
    conda:
        WORKFLOW_ENV
    params:
        kernels=selection,
        results=lambda wildcards, output: os.path.dirname(output.png),
    shell:
        # An empty list of points, because the sidecars have them all: asking each script would take a minute.
        "python {input.tool} --results {params.results} --kernels {params.kernels}"
        " --points <(echo '[]') 2>&1 | tee {log} >&2"


rule check_status:
    input:
        sidecars=sidecars,
        summary=rules.aggregate.output.summary,
        pictures=rules.plot.output,
    output:
        touch("results/status.ok"),
    log:
        "logs/check_status.log",
    conda:
        WORKFLOW_ENV
    shell:
        "python scripts/check_status.py $ROOFBENCH_ALLOW_FAILURES {input.sidecars} 2>&1 | tee {log} >&2"
