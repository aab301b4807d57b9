# One benchmark a job, and only where the script has its stamp. A run that could not measure is no failed job: its
# status stands in the first record of the sidecar, and `run_inputs` decides whether it is worth another try.


STACK = "cu13"  # or cu12: which of envs/gpu-*.yaml and .def `--software-deployment-method conda` or apptainer takes


rule run_benchmark:
    input:
        stamp=run_inputs,
        script=SCRIPT,
        library=rules.copy_library.output,
        reference=reference_of,
    output:
        csv=update(f"{RESULTS}/{{kernel}}.csv"),
        sidecar=update(SIDECAR),
        attempt=update(ATTEMPT),
    log:
        "logs/run/{kernel}.log",
    priority: urgency
    conda:
        f"../../envs/gpu-{STACK}.yaml"
    container:
        f"envs/gpu-{STACK}.sif"
    resources:
        gpu=1,
    params:
        results=lambda wildcards, output: os.path.dirname(output.csv),
        environment=ENVIRONMENT,
    shell:
        "python scripts/run_benchmark.py --script {input.script} --output {params.results}"
        " --environment {params.environment} --attempt {output.attempt} 2>&1 | tee {log} >&2"


# What the devices reach themselves. Benchmarks measure it, too, if nobody did; without outputs, because the files
# are named by device and stay in the journal.
rule peaks:
    input:
        tool=f"{BUNDLE}/scripts/benchlib/peaks.py",
        library=rules.copy_library.output,
    log:
        "logs/peaks.log",
    conda:
        f"../../envs/gpu-{STACK}.yaml"
    container:
        f"envs/gpu-{STACK}.sif"
    resources:
        gpu=1,
    params:
        journal=f"{BUNDLE}/journal",
    shell:
        "python {input.tool} --journal {params.journal} 2>&1 | tee {log} >&2"
