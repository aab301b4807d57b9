"""With this folder on PYTHONPATH, a benchmark's worker finds a GPU and kernels made of Python.

FAKE_GPU names a folder: `behaviour.json` says what kernels do ({kernel: {"sleep": seconds of a measurement,
"mishap": "crash" | "end_supervisor", "device": name}}), and `intervals.jsonl` gets the times at which the GPU was
busy. Other processes than workers are left alone.
"""

import os
import sys

if os.environ.get("ROOFBENCH_ATTEMPT") and os.environ.get("FAKE_GPU"):
    script = next((word for word in sys.orig_argv if os.path.basename(word).startswith("bench_")), None)
    if script:
        import worker_on_a_fake_gpu

        worker_on_a_fake_gpu.install(script)
