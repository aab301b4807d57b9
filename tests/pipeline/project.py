"""A copy of the project in a folder of its own, with a small ops file, and Snakemake runs in it that count jobs."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "config", "envs", "profiles", "requirements.lock", "scripts", "slurm", "workflow")
ROWS = {
    "rmsnorm": "| `q_a_layernorm` | [{tokens}, Lq] | same | `rmsnorm` |",
    "silu_and_mul": "| `act_fn` | [{tokens}, 2*I] | [{tokens}, I] | `silu_and_mul` |",
    "topk_sigmoid": "| `topk` | [{tokens}, E] | [{tokens}, K] | `topk_sigmoid` |",
}
OPS = {"rmsnorm": "q_a_layernorm", "silu_and_mul": "act_fn", "topk_sigmoid": "topk"}
SYMBOLS = {"Lq": 1536, "I": 2048, "E": 256, "K": 8, "Z": 3}


def ops_file(kernels=("rmsnorm", "silu_and_mul"), prose="A small model.", **symbols):
    """Text of an ops file with these kernels; Z is a symbol that no shape uses."""
    model = "\n".join(f"| `{name}` | {value} | {name} |" for name, value in {**SYMBOLS, **symbols}.items())
    head = "| Op | Input Shape | Output Shape | Kernel |\n|---|---|---|---|\n"
    phases = "".join(
        f"## {phase} Phase\n\n{head}" + "".join(ROWS[kernel].format(tokens=tokens) + "\n" for kernel in kernels) + "\n"
        for phase, tokens in (("Prefill", "B*S"), ("Decode", "B"))
    )
    summary = "".join(f"| `{kernel}` | sgl-kernel | {OPS[kernel]} |\n" for kernel in kernels)
    return (
        f"# Operators\n\n{prose}\n\n"
        f"## Model Configuration\n\n| Parameter | Value | Symbol |\n|---|---|---|\n{model}\n\n"
        f"{phases}## Kernel Summary\n\n| Kernel | Source | Ops Using It |\n|---|---|---|\n{summary}"
    )


@dataclass
class Run:
    """How a Snakemake run ended: exit status, output, and how many jobs of each rule were finished."""

    status: int
    output: str

    @property
    def jobs(self):
        """Finished jobs by rule, the target rules left out."""
        found = Counter(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", self.output))
        return {rule: count for rule, count in found.items() if rule not in ("generate", "verify", "all")}


class Project:
    """The copy: `write` its ops file, run Snakemake in it, look at its files."""

    # Seconds that a run of Snakemake may take.
    patience = 600

    def __init__(self, folder):
        self.root = Path(folder)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", ".snakemake")
                shutil.copytree(source, self.root / part, ignore=ignore)
            elif source.exists():
                shutil.copy2(source, self.root / part)
        self.write()

    def write(self, *args, **kwargs):
        """Write the ops file; arguments as of `ops_file`."""
        self.file("results/deepseek_nvfp4_ops.md").parent.mkdir(exist_ok=True)
        self.file("results/deepseek_nvfp4_ops.md").write_text(ops_file(*args, **kwargs))

    def file(self, name):
        """Path of a file of the copy."""
        return self.root / name

    def script(self, kernel):
        """Path of a kernel's benchmark script."""
        return self.file(f"deepseek_kernel_benchmarks/scripts/bench_{kernel}.py")

    def append(self, name, text):
        """Add text to the end of a file."""
        with self.file(name).open("a") as stream:
            stream.write(text)

    def run(self, *arguments, status=0, **environment):
        """Run Snakemake; `status` is the exit status that must come out, None for any."""
        command = [str(Path(sys.executable).with_name("snakemake")), *arguments]
        environment = {**os.environ, "SNAKEMAKE_OUTPUT_CACHE": "", **environment}
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=self.patience,
            check=False,
        )
        if status is not None:
            assert done.returncode == status, done.stdout[-5000:]
        return Run(done.returncode, done.stdout)
