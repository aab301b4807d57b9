"""Contract of concat_mla_k: what it needs beyond shapes and strides."""

# The kernel moves 16 bytes at a time and checks pointers only when it runs.
ALIGNMENT = 16


def flops(d):
    """It moves data and computes nothing."""
    return 0


def check(call, d):
    """Every row of the three tensors starts at a multiple of 16 bytes."""
    for name in ("k", "k_nope", "k_rope"):
        tensor = call.tensors.get(name)
        if tensor is None:
            continue
        size = tensor.element_size()
        steps = [tensor.stride(i) * size for i in range(tensor.dim() - 1) if tensor.shape[i] > 1]
        start = tensor.storage_offset() * size
        if any(step % ALIGNMENT for step in (*steps, start)):
            yield (
                name,
                f"rows {', '.join(map(str, steps))} bytes apart, the first at byte {start}",
                f"multiples of {ALIGNMENT} bytes",
            )
