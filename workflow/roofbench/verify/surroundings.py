"""What a script takes from its surroundings, or changes there: environment, files, modules, the GPU's properties.

A stamp covers the text of the script and what the bundle holds. What is measured must not depend on anything else.
"""

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

from roofbench.verify.stack import PACKAGES

OWN = ("bench_utils", "benchlib", "references")
# numpy comes with every stack; the rest of what a script may import is in the snapshots.
ALLOWED = {"torch", "numpy", *OWN, *PACKAGES}
# Variables that the bundle sets itself.
SET_BY_US = {"FLASHINFER_NO_DOWNLOAD", "COLUMNS"}
FIXED = "what is measured is the same wherever the script runs: the stamp covers its text alone"
# Questions about the GPU, and what a GB200 would say.
QUESTIONS = {
    "is_available": True, "device_count": 1, "current_device": 0, "get_device_capability": (10, 0),
    "get_device_name": "NVIDIA GB200", "set_device": None, "mem_get_info": (1 << 37, 1 << 37), "init": None,
}  # fmt: skip

# Files between a script that asks os.environ or os.getenv, and the mapping behind them.
MAPPINGS = ("os.py", "_collections_abc.py", "<frozen os>", "<frozen _collections_abc>")


def script_line(path, passed=MAPPINGS):
    """Line of the script that calls the function that asks, through nothing but the files in `passed`; else None."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name == path:
            return frame.f_lineno
        if os.path.basename(name) not in passed:
            return None
        frame = frame.f_back
    return None


class Surroundings:
    """Watches a script from before it is imported; findings() says what it did. `path`: the script's file."""

    def __init__(self, path, folder):
        self.path, self.folder = str(path), str(folder)
        self.found = []  # (line, what the script does, what is expected)
        self.search_path = list(sys.path)
        self.modules = set(sys.modules)
        bundle = os.path.dirname(sys.modules["benchlib"].__file__) if "benchlib" in sys.modules else None
        self.others = tuple(p for p in (os.path.dirname(__file__), bundle) if p)
        self.roots = [*(sysconfig.get_path(n) for n in ("stdlib", "platstdlib", "purelib", "platlib")), sys.prefix]
        self.roots += [sys.base_prefix, "/proc", "/sys", "/dev", self.folder, os.path.realpath(self.folder)]
        spec = importlib.util.find_spec("torch")
        self.roots += list(spec.submodule_search_locations or ()) if spec else []
        self._watch_environment()
        sys.addaudithook(self._heard)

    def note(self, line, text, wanted=FIXED):
        if (line, text, wanted) not in self.found:
            self.found.append((line, text, wanted))

    def _watch_environment(self):
        watch = self
        known = os.environ.__class__

        class Environment(known):
            def __getitem__(self, name):
                line = script_line(watch.path)
                if line:
                    watch.note(line, f"the script asks for the environment variable {name}")
                return known.__getitem__(self, name)

            def __setitem__(self, name, value):
                watch._changed(name, script_line(watch.path))
                known.__setitem__(self, name, value)

            def __delitem__(self, name):
                watch._changed(name, script_line(watch.path))
                known.__delitem__(self, name)

        os.environ.__class__ = Environment

    def _changed(self, name, line):
        if line and name not in SET_BY_US:
            self.note(line, f"the script sets the environment variable {name}", "an environment that is the caller's")

    def _heard(self, event, arguments):
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        flags = arguments[2]
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
            return
        line = self._reader()
        if line:
            path = os.path.abspath(os.fsdecode(arguments[0]))
            outside = not any(path == root or path.startswith(root + os.sep) for root in self.roots if root)
            if outside and not path.endswith((".py", ".pyc")):
                self.note(line, f"the script reads the file {path}")

    def _reader(self):
        """Line of the script that opens a file itself or through a library, but not by an import or by the bundle."""
        frame = sys._getframe(2)
        while frame is not None:
            name = frame.f_code.co_filename
            if name == self.path:
                return frame.f_lineno
            if name.startswith("<frozen importlib") or name.startswith(self.others):
                return None
            frame = frame.f_back
        return None

    def answer_for_the_gpu(self, session, torch):
        """Record what the script asks of the GPU; the answers are those of the default device."""

        def answer(name, real, value):
            def asked(*args, **kwargs):
                line = script_line(self.path, ())
                if not line:
                    return real(*args, **kwargs)
                self.note(line, f"the script calls torch.cuda.{name}()")
                return value

            return asked

        for name, value in QUESTIONS.items():
            setattr(torch.cuda, name, answer(name, getattr(torch.cuda, name), value))
        for name in ("stream", "Stream", "set_stream"):
            setattr(torch.cuda, name, _on_stream(session, name))

        def compile(function=None, **options):
            line = script_line(self.path, ())
            self.note(line, "the script calls torch.compile()", "the kernel as its package provides it")
            return function if function is not None else lambda decorated: decorated

        torch.compile = compile

    def strangers(self):
        """(module, file) of everything that was imported from elsewhere."""
        for name in sorted(set(sys.modules) - self.modules):
            file = getattr(sys.modules[name], "__file__", None)
            if not file or name.split(".")[0] in (*OWN, "roofbench"):
                continue
            if not any(os.path.abspath(file).startswith(root + os.sep) for root in self.roots if root):
                yield name, file

    def findings(self, source):
        """(check, line, subject, found, expected) of all that was noticed."""
        for line, text, wanted in self.found:
            yield "output.isolation", line, text, source.text_of(line), wanted
        added = [entry for entry in sys.path if entry not in self.search_path]
        added = [entry for entry in added if os.path.realpath(entry) != os.path.dirname(os.path.realpath(self.path))]
        if added:
            line = source.attribute("sys", "path")
            yield "output.isolation", line, "the script changes sys.path", ", ".join(added), "packages of the stack"
        known = {name.split(".")[0] for _, name in foreign_imports(source)}
        for name, file in self.strangers():
            if name.split(".")[0] in known:
                continue
            wanted = "modules of Python, torch, the stack's packages and the bundle: the stamp covers no other file"
            yield "imports.module", source.imported(name), "a module of one's own", f"{name}, {shown(file)}", wanted


def shown(file):
    return os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else file


def _on_stream(session, name):
    from roofbench.verify.session import NullContext

    def use(*args, **kwargs):
        if session.in_call:
            session.on_event("stream", f"the stream is chosen with torch.cuda.{name}")
        return NullContext()

    return use


def foreign_imports(source):
    """(line, name) of every import in a script of a module that is not on every GPU machine."""
    import ast

    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if not node.level else ["." * node.level + (node.module or "")]
        else:
            continue
        for name in names:
            top = name.split(".")[0]
            if top not in ALLOWED and top not in sys.stdlib_module_names:
                yield node.lineno, name
