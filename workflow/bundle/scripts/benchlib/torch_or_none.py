"""torch, or None and the reason why it cannot be imported: listing points and reading results work without it."""

try:
    import torch

    TORCH_ERROR = None
except (ImportError, OSError) as error:  # OSError: a CUDA library that the build needs is missing
    torch = None
    missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
    TORCH_ERROR = "torch is not installed" if missing else f"torch cannot be imported: {error}"
