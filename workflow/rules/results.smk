# From the results of every kernel to one table, a summary, pictures, the time of a step, and a verdict.
# In the report each file has one label only: where another one has two values that are equally frequent, Snakemake makes
# a switch of it, and its page goes blank where one side of the switch is empty (seen with 9.27.1).
CAPTIONS = "../report"
CHOSEN_PATHS = [f"--path={op}={path}" for op, path in settings["paths"].items()]


localrules:
    aggregate,
    plot,
    model_time,
    check_status,
    compare,


# all_kernels.parquet is no declared output: without pyarrow there is a message, and everything else.
rule aggregate:
    input:
        listing_kernels(AGGREGATED),
        chosen_paths(AGGREGATED),
        csv=tables,
        sidecars=sidecars,
        steps=rules.copy_steps.output,
        library=rules.copy_library.output,
        code=["scripts/aggregate.py", "scripts/page.py"],
    output:
        table=report(
            f"{RESULTS}/all_kernels.csv",
            caption=f"{CAPTIONS}/all_kernels.rst",
            category="Kernels",
            labels={"what": "Every measured point (CSV)"},
        ),
        summary=f"{RESULTS}/benchmark_summary.md",
        page=report(
            f"{RESULTS}/benchmark_summary.html",
            caption=f"{CAPTIONS}/summary.rst",
            category="Kernels",
            labels={"what": "Summary (HTML)"},
        ),
        selection=AGGREGATED,
    log:
        "logs/aggregate.log",
    conda:
        WORKFLOW_ENV
    params:
        kernels=selection,
        results=lambda wildcards, output: os.path.dirname(output.table),
        chosen=CHOSEN_PATHS,
    shell:
        "python scripts/aggregate.py --results {params.results} --steps {input.steps} --kernels {params.kernels}"
        " {params.chosen:q} 2>&1 | tee {log} >&2 && "
        "python scripts/page.py --input {output.summary} --output {output.page} 2>&1 | tee -a {log} >&2 && "
        "python -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {params.kernels} > {output.selection}"


rule plot:
    input:
        table=rules.aggregate.output.table,
        sidecars=sidecars,
        tool=f"{BUNDLE}/plot_roofline.py",
        library=rules.copy_library.output,
    output:
        png=report(
            f"{RESULTS}/roofline.png",
            caption=f"{CAPTIONS}/roofline.rst",
            category="Roofline",
            labels={"what": "Roofline (PNG)"},
        ),
        svg=report(
            f"{RESULTS}/roofline.svg",
            caption=f"{CAPTIONS}/roofline.rst",
            category="Roofline",
            labels={"what": "Roofline (SVG)"},
        ),
        # Not in the report: Chromium shows no page of more than 2 MB inside of another one, and says nothing.
        html=f"{RESULTS}/roofline.html",
    log:
        "logs/plot.log",
    conda:
        WORKFLOW_ENV
    params:
        kernels=selection,
        results=lambda wildcards, output: os.path.dirname(output.png),
    shell:
        # An empty list of points, because the sidecars have them all: asking each script would take a minute.
        "python {input.tool} --results {params.results} --kernels {params.kernels} --html"
        " --points <(echo '[]') 2>&1 | tee {log} >&2"


rule model_time:
    input:
        chosen_paths(ADDED_UP_WITH),
        table=rules.aggregate.output.table,
        sidecars=sidecars,
        steps=rules.copy_steps.output,
        tool=f"{BUNDLE}/model_time.py",
        library=rules.copy_library.output,
        code=["scripts/page.py"],
    output:
        summary=f"{RESULTS}/model_time.md",
        page=report(
            f"{RESULTS}/model_time.html",
            caption=f"{CAPTIONS}/model_time.rst",
            category="Model time",
            labels={"what": "What to fix first, and steps (HTML)"},
        ),
        png=report(
            f"{RESULTS}/model_time.png",
            caption=f"{CAPTIONS}/model_time.rst",
            category="Model time",
            labels={"what": "Where the time of a step goes (PNG)"},
        ),
        svg=report(
            f"{RESULTS}/model_time.svg",
            caption=f"{CAPTIONS}/model_time.rst",
            category="Model time",
            labels={"what": "Where the time of a step goes (SVG)"},
        ),
        steps=report(
            f"{RESULTS}/model_time.csv",
            caption=f"{CAPTIONS}/model_time.rst",
            category="Model time",
            labels={"what": "Every step (CSV)"},
        ),
        ops=report(
            f"{RESULTS}/model_time_ops.csv",
            caption=f"{CAPTIONS}/model_time.rst",
            category="Model time",
            labels={"what": "Every op of every step (CSV)"},
        ),
        headroom=report(
            f"{RESULTS}/headroom.csv",
            caption=f"{CAPTIONS}/headroom.rst",
            category="Model time",
            labels={"what": "Headroom (CSV)"},
        ),
        paths=ADDED_UP_WITH,
    log:
        "logs/model_time.log",
    conda:
        WORKFLOW_ENV
    params:
        kernels=selection,
        results=lambda wildcards, output: os.path.dirname(output.steps),
        chosen=CHOSEN_PATHS,
        paths=json.dumps(settings["paths"]),
    shell:
        "python {input.tool} --results {params.results} --steps {input.steps} --kernels {params.kernels}"
        " {params.chosen:q} 2>&1 | tee {log} >&2 && "
        "python scripts/page.py --input {output.summary} --output {output.page} 2>&1 | tee -a {log} >&2 && "
        "printf '%s' {params.paths:q} > {output.paths}"


rule check_status:
    input:
        sidecars=sidecars,
        summary=rules.aggregate.output.summary,
        pictures=rules.plot.output,
        steps=rules.model_time.output,
    output:
        touch("results/status.ok"),
    log:
        "logs/check_status.log",
    conda:
        WORKFLOW_ENV
    shell:
        "python scripts/check_status.py $ROOFBENCH_ALLOW_FAILURES {input.sidecars} 2>&1 | tee {log} >&2"


# What is measured, as it is: asks for no benchmark. Without outputs, so that it is done whenever it is asked for.
rule compare:
    input:
        tool=f"{BUNDLE}/compare_results.py",
        library=rules.copy_library.output,
    log:
        "logs/compare.log",
    conda:
        WORKFLOW_ENV
    params:
        baseline=settings["baseline"],
        threshold=settings["threshold"],
        results=RESULTS,
    shell:
        "python {input.tool} --baseline {params.baseline:q} --current {params.results} --output {params.results}"
        " --threshold {params.threshold} 2>&1 | tee {log} >&2"
