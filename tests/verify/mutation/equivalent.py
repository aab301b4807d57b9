"""Mutants that change nothing, each with the reason. A survivor that is not listed here is a hole in the verifier."""

import re

# (kernel pattern, kind pattern, label pattern, reason)
DECODE_ONLY = ".*decode.*|dsv3_.*|bmm_fp8|mla_rope_quantize_fp8"
PREFILL_ONLY = "concat_mla_k|trtllm_ragged_attention_deepseek"

KNOWN = (
    (DECODE_ONLY, "wrong-columns", "^M is B$", "decode only: T = B"),
    (
        DECODE_ONLY,
        "first-three|arguments-ignored",
        r"^\[:|batch_sizes ignored in prefill",
        "there is no prefill op, so this branch never runs",
    ),
    (
        PREFILL_ONLY,
        "point-missing|point-too-many",
        "BATCH_SIZES without its last|BATCH_SIZES with 256",
        "prefill uses the first four batch sizes only",
    ),
    (
        PREFILL_ONLY,
        "decode-with-sequence|arguments-ignored",
        "decode at|batch_sizes ignored in decode",
        "there is no decode op, so this branch never runs",
    ),
    ("dsv3_router_gemm", "decode-with-sequence", "T is B", "decode only, prefill is not applicable: T = B"),
    ("cutlass_mla_decode|trtllm_batch_decode.*", "one-too-few", r"dimension 0 \+ 1$", "a page more than is used"),
    (
        "apply_rope.*|mla_rope_.*",
        "wrong-dtype",
        "float32 -> bfloat16",
        "angles are rounded on the way to a float32 table: same memory, and the reference reads the same table",
    ),
    (
        ".*",
        "wrong-scalar",
        r"\(enable_pdl\)$",
        "programmatic dependent launch may be on or off where the catalogue says so (one_of)",
    ),
    (
        "cutlass_mla_decode",
        "missing-argument|workspace-size-wrong",
        "^(without num_kv_splits|num_kv_splits left out)$",
        "one split is the default in both stacks",
    ),
    (
        "mla_rope_quantize_fp8",
        "missing-argument",
        "^without quant_scale_(q|kv)$",
        "a scale of 1 is the default in both stacks",
    ),
    (
        "trtllm_batch_decode.*",
        "missing-argument",
        "^without (backend|bmm2_scale)$",
        "the default is the same: a scale of 1, and a backend that is chosen by itself on these devices",
    ),
    (
        "trtllm_fp4_block_scale_moe",
        "missing-argument",
        "^without (activation_type|do_finalize)$",
        "the default is the same in both stacks: SwiGLU, finalised",
    ),
    (
        "trtllm_fp4_block_scale_moe",
        "swapped-arguments",
        "^values of top_k and n_group$",
        "both are 8 in this model",
    ),
    (
        "trtllm_ragged_attention_deepseek",
        "swapped-dimensions",
        r"^dimensions 1 and 2 of rng\.\w+\(\(T, op\.Nh, op\.Dv\)",
        "both are 128 in this model",
    ),
    (
        "concat_mla_k",
        "partly-filled",
        r"op\.Dv",
        "the other half of each head are the values, which this kernel does not read",
    ),
    (
        "apply_shuffle_mul_sum",
        "all-tokens-to-one-expert",
        "ids beyond",
        "the order of rows does not depend on how experts are numbered",
    ),
)


def reason_of(kernel, kind, label):
    """Why a mutant that survived is equivalent to the good script, or None."""
    for kernels, kinds, labels, reason in KNOWN:
        if re.fullmatch(kernels, kernel) and re.fullmatch(kinds, kind) and re.search(labels, label):
            return reason
    return None
