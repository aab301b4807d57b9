"""Points of all kernels with their cost, and made-up measurements of them: input for tests and for trial pictures."""

import csv
import json
import math

from benchlib.resultset import COLUMNS

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
LENGTHS = [128, 256, 512, 1024, 2048]
GB200 = {"fp4": 9000e12, "fp8": 4500e12, "bf16": 2250e12}
H200 = {"fp8": 1979e12, "bf16": 989e12}
HOPPER_LACKS = {
    "cutlass_scaled_fp4_mm",
    "scaled_fp4_experts_quant",
    "cutlass_fp4_group_mm",
    "cutlass_mla_decode",
    "trtllm_batch_decode_with_kv_cache_mla",
    "trtllm_ragged_attention_deepseek",
    "trtllm_fp4_block_scale_moe",
}


def _experts(T):
    return 256 * (1 - (1 - 8 / 256) ** T)


def _gemm(N, K, dtype="fp4"):
    size = {"fp4": 0.5 + 1 / 16, "bf16": 2}[dtype]
    return lambda T, B, S, L: (2 * T * N * K, size * (T * K + N * K) + 2 * T * N, (T, N, K))


def _norm(D, tensors=2, per=5):
    return lambda T, B, S, L: (per * T * D, tensors * 2 * T * D + 2 * D, (T, D, 0))


def _rows(factor, D, flops, size):
    return lambda T, B, S, L: (flops * T * factor * D, size * T * factor * D, (T * factor, D, 0))


def _group(N, K):
    return lambda T, B, S, L: (
        2 * 8 * T * N * K,
        _experts(T) * N * K * 0.5625 + 8 * T * (K * 0.5625 + 2 * N),
        (8 * T, N, K),
    )


def _bmm(N, K):
    return lambda T, B, S, L: (2 * 128 * T * N * K, 128 * (T * K + N * K + 2 * T * N), (T, N, K))


def _mla(size):
    return lambda T, B, S, L: (
        2 * (576 + 512) * 128 * B * L,
        size * B * L * 576 + B * 128 * (576 * size + 512 * 2),
        (T, L, 576),
    )


def _fused_moe(size):
    return lambda T, B, S, L: (
        6 * 8 * T * 7168 * 2048,
        _experts(T) * 3 * 7168 * 2048 * size + 4 * T * 7168,
        (T, 7168, 2048),
    )


def _ragged(T, B, S, L):
    return 2 * 320 * 128 * B * S * (S + 1) // 2, T * 128 * 640 * 2, (T, S, 192)


KERNELS = {
    "rmsnorm": ("norm", "bf16", [
        ("input_layernorm", "PD", _norm(7168)), ("post_attention_layernorm", "PD", _norm(7168)),
        ("q_a_layernorm", "PD", _norm(1536)), ("kv_a_layernorm", "PD", _norm(512)),
        ("enorm", "D", _norm(7168)), ("hnorm", "D", _norm(7168)), ("shared_head.norm", "D", _norm(7168))]),
    "fused_add_rmsnorm": ("norm", "bf16", [
        ("input_layernorm", "PD", _norm(7168, 4, 6)), ("post_attention_layernorm", "PD", _norm(7168, 4, 6))]),
    "cutlass_scaled_fp4_mm": ("gemm", "fp4", [
        ("fused_qkv_a_proj_with_mqa", "PD", _gemm(2112, 7168)), ("q_b_proj", "PD", _gemm(24576, 1536)),
        ("o_proj", "PD", _gemm(7168, 16384)), ("kv_b_proj", "P", _gemm(32768, 512)), ("gate", "PD", _gemm(256, 7168)),
        ("shared_experts.gate_up", "PD", _gemm(4096, 7168)), ("shared_experts.down", "PD", _gemm(7168, 2048)),
        ("gate_up_proj", "PD", _gemm(4096, 7168)), ("down_proj", "PD", _gemm(7168, 2048))]),
    "dsv3_fused_a_gemm": ("gemm", "bf16", [("fused_qkv_a_proj_with_mqa", "d", _gemm(2112, 7168, "bf16"))]),
    "dsv3_router_gemm": ("gemm", "bf16", [("gate", "d", _gemm(256, 7168, "bf16"))]),
    "bmm_fp8": ("bmm", "fp8", [("q_nope * w_kc", "D", _bmm(512, 128)), ("attn_output * w_vc", "D", _bmm(128, 512))]),
    "apply_rope_with_cos_sin_cache_inplace": ("rope", "bf16", [
        ("rotary_emb", "PD", lambda T, B, S, L: (4 * T * 129 * 64, 4 * T * 129 * 64 + T * 264, (T, 128, 64)))]),
    "concat_mla_mha_k": ("concat", "bf16", [
        ("_concat_and_cast_mha_k", "P", lambda T, B, S, L: (0, 2 * T * (128 * 128 + 64 + 128 * 192), (T, 128, 192)))]),
    "silu_and_mul": ("activation", "bf16", [
        ("act_fn", "PD", _rows(1, 2048, 4, 6)), ("shared_experts.act", "PD", _rows(1, 2048, 4, 6)),
        ("experts.act", "PD", _rows(8, 2048, 4, 6))]),
    "cutlass_mla_decode": ("attention", "bf16", [("attn_mqa", "K", _mla(2))]),
    "trtllm_batch_decode_with_kv_cache_mla": ("attention", "fp8", [("attn_mqa", "K", _mla(1))]),
    "trtllm_ragged_attention_deepseek": ("attention", "bf16", [("attn_mha", "P", _ragged)]),
    "mla_rope_quantize_fp8": ("rope", "bf16", [
        ("attn_mqa.rope_quantize", "D", lambda T, B, S, L: (4 * T * 129 * 64, 3 * T * 129 * 576, (T, 128, 576)))]),
    **{name: ("topk", "bf16", [("topk", "PD", lambda T, B, S, L: (5 * T * 256, T * 1088, (T, 256, 8)))])
       for name in ("topk_softmax", "topk_sigmoid", "moe_fused_gate")},
    "prepare_moe_input": ("moe", "bf16", [
        ("experts.prepare", "PD", lambda T, B, S, L: (0, T * 8 * 12 + 256 * 28, (T, 256, 8)))]),
    "scaled_fp4_experts_quant": ("moe", "bf16", [
        ("experts.quant", "PD", lambda T, B, S, L: (0, T * 8 * 7168 * 2.5625, (8 * T, 7168, 0)))]),
    "cutlass_fp4_group_mm": ("moe", "fp4", [
        ("experts.gate_up", "PD", _group(4096, 7168)), ("experts.down", "PD", _group(7168, 2048))]),
    "apply_shuffle_mul_sum": ("moe", "bf16", [
        ("experts.combine", "PD", lambda T, B, S, L: (2 * 8 * T * 7168, 18 * T * 7168 + 64 * T, (T, 7168, 8)))]),
    "moe_align_block_size": ("moe", "bf16", [
        ("experts.align", "PD", lambda T, B, S, L: (0, T * 8 * 8 + 4096, (T, 256, 8)))]),
    "trtllm_fp4_block_scale_moe": ("moe", "fp4", [("experts.fused", "PD", _fused_moe(0.5625))]),
    "fused_moe_kernel": ("moe", "bf16", [("experts.fused", "PD", _fused_moe(2))]),
}  # fmt: skip


def _sweep(phases):
    for phase in phases:
        if phase in "Dd":
            yield from (("decode", B, 1, 1) for B in BATCHES if phase == "D" or B <= 16)
        elif phase == "K":
            yield from (("decode", B, 1, L) for B in BATCHES for L in LENGTHS)
        else:
            yield from (("prefill", B, S, S) for B in BATCHES[:4] for S in LENGTHS)


def points():
    """All 1010 points as dicts: kernel, op, phase, B, S, L, T, M, N, K, flops, bytes, compute_dtype, category."""
    result = []
    for kernel, (category, dtype, ops) in KERNELS.items():
        for op, phases, cost in ops:
            for phase, B, S, L in _sweep(phases):
                T = B * S
                flops, moved, (M, N, K) = cost(T, B, S, L)
                result.append({
                    "kernel": kernel, "op": op, "phase": phase, "B": B, "S": S, "L": L, "T": T, "M": M, "N": N, "K": K,
                    "flops": flops, "bytes": int(moved), "compute_dtype": dtype, "category": category,
                })  # fmt: skip
    return result


def measure(point, peaks=H200, bandwidth=4800e9, floor_ms=0.002, efficiency=0.8):
    """A sidecar record of a point: time at the roof over an efficiency that depends on the kernel, plus a floor."""
    memory, compute = point["bytes"] / bandwidth, point["flops"] / peaks[point["compute_dtype"]]
    share = efficiency * (0.45 + 0.55 * (sum(map(ord, point["kernel"] + point["op"])) % 97) / 96)
    latency = max(memory, compute) / share * 1e3 + floor_ms * (1 + 0.2 * math.log2(point["B"]) / 7)
    return {
        "type": "point", **{name: point[name] for name in ("op", "phase", "B", "S", "L", "T", "M", "N", "K")},
        "latency_ms": latency, "flops": point["flops"], "bytes": point["bytes"],
        "peak_pct": max(memory, compute) / latency * 1e5, "bound": "compute" if compute > memory else "memory",
        "statistics": {"median_ms": latency, "p20_ms": latency * 0.995, "p80_ms": latency * 1.005},
        "flags": [],
    }  # fmt: skip


def write_results(folder, listed=None, lacks=HOPPER_LACKS, gpu="NVIDIA H200", speed=1.0, **options):
    """Write CSVs and sidecars as a run would; kernels in ``lacks`` are unavailable. Returns the kernels' names."""
    folder.mkdir(parents=True, exist_ok=True)
    by_kernel = {}
    for point in points() if listed is None else listed:
        by_kernel.setdefault(point["kernel"], []).append(point)
    for kernel, mine in by_kernel.items():
        available = kernel not in lacks
        records = [measure(point, **options) for point in mine] if available else []
        for record in records:
            record["latency_ms"] /= speed
            record["peak_pct"] *= speed
        run = {
            "type": "run", "schema_version": 1, "kernel": kernel, "catalogue": kernel,
            "status": "ok" if available else "unavailable",
            "reason": "" if available else "needs compute capability 10.0, the GPU has 9.0",
            "measured": len(records), "asked": len(mine), "not_applicable": 0,
            "compute_dtype": mine[0]["compute_dtype"], "category": mine[0]["category"],
            "provenance": {"gpu": gpu if available else None, "driver": "570.1", "packages": {"torch": "2.9.1"}},
        }  # fmt: skip
        with (folder / f"{kernel}.jsonl").open("w") as stream:
            for record in (run, *records):
                stream.write(json.dumps(record) + "\n")
        with (folder / f"{kernel}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for record in records:
                writer.writerow(csv_row(kernel, record))
    return list(by_kernel)


def csv_row(kernel, record):
    ms = record["latency_ms"]
    return {
        "kernel": kernel, **{name: record[name] for name in ("op", "phase", "B", "S", "M", "N", "K")},
        "latency_ms": f"{ms:.6f}", "gflops": f"{record['flops'] / ms / 1e6:.2f}",
        "peak_pct": f"{record['peak_pct']:.2f}", "bandwidth_gbs": f"{record['bytes'] / ms / 1e6:.2f}",
        "arith_intensity": f"{record['flops'] / record['bytes']:.4f}", "bound": record["bound"],
    }  # fmt: skip
