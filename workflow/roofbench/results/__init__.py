"""From the ops file to what the result tools of the bundle read."""

from .steps import resolve_steps

__all__ = ["resolve_steps"]
