"""Notices what a script replaces that is not its own: functions and settings of the bundle, the verifier, torch,
Python and the kernel packages. Any of that would make other checks void, or change how it is measured.
"""

import copy
import sys
import types
from dataclasses import is_dataclass

OURS = ("roofbench", "bench_utils", "benchlib", "references")
# Modules whose functions, and not their state, must stay what they are.
OTHERS = (
    "builtins", "csv", "json", "math", "os", "random", "statistics", "time",
    "torch", "torch.cuda", "torch.nn.functional", "torch.random",
)  # fmt: skip
# The verifier listens here itself, or puts in what it must.
EXPECTED = {("BenchmarkRun", "measure"), ("benchlib.runtime", "_current"), ("benchlib.supervise", "_LIBC")}
SETTINGS = (bool, int, float, str, bytes, tuple, frozenset, dict, list, set)


class Seal:
    """Functions, classes and settings as they were before the script was imported. stack: the recorders."""

    def __init__(self, stack=None):
        self.stack = stack
        self.known = []  # (holder, name, value, copy where it could be changed in place, title)
        seen = set()
        for module in list(sys.modules.values()):
            if not isinstance(module, types.ModuleType):
                continue
            if module.__name__.split(".")[0] in OURS:
                self._hold(module, module.__name__, seen)
            elif module.__name__ in OTHERS:
                for name, value in list(vars(module).items()):
                    if callable(value):
                        self.known.append((module, name, value, None, f"{module.__name__}.{name}"))
        torch = sys.modules.get("torch")
        for name, value in list(vars(torch.Tensor).items()) if torch else ():
            if callable(value):
                self.known.append((torch.Tensor, name, value, None, f"torch.Tensor.{name}"))

    def _hold(self, holder, title, seen):
        for name, value in list(vars(holder).items()):
            if name.startswith("__") or (getattr(holder, "__name__", ""), name) in EXPECTED:
                continue
            kept = None
            if isinstance(value, type):
                if value.__module__.split(".")[0] in OURS and value not in seen:
                    seen.add(value)
                    self._hold(value, f"{value.__module__}.{value.__name__}", seen)
            elif title.split(".")[0] == "roofbench" and not callable(value):
                continue  # the verifier's own notes
            elif isinstance(value, dict | list | set):
                kept = copy.copy(value)
            elif not (callable(value) or isinstance(value, (staticmethod, classmethod, property, *SETTINGS))):
                if not is_dataclass(value):
                    continue
            self.known.append((holder, name, value, kept, f"{title}.{name}"))

    def broken(self):
        """Names of what was replaced; everything is put back."""
        found = []
        for holder, name, value, kept, title in self.known:
            now = vars(holder).get(name)
            if now is not value:
                found.append(title)
                setattr(holder, name, value)
            elif kept is not None and value != kept:
                found.append(title)
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(kept)
        return found + (self.stack.replaced() if self.stack else [])
