"""From an ops file to verified benchmark scripts, measurements and a roofline: see docs/design.md."""


report: "workflow/report/overview.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/parse.smk"
include: "workflow/rules/render.smk"
include: "workflow/rules/verify.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/run.smk"
include: "workflow/rules/results.smk"


localrules:
    generate,
    verify,
    all,


rule verify:
    default_target: True
    input:
        stamps,
        rules.verify_bundle.output,
        bundle_files,


rule generate:
    input:
        scripts,
        bundle_files,


rule all:
    input:
        scripts,
        stamps,
        tables,
        sidecars,
        bundle_files,
        rules.verify_bundle.output,
        rules.aggregate.output,
        rules.plot.output,
        rules.model_time.output,
        rules.check_status.output,
