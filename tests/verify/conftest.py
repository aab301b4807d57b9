"""All scripts of the project's own ops file, generated once into a folder laid out as the real one."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parent))


def generate(folder, ops_file):
    """Specs, bundle and scripts below a folder: {results/specs, deepseek_kernel_benchmarks/scripts}."""
    from roofbench.catalogue import load_catalogue
    from roofbench.config import check_config
    from roofbench.errors import Problems
    from roofbench.join import build_specs, write_specs
    from roofbench.opsfile import parse_ops_file
    from roofbench.render import render_kernel

    problems = Problems()
    catalogue = load_catalogue(ROOT / "config" / "kernels", problems)
    text = ops_file.read_text()
    result = build_specs(parse_ops_file(text, str(ops_file), problems), catalogue, check_config({}), problems)
    problems.raise_errors()
    write_specs(result, folder / "results", text)
    bundle = folder / "deepseek_kernel_benchmarks"
    shutil.copytree(ROOT / "workflow" / "bundle", bundle, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config" / "hardware.json", bundle / "scripts" / "benchlib" / "hardware.json")
    index = []
    for path in sorted((folder / "results" / "specs").glob("*.json")):
        spec = json.loads(path.read_text())
        entry = catalogue.entry(spec["catalogue"]).data
        script = bundle / "scripts" / f"bench_{spec['kernel']}.py"
        script.write_text(render_kernel(spec, entry, ROOT / "workflow" / "templates"))
        index.append(
            {
                "kernel": spec["kernel"],
                "catalogue": spec["catalogue"],
                "source": spec["source"],
                "category": entry["category"],
                "script": script.name,
            }
        )
    (bundle / "scripts" / "kernels.json").write_text(json.dumps(index))
    return SimpleNamespace(
        folder=folder, bundle=bundle, scripts=bundle / "scripts", specs=folder / "results" / "specs",
        manifest=folder / "results" / "specs.json", kernels=[e["kernel"] for e in index],
    )  # fmt: skip


@pytest.fixture(scope="session")
def generated(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("generated"), ROOT / "results" / "deepseek_nvfp4_ops.md")


@pytest.fixture(scope="session")
def verifier():
    import roofbench.verify.warm  # noqa: F401
    from roofbench.verify.check import Verifier

    return Verifier(seconds=30)


@pytest.fixture
def verify(generated, verifier):
    """verify(kernel, (old, new), ...): the report on a kernel's script after replacements in its text."""

    def run(kernel, *replacements, bundle=None, seconds=None):
        from roofbench.verify.check import Verifier

        path = generated.scripts / f"bench_{kernel}.py"
        text = path.read_text()
        for old, new in replacements:
            assert old in text, f"{kernel} no longer holds {old!r}"
            text = text.replace(old, new)
        spec = json.loads((generated.specs / f"{kernel}.json").read_text())
        chosen = Verifier(bundle=bundle, seconds=seconds or 30) if bundle or seconds else verifier
        report, _ = chosen.verify(path, spec, text=text)
        return report

    return run
