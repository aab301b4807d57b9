"""Every point that must come out of the model's ops file with default sweeps: kernel, op, phases, M, N, K.

M is T (tokens) or R (routed rows, T*8); N can be L (KV length) or S. `n/a` counts are (prefill, decode).
"""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
LENGTHS = (128, 256, 512, 1024, 2048)

# kernel | op | phases | M | N | K
ROWS = """
rmsnorm | input_layernorm | P D | T | 7168 | 0
rmsnorm | post_attention_layernorm | P D | T | 7168 | 0
rmsnorm | q_a_layernorm | P D | T | 1536 | 0
rmsnorm | kv_a_layernorm | P D | T | 512 | 0
rmsnorm | enorm | D | T | 7168 | 0
rmsnorm | hnorm | D | T | 7168 | 0
rmsnorm | shared_head.norm | D | T | 7168 | 0
fused_add_rmsnorm | input_layernorm | P D | T | 7168 | 0
fused_add_rmsnorm | post_attention_layernorm | P D | T | 7168 | 0
cutlass_scaled_fp4_mm | fused_qkv_a_proj_with_mqa | P D | T | 2112 | 7168
cutlass_scaled_fp4_mm | q_b_proj | P D | T | 24576 | 1536
cutlass_scaled_fp4_mm | o_proj | P D | T | 7168 | 16384
cutlass_scaled_fp4_mm | kv_b_proj | P | T | 32768 | 512
cutlass_scaled_fp4_mm | gate | P D | T | 256 | 7168
cutlass_scaled_fp4_mm | shared_experts.gate_up | P D | T | 4096 | 7168
cutlass_scaled_fp4_mm | shared_experts.down | P D | T | 7168 | 2048
cutlass_scaled_fp4_mm | gate_up_proj | P D | T | 4096 | 7168
cutlass_scaled_fp4_mm | down_proj | P D | T | 7168 | 2048
dsv3_fused_a_gemm | fused_qkv_a_proj_with_mqa | D | T | 2112 | 7168
dsv3_router_gemm | gate | P D | T | 256 | 7168
bmm_fp8 | q_nope * w_kc | D | T | 512 | 128
bmm_fp8 | attn_output * w_vc | D | T | 128 | 512
apply_rope_with_cos_sin_cache_inplace | rotary_emb | P D | T | 128 | 64
concat_mla_mha_k | _concat_and_cast_mha_k | P | T | 128 | 192
silu_and_mul | act_fn | P D | T | 2048 | 0
silu_and_mul | shared_experts.act | P D | T | 2048 | 0
silu_and_mul | experts.act | P D | R | 2048 | 0
cutlass_mla_decode | attn_mqa | D | T | L | 576
trtllm_batch_decode_with_kv_cache_mla | attn_mqa | D | T | L | 576
trtllm_ragged_attention_deepseek | attn_mha | P | T | S | 192
mla_rope_quantize_fp8 | attn_mqa.rope_quantize | D | T | 128 | 576
topk_softmax | topk | P D | T | 256 | 8
topk_sigmoid | topk | P D | T | 256 | 8
moe_fused_gate | topk | P D | T | 256 | 8
prepare_moe_input | experts.prepare | P D | T | 256 | 8
scaled_fp4_experts_quant | experts.quant | P D | R | 7168 | 0
cutlass_fp4_group_mm | experts.gate_up | P D | R | 4096 | 7168
cutlass_fp4_group_mm | experts.down | P D | R | 7168 | 2048
apply_shuffle_mul_sum | experts.combine | P D | T | 7168 | 8
moe_align_block_size | experts.align | P D | T | 256 | 8
trtllm_fp4_block_scale_moe | experts.fused | P D | T | 7168 | 2048
fused_moe_kernel | experts.fused | P D | T | 7168 | 2048
"""

AT_MOST_16_TOKENS = ("dsv3_fused_a_gemm", "dsv3_router_gemm")
KV_SWEEP = ("cutlass_mla_decode", "trtllm_batch_decode_with_kv_cache_mla")
HOPPER_POINTS, ALL_POINTS = 554, 1010
BLACKWELL = (
    "cutlass_scaled_fp4_mm",
    "scaled_fp4_experts_quant",
    "cutlass_fp4_group_mm",
    "cutlass_mla_decode",
    "trtllm_batch_decode_with_kv_cache_mla",
    "trtllm_ragged_attention_deepseek",
    "trtllm_fp4_block_scale_moe",
)


def expected():
    """{(kernel, op, phase): ([(B, S, L, T, M, N, K) of each point in order], number of points not applicable)}."""
    table = {}
    for line in ROWS.strip().splitlines():
        kernel, op, phases, rows, n, k = (part.strip() for part in line.split("|"))
        for phase in phases.split():
            if phase == "P":
                sweep = [(B, S, S) for B in BATCHES[:4] for S in LENGTHS]
            elif kernel in KV_SWEEP:
                sweep = [(B, 1, L) for B in BATCHES for L in LENGTHS]
            else:
                sweep = [(B, 1, 1) for B in BATCHES]
            points, outside = [], 0
            for B, S, L in sweep:
                if kernel in AT_MOST_16_TOKENS and B * S > 16:
                    outside += 1
                    continue
                columns = {"T": B * S, "R": B * S * 8, "L": L, "S": S}
                points.append((B, S, L, B * S, columns[rows], columns.get(n) or int(n), int(k)))
            table[kernel, op, {"P": "prefill", "D": "decode"}[phase]] = points, outside
    return table


def found(specs):
    """The same table from specs by kernel."""
    table = {}
    for kernel, spec in specs.items():
        for op in spec["ops"]:
            points = [tuple(point[key] for key in "BSLTMNK") for point in op["points"]]
            table[kernel, op["op"], op["phase"]] = points, len(op["not_applicable"])
    return table
