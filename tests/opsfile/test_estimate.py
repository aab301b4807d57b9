"""Which kernel begins first, and what that is worth: played through with the seconds that one H200 took."""

import heapq

import pytest
from opsfile_helpers import OWN, catalogue, parse

from roofbench.estimate import expected_seconds, expected_seconds_of

# Seconds in points and before them (imports, checks, compilation) of a run on 23 November 2026, hours before the one in
# docs/measurements/h200. All kernels took 376 s.
POINTS = {
    "fused_moe_kernel": 67.4,
    "rmsnorm": 47.2,
    "silu_and_mul": 25.6,
    "fused_add_rmsnorm": 17.5,
    "apply_rope_with_cos_sin_cache_inplace": 12.1,
    "prepare_moe_input": 10.6,
    "topk_softmax": 10.6,
    "topk_sigmoid": 9.8,
    "moe_align_block_size": 8.4,
    "moe_fused_gate": 8.2,
    "apply_shuffle_mul_sum": 7.3,
    "bmm_fp8": 5.9,
    "concat_mla_k": 4.3,
    "mla_rope_quantize_fp8": 3.4,
    "dsv3_router_gemm": 1.7,
    "dsv3_fused_a_gemm": 1.6,
}
STARTS = {"fused_moe_kernel": 26.0, "mla_rope_quantize_fp8": 34.0}
ALONE = 376.0


@pytest.fixture(scope="module")
def expected():
    """{kernel: expected seconds} of the repository's own ops file, in its order."""
    specs, problems = parse(OWN.read_text())
    assert not problems.errors
    return {name: expected_seconds(spec, catalogue().get(spec["catalogue"])) for name, spec in specs.items()}


def measured(kernels):
    """{kernel: seconds on one H200}; what is not known singly is spread evenly."""
    rest = ALONE - sum(POINTS.values()) - sum(STARTS.values())
    even = rest / (len(kernels) - len(STARTS))
    return {kernel: POINTS.get(kernel, 0.0) + STARTS.get(kernel, even) for kernel in kernels}


def wall(kernels, seconds, gpus):
    """Seconds until the last kernel has ended, each begun in this order on the GPU that is free first."""
    free = [0.0] * gpus
    for kernel in kernels:
        heapq.heappush(free, heapq.heappop(free) + seconds[kernel])
    return max(free)


def wall_with_help(kernels, starts, points, gpus, idle=3.0, split=5.0, step=0.25):
    """As `wall`, where GPUs that are left over help, by the rule of benchlib.supervise.

    A worker measures nothing in its first `starts` seconds; those of one kernel share what is left of its `points`.
    """
    waiting, running, now, free_since = list(kernels), {}, 0.0, dict.fromkeys(range(gpus), 0.0)
    while waiting or running:
        for gpu in sorted(free_since):
            if waiting:
                kernel = waiting.pop(0)
                running[kernel] = {"left": points[kernel], "ready": {gpu: now + starts[kernel]}}
                del free_since[gpu]
            elif now - free_since[gpu] >= idle:
                gains = {}
                for kernel, one in running.items():
                    workers = len(one["ready"])
                    if min(one["ready"].values()) <= now:
                        gains[kernel] = (one["left"] - workers * starts[kernel]) / (workers * (workers + 1))
                if gains and max(gains.values()) >= split:
                    kernel = max(gains, key=gains.get)
                    running[kernel]["ready"][gpu] = now + starts[kernel]
                    del free_since[gpu]
        now += step
        for kernel, one in list(running.items()):
            one["left"] -= step * sum(ready < now for ready in one["ready"].values())
            if one["left"] <= 0 and min(one["ready"].values()) < now:
                free_since.update(dict.fromkeys(one["ready"], now))
                del running[kernel]
    return now


def test_the_estimate_finds_the_long_kernels(expected):
    kernels = sorted(POINTS, key=lambda kernel: -expected[kernel])
    assert kernels[:3] == ["fused_moe_kernel", "rmsnorm", "silu_and_mul"]
    seconds = measured(expected)
    assert all(expected[kernel] / 2 < seconds[kernel] < expected[kernel] * 2 for kernel in POINTS)


@pytest.mark.parametrize(("gpus", "most"), [(1, 377), (2, 200), (4, ALONE / 3), (8, 100)])
def test_longest_first_is_near_what_can_be_reached(expected, gpus, most):
    seconds = measured(expected)
    by_estimate = wall(sorted(expected, key=lambda kernel: -expected[kernel]), seconds, gpus)
    assert max(ALONE / gpus, max(seconds.values())) <= by_estimate + 1e-6
    assert by_estimate <= most


@pytest.mark.parametrize(("gpus", "most"), [(1, 380), (2, 195), (4, 100), (8, 85)])
def test_with_splitting_no_kernel_holds_up_the_rest(expected, gpus, most):
    seconds = measured(expected)
    starts = {kernel: seconds[kernel] - POINTS.get(kernel, 0.0) for kernel in expected}
    points = {kernel: POINTS.get(kernel, 0.0) for kernel in expected}
    order = sorted(expected, key=lambda kernel: -expected[kernel])
    split = wall_with_help(order, starts, points, gpus)
    assert ALONE / gpus <= split <= most
    assert split <= wall(order, seconds, gpus) + 0.02 * ALONE / gpus + 1


def test_in_the_order_of_the_ops_file_two_gpus_take_what_they_took(expected):
    """Not longest first: the run on two H200 was measured at 238 s, and the longest kernel is the file's last."""
    assert abs(wall(expected, measured(expected), 2) - 238) < 5


def test_without_a_spec_nothing_is_expected(tmp_path):
    assert expected_seconds_of("rmsnorm", str(tmp_path), str(tmp_path)) == 0.0
