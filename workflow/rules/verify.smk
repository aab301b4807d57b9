# Each script, against its spec, the catalogue and the contract. The stamp is the report; without it nothing is run.
VERIFY_CODE = ["scripts/verify.py", *files_under("workflow/roofbench/verify", "*.py")]
workers = []
STACKS = files_under("config/stacks", "*.json")


localrules:
    verify_script,
    verify_bundle,


rule verify_script:
    input:
        script=SCRIPT,
        spec=spec_of,
        entry=of_catalogue("config/kernels/{catalogue}.yaml"),
        contract=of_catalogue("workflow/roofbench/contracts/{catalogue}.py"),
        library=rules.copy_library.output,
        reference=reference_of,
        stacks=STACKS,
        code=VERIFY_CODE,
    output:
        STAMP,
    log:
        "logs/verify/{kernel}.log",
    priority: urgency
    conda:
        WORKFLOW_ENV
    shell:
        "python scripts/ask_worker.py scripts/verify.py"
        " --script {input.script} --spec {input.spec} --stamp {output} 2>&1 | tee {log} >&2"


# The orchestrator is tried on a script, so that scripts must be there; which, does not matter.
rule verify_bundle:
    input:
        ancient(scripts),
        tools=rules.copy_tools.output,
        library=rules.copy_library.output,
        selected=SELECTED,
        index=INDEX,
        code=VERIFY_CODE,
    output:
        "results/verified_bundle.json",
    log:
        "logs/verify_bundle.log",
    conda:
        WORKFLOW_ENV
    params:
        bundle=lambda wildcards, input: os.path.dirname(input.tools[0]),
    shell:
        "python scripts/verify.py --bundle {params.bundle} --manifest {input.selected} --stamp {output}"
        " 2>&1 | tee {log} >&2"


onstart:
    if workflow.is_main_process:
        before_benchmarks()
        before_comparison()
        workers.append(Worker())


onerror:
    print("", *after_failure(), "", sep="\n", file=sys.stderr)
