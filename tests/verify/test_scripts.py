"""The verifier on generated scripts: good ones pass, and failures say what a person needs to know."""

import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("verify")
ROOT = Path(__file__).resolve().parents[2]


def checks(report):
    return {finding.check for finding in report.findings.values()}


def only(report, check):
    found = [f for f in report.findings.values() if f.check == check]
    assert found, report.text()
    return found[0]


def test_all_scripts_pass_on_both_stacks(generated, verifier, tmp_path):
    from roofbench.verify.check import verify_file
    from roofbench.verify.findings import FAMILIES

    points = 0
    start = time.perf_counter()
    for kernel in generated.kernels:
        stamp = tmp_path / f"{kernel}.json"
        report, _ = verify_file(
            verifier, generated.scripts / f"bench_{kernel}.py", generated.specs / f"{kernel}.json", stamp
        )
        assert report.ok, report.text()
        content = json.loads(stamp.read_text())
        points += content["points"]
        assert content["kernel"] == kernel
        assert {c["family"] for c in content["checks"]} == set(FAMILIES)
    assert len(generated.kernels) == 23
    assert points >= 1010
    assert time.perf_counter() - start < 120


def test_the_same_script_gives_the_same_report(verify):
    first, second = verify("dsv3_fused_a_gemm"), verify("dsv3_fused_a_gemm")
    assert first.checked == second.checked
    broken = ("weight.T", "weight.T.contiguous()")
    assert verify("dsv3_fused_a_gemm", broken).text() == verify("dsv3_fused_a_gemm", broken).text()


def test_a_row_major_weight_is_found_where_it_is_made(verify, generated):
    report = verify("dsv3_fused_a_gemm", ("weight.T", "weight.T.contiguous()"))
    finding = only(report, "shapes.stride")
    text = (generated.scripts / "bench_dsv3_fused_a_gemm.py").read_text().splitlines()
    assert "weight.T" in text[finding.place.line - 1]
    assert "mat_b" in finding.subject
    assert "[2112, 1]" in finding.found and "[1, 7168]" in finding.expected
    assert "config/kernels/dsv3_fused_a_gemm.yaml:" in finding.source and "strides" in finding.source
    assert len(finding.points) == 5 and "stacks cu12 and cu13" in finding.where  # one message


def test_every_failure_of_a_script_comes_out_in_one_run(verify):
    report = verify(
        "dsv3_fused_a_gemm",
        ("weight.T", "weight.T.contiguous()"),
        ("flops=2 * T", "flops=4 * T"),
        ("return T, N, Kd", "return T, Kd, N"),
    )
    assert {"shapes.stride", "metrics.flops", "metrics.columns"} <= checks(report)


@pytest.mark.parametrize(
    ("kernel", "old", "new", "check"),
    [
        ("rmsnorm", "def make_inputs(", "def make_inputs(:", "syntax.compile"),
        ("rmsnorm", "    rng = Random", "    # {{ spec.kernel }}\n    rng = Random", "syntax.template"),
        ("rmsnorm", "def columns(", "def colums(", "syntax.names"),
        ("rmsnorm", "torch.ops.sgl_kernel:rmsnorm.default", "flashinfer.norm:rmsnorm", "imports.provider"),
        ("rmsnorm", "import sys\n", "import sys\nfrom sgl_kernel import rms_norm\n", "imports.name"),
        ("rmsnorm", 'KERNEL = "rmsnorm"', 'KERNEL = "rms"', "imports.kernel"),
        ("rmsnorm", "rng.normal((T, D))", "rng.normal((D, T))", "shapes.shape"),
        ("rmsnorm", "rng.empty((T, D), torch.bfloat16)", "rng.empty((T, D), torch.float16)", "shapes.dtype"),
        ("rmsnorm", "rng.normal((T, D))", "rng.empty((T, D), torch.bfloat16)", "shapes.uninitialised"),
        ("rmsnorm", "rng.normal((T, D))", "rng.zeros((T, D), torch.bfloat16)", "shapes.random"),
        ("bmm_fp8", "rng.fp8((Nb, T, Kd))", "rng.zeros((Nb, T, Kd), torch.float8_e4m3fn)", "shapes.random"),
        ("bmm_fp8", "rng.fp8((Nb, N, Kd))", "rng.full((Nb, N, Kd), 1, torch.float8_e4m3fn)", "shapes.random"),
        ("topk_softmax", "rng.normal((T, E), dtype=torch.float32)", "torch.randn(T, E)", "shapes.device"),
        ("dsv3_fused_a_gemm", "weight.T", "weight.mul_(0).T", "shapes.random"),
        ("dsv3_fused_a_gemm", "Random(device, seed)", "Random(device, 0)", "shapes.seed"),
        ("prepare_moe_input", "topk, ROUTING)", 'topk, "balanced")', "shapes.value"),
        ("topk_softmax", "    return {", "    if not rng.device.type:\n        T = 1\n    return {", "shapes.branch"),
        ("bmm_fp8", "rng.full((1,), A_SCALE, torch.float32)", "rng.zeros((1,), torch.float32)", "shapes.random"),
        ("bmm_fp8", "    kernel(", '    if "n" in x: return\n    x["n"] = 1\n    kernel(', "kernel-call.repeat"),
        ("trtllm_fp4_block_scale_moe", "    warm_up=warm_up,\n", "", "kernel-call.helper"),
        ("bmm_fp8", "    kernel(", "    torch.cuda.set_stream(torch.cuda.Stream())\n    kernel(", "kernel-call.stream"),
        ("bmm_fp8", "OPS = (", "import benchlib_extras\n\nOPS = (", "imports.module"),
        ("bmm_fp8", "output_dir, **options)", 'output_dir, cache="warm", **options)', "output.options"),
        ("bmm_fp8", "run_benchmarks))\n", 'run_benchmarks, ["--cache", "warm"]))\n', "output.cli"),
        ("bmm_fp8", "    return run.results", '    open(output_dir + "/b", "w")\n    return []', "output.others"),
        ("cutlass_mla_decode", "page_table(rng, B, pages)", "page_table(rng, B, pages) // 2", "shapes.value"),
        ("cutlass_mla_decode", "B, num_kv_splits=NUM_KV_SPLITS)", "B, NUM_KV_SPLITS)", "shapes.value"),
        ("cutlass_mla_decode", "pages * PAGE, B, num", "B, pages * PAGE, num", "shapes.value"),
        ("cutlass_mla_decode", "=NUM_KV_SPLITS)\n    return", "=2)\n    return", "shapes.value"),
        ("apply_shuffle_mul_sum", "rng.routing(T, E, topk)", "rng.routing(1, E, topk).repeat(T, 1)", "shapes.value"),
        ("trtllm_batch_decode_with_kv_cache_mla", "torch.zeros(", "torch.empty(", "shapes.zeroed"),
        ("rmsnorm", 'x["eps"], True)', 'x["eps"])', "kernel-call.run"),
        ("silu_and_mul", "out=x", "output=x", "kernel-call.bind"),
        ("rmsnorm", "EPS = 1e-6", "EPS = 1e-5", "kernel-call.scalar"),
        ("rmsnorm", '(x["output"], x["input"]', '(x["output"], x["input"].clone()', "kernel-call.allocation"),
        ("silu_and_mul", 'kernel(x["input"]', 'x["out"][0, 0].item()\n    kernel(x["input"]', "kernel-call.sync"),
        ("silu_and_mul", "out=x[\"out\"]", "out=x[\"input\"][:, :x[\"out\"].shape[1]]", "kernel-call.alias"),
        ("rmsnorm", "flops=5", "flops=4", "metrics.flops"),
        ("moe_align_block_size", '"num_experts": E + 1', '"num_experts": E', "kernel-call.scalar"),
        ("rmsnorm", 'COMPUTE_DTYPE = "bf16"', 'COMPUTE_DTYPE = "fp8"', "metrics.peak"),
        ("rmsnorm", "batch_sizes[:4]", "batch_sizes[:3]", "loops.missing"),
        ("rmsnorm", "[(B, 1) for B in batch_sizes]", "[(B, 1) for B in (*batch_sizes, 1)]", "loops.twice"),
        ("rmsnorm", "[(B, 1) for B in batch_sizes]", "[(B, 2) for B in batch_sizes]", "loops.extra"),
        ("dsv3_router_gemm", "if not (T <= 16)", "if not (T <= 8)", "loops.not-applicable"),
        ("rmsnorm", "for B in batch_sizes[:4] for S", "for B in BATCH_SIZES[:4] for S", "loops.arguments"),
        ("rmsnorm", "BenchmarkRun(BENCHMARK, output_dir,", 'BenchmarkRun(BENCHMARK, output_dir + "_",', "output.file"),
        ("rmsnorm", "Tolerance(rtol=0.01", "Tolerance(rtol=0.5", "output.tolerance"),
    ],
)  # fmt: skip
def test_each_check_finds_its_error(verify, kernel, old, new, check):
    report = verify(kernel, (old, new))
    assert check in checks(report), report.text()


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("__import__('os')._exit(0)", "output.exit"),
        ("open('/tmp/roofbench-not-here', 'w')", "output.isolation"),
        ("__import__('subprocess').run(['true'])", "output.isolation"),
        ("__import__('socket').socket()", "output.isolation"),
        ("print('x' * (1 << 22))", "output.flood"),
        ("bytearray(1 << 40)", "output.memory"),
        ("torch.empty(1 << 40, device='cpu')", "output.memory"),
        ("__import__('os').fork()", "output.isolation"),
        ("__import__('threading').Thread(target=print).start()", "output.isolation"),
        ("__import__('ctypes').CDLL(None).fork()", "output.isolation"),
        ("open('big', 'wb').write(bytes(65 << 20))", "output.files"),
        ("raise KeyboardInterrupt", "shapes.build"),
        ("raise SystemExit(0)", "output.exit"),
    ],
)
def test_a_script_that_misbehaves_is_stopped(verify, change, check):
    report = verify(
        "dsv3_fused_a_gemm", ("    rng = Random(device, seed)", f"    {change}\n    rng = Random(device, seed)")
    )
    assert check in checks(report), report.text()
    assert not Path("/tmp/roofbench-not-here").exists()


@pytest.mark.parametrize(
    "change",
    [
        "import os\ntry:\n    os._exit(0)\nexcept SystemExit:\n    pass",
        "try:\n    open('/tmp/roofbench-not-here', 'w')\nexcept OSError:\n    pass",
        "import benchlib.timing\nbenchlib.timing.warm_up = print",
        "import sys\nsys.modules['roofbench.verify.session'].Session.fail = print",
        "from benchlib import timing\ntiming.COLD = timing.WARM",
        "import time\ntime.perf_counter = time.time",
        "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = '0'",
        "open('/etc/hostname').read()",
    ],
)
def test_what_a_script_hides_is_found(verify, change):
    report = verify("dsv3_fused_a_gemm", ('KERNEL = "', f'{change}\nKERNEL = "'))
    assert "output.isolation" in checks(report), report.text()


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("OPS = (", "import os\nN = os.environ.get('N')\nOPS = (", "output.isolation"),
        ("weight.T", "weigth.T", "shapes.build"),
        ("weight.T", "weight[:, :64].T", "shapes.shape"),
        ("Kd=7168", "Kd=7232", "shapes.dims"),
        ("for B in batch_sizes]", "for B in batch_sizes[1:]]", "loops.missing"),
    ],
)
def test_one_cause_is_one_finding_with_its_line_and_origin(verify, generated, old, new, check):
    report = verify("dsv3_fused_a_gemm", (old, new))
    assert checks(report) == {check} and len(report.findings) == 1, report.text()
    finding = only(report, check)
    assert finding.place.line and (finding.source or finding.expected == "no exception")
    assert "1 findings" not in report.text() and "1 other points" not in report.text()


def test_a_wrapper_that_hides_errors_of_the_kernel_is_found(verify):
    call = 'kernel(x["A"], x["B"], x["A_scale"], x["B_scale"], torch.bfloat16, out=x["out"])'
    hidden = f"try:\n        {call}\n    except RuntimeError:\n        pass"
    assert "kernel-call.error" in checks(verify("bmm_fp8", (call, hidden)))


def test_sets_that_share_memory_are_found(verify):
    report = verify(
        "dsv3_fused_a_gemm",
        ("weight = rng.normal(", "weight = SHARED.setdefault(0, rng.normal("),
        ("std=Kd**-0.5)", "std=Kd**-0.5))"),
        ('KERNEL = "', 'SHARED = {}\nKERNEL = "'),
    )
    finding = only(report, "shapes.shared")
    assert "30.3 MB" in finding.found and "docs/measurement.md" in finding.source


def test_a_cost_that_is_wrong_is_shown_where_it_is_most_wrong(verify):
    report = verify("fused_moe_kernel", ("    experts = active_experts(op, point, x)\n", "    experts = op.E\n"))
    finding = only(report, "metrics.bytes")
    assert "B=1, S=1" in finding.where and "32 times" in finding.expected
    assert "w1 " in finding.expected and "8 of 256 experts" in finding.expected
    assert "fused_moe_kernel.yaml" in finding.source and finding.place.line


def test_a_script_that_never_ends_is_stopped(verify):
    start = time.perf_counter()
    report = verify("dsv3_fused_a_gemm", ("    rng = Random(", "    while True: pass\n    rng = Random("), seconds=2)
    assert checks(report) == {"output.time"}
    assert time.perf_counter() - start < 15


def test_a_wrong_stack_is_named(verify):
    report = verify("cutlass_fp4_group_mm", ('kernel.module.startswith("sglang.jit_kernel")', "False"))
    finding = only(report, "kernel-call.bind")
    assert "cu13" in finding.where and "cu13.json" in finding.source


def run_cli(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "verify.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_command_line_writes_no_stamp_for_a_bad_script(generated, tmp_path):
    bad = tmp_path / "mine.py"
    text = (generated.scripts / "bench_dsv3_fused_a_gemm.py").read_text()
    bad.write_text(text.replace("bytes=2 *", "bytes=1 *"))
    stamp = tmp_path / "stamp.json"
    stamp.write_text("old")
    spec = generated.specs / "dsv3_fused_a_gemm.json"
    done = run_cli("--script", bad, "--spec", spec, "--stamp", stamp)
    assert done.returncode == 1 and not stamp.exists()
    assert "mine.py" in done.stderr and "metrics.bytes" in done.stderr and "Traceback" not in done.stderr


def test_the_command_line_finds_the_spec_by_the_kernels_name(generated, tmp_path, capsys):
    command = importlib.import_module("verify")
    own = tmp_path / "my_gemm.py"
    own.write_text((generated.scripts / "bench_dsv3_fused_a_gemm.py").read_text())
    library = generated.scripts / "bench_utils.py"  # among bench_*.py, but no benchmark
    assert command.main(["--specs", str(generated.specs), str(own), str(library)]) == 0, capsys.readouterr().err
    assert command.main(["--specs", str(generated.specs), str(tmp_path / "nothing.py")]) == 1
    said = capsys.readouterr().err
    assert "nothing.py" in said and "Traceback" not in said


def test_the_bundle_is_verified(generated, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOFBENCH_GPUS", "0,2")  # as `--config gpus=0,2` does for the benchmarks
    from roofbench.verify.bundle import ORCHESTRATOR, check_bundle, kernels_of, lists
    from roofbench.verify.findings import Report

    kernels = kernels_of(generated.manifest)
    report = check_bundle(generated.bundle, kernels)
    assert report.ok, report.text()
    report = Report()
    lists(report, generated.bundle / ORCHESTRATOR, [*kernels, "another_kernel"])
    assert checks(report) == {"output.list"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('passed += [f"--{name}", ",".join(numbers)] if numbers else []', "pass"),
        (', "--cache", options.cache', ""),
    ],
)
def test_an_orchestrator_that_ignores_its_arguments_is_found(generated, tmp_path, old, new):
    from roofbench.verify.bundle import ORCHESTRATOR, _runs, kernels_of
    from roofbench.verify.findings import Report

    bundle = shutil.copytree(generated.bundle, tmp_path / "bundle")
    path = bundle / ORCHESTRATOR
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    report = Report()
    _runs(report, path, kernels_of(generated.manifest), tmp_path / "run")
    assert checks(report) == {"output.orchestrator"}
