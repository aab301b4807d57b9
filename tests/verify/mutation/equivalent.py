"""Mutants that change nothing, each with the reason. A survivor that is not listed here is a hole in the verifier."""

import re

# (kernel pattern, kind pattern, label pattern, reason)
DECODE_ONLY = ".*decode.*|dsv3_.*|bmm_fp8|mla_rope_quantize_fp8"
PREFILL_ONLY = "concat_mla_mha_k|trtllm_ragged_attention_deepseek"

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
