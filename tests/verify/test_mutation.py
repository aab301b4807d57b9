"""Realistic errors must be found, harmless edits must pass. The whole table is slow; a sample always runs."""

import time

import pytest
from mutation import harmless, harness, mutations

pytestmark = pytest.mark.xdist_group("verify")

SAMPLE = ("dsv3_fused_a_gemm", "moe_align_block_size")


def kill(generated, tasks, kernels=None):
    """(table as text, survivors without a reason, mutants, killed ones) of tasks(scripts)."""
    start = time.perf_counter()
    scripts = harness.load(generated.scripts, generated.specs, kernels)
    results = list(harness.run(scripts, generated.scripts, tasks(scripts)))
    text, survivors, every, dead = harness.table(results)
    took = f"{len(results)} mutants of {len(scripts)} scripts in {time.perf_counter() - start:.0f} s"
    return f"{text}\n{took}", survivors, every, dead


def test_there_are_enough_kinds_of_errors_and_edits():
    assert len(mutations.KINDS) >= 20
    assert len(harmless.GENERAL) >= 30


def test_errors_in_the_shared_code_follow_it(generated):
    gone = [(file, old) for _, file, old, _ in mutations.SHARED if old not in (generated.scripts / file).read_text()]
    assert not gone


def test_a_sample_of_errors_is_found(generated):
    text, survivors, every, dead = kill(generated, harness.one_of_each_kind, SAMPLE)
    assert every > 45
    assert dead >= 0.99 * every, text


def test_a_sample_of_harmless_edits_passes(generated):
    assert_harmless(generated, ["dsv3_fused_a_gemm"])


@pytest.mark.slow
def test_errors_in_all_scripts_are_found(generated, tmp_path, record_property):
    text, survivors, every, dead = kill(
        generated, lambda scripts: harness.every_task(scripts, generated.scripts, tmp_path)
    )
    record_property("table", text)  # tests/conftest.py prints it
    assert dead >= 0.99 * every, text
    assert not survivors, text


@pytest.mark.slow
def test_harmless_edits_of_all_scripts_pass(generated, record_property):
    record_property("table", assert_harmless(generated, None))


def assert_harmless(generated, kernels):
    start = time.perf_counter()
    scripts = harness.load(generated.scripts, generated.specs, kernels)
    tasks = [
        (index, "harmless", name, text, None)
        for index, script in enumerate(scripts)
        for name, text in harmless.edits(script.kernel, script.text)
    ]
    refused = [result for result in harness.run(scripts, generated.scripts, tasks) if result[3]]
    assert not refused, "\n\n".join(f"{kernel}, {name}:\n{text}" for kernel, _, name, _, text in refused)
    edits = len({task[2] for task in tasks})
    return f"{len(tasks)} harmless edits of {edits} kinds pass, in {time.perf_counter() - start:.0f} s"
