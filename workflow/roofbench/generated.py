"""Which files were generated, and which ones a person wrote or edited.

The text of a generated file ends in a line that holds the hash of everything before it. A file whose hash
still fits is ours to replace; any other file was written or edited by a person and is kept.
"""

import hashlib
import os
from pathlib import Path

SEAL = "# generated: sha256="


def seal(text):
    """The text with its hash line appended."""
    text = text.rstrip("\n") + "\n"
    return f"{text}{SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n"


def is_ours(text):
    """Whether a text is exactly what `seal` made: generated, and not edited since."""
    body, _, last = text.rstrip("\n").rpartition("\n")
    return last.startswith(SEAL) and seal(body) == text


def write_generated(path, text, overwrite=False):
    """Write a sealed text to a path unless a person's file stands there.

    Returns "written", "unchanged" (the same text is there already) or "kept" (a file that was written or
    edited by hand is there, and overwrite is false). A kept or unchanged file gets a new modification time,
    so that a workflow sees it as made now.
    """
    path = Path(path)
    if path.exists():
        present = path.read_text(errors="replace")
        if present == text or (not overwrite and not is_ours(present)):
            os.utime(path)
            return "unchanged" if present == text else "kept"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)
    return "written"
