"""With this folder on PYTHONPATH, a benchmark's worker finds a GPU and kernels made of Python.

FAKE_GPU names a folder: `behaviour.json` says what kernels do ({kernel: {"sleep": seconds of a measurement,
"mishap": "crash" | "end_supervisor", "device": name}}), and `intervals.jsonl` gets the times at which the GPU was
busy. Snakemake itself asks Slurm for the state of its jobs every second: the plugin waits ten seconds longer after
each look at which no job had ended, and tests would spend most of their time so. Other processes are left alone.
"""

import os
import sys

if os.environ.get("FAKE_GPU") and "snakemake" in map(os.path.basename, sys.orig_argv[1:3]):
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 1.0, lambda self, seconds: None)

if os.environ.get("ROOFBENCH_ATTEMPT") and os.environ.get("FAKE_GPU"):
    script = next((word for word in sys.orig_argv if os.path.basename(word).startswith("bench_")), None)
    if script:
        import worker_on_a_fake_gpu

        worker_on_a_fake_gpu.install(script)
