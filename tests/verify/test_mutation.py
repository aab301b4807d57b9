"""Realistic errors must be found, harmless edits must pass. The whole table is slow; a sample always runs."""

import os

import pytest
from mutation import harmless, harness, mutations

pytestmark = pytest.mark.xdist_group("verify")

SAMPLE = ("dsv3_fused_a_gemm", "moe_align_block_size")


def kill(generated, tmp_path, kernels=None, limit=None, shared=True):
    scripts = harness.load(generated.scripts, generated.specs, kernels)
    tasks = list(harness.tasks_of(scripts, limit))
    if shared:
        tasks += harness.shared_tasks(scripts, generated.scripts, tmp_path)
    text, survivors, every, dead = harness.table(harness.run(scripts, generated.scripts, tasks))
    print(text)
    path = os.environ.get("ROOFBENCH_KILL_TABLE")
    if path:
        with open(path, "w") as stream:
            stream.write(text + "\n")
    return text, survivors, every, dead


def test_there_are_enough_kinds_of_errors_and_edits():
    assert len(mutations.KINDS) >= 20
    assert len(harmless.GENERAL) >= 30


def test_a_sample_of_errors_is_found(generated, tmp_path):
    text, survivors, every, dead = kill(generated, tmp_path, SAMPLE, limit=1, shared=False)
    assert every > 60
    assert dead >= 0.99 * every, text


def test_a_sample_of_harmless_edits_passes(generated):
    assert_harmless(generated, ["cutlass_mla_decode"])


@pytest.mark.slow
def test_errors_in_all_scripts_are_found(generated, tmp_path):
    text, survivors, every, dead = kill(generated, tmp_path)
    assert dead >= 0.99 * every, text


@pytest.mark.slow
def test_harmless_edits_of_all_scripts_pass(generated):
    assert_harmless(generated, None)


def assert_harmless(generated, kernels):
    scripts = harness.load(generated.scripts, generated.specs, kernels)
    tasks = [
        (index, "harmless", name, text, None)
        for index, script in enumerate(scripts)
        for name, text in harmless.edits(script.kernel, script.text)
    ]
    refused = [result for result in harness.run(scripts, generated.scripts, tasks) if result[3]]
    assert not refused, "\n\n".join(f"{kernel}, {name}:\n{text}" for kernel, _, name, _, text in refused)
