"""From the ops file to what the result tools of the bundle read."""

from .steps import resolve_steps, steps_or_reason

__all__ = ["resolve_steps", "steps_or_reason"]
