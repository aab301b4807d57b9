"""Copy files of the bundle to where they are used, unless a person's own stand there.

Modules have their hash in the last line, so an edited one is known and kept. Data (JSON, HTML, Markdown) have none:
they are copies, edited where they come from; a copy that was edited itself is set aside as FILE.edited.

Reads   files under workflow/bundle/, and config/hardware.json
Writes  the same files under deepseek_kernel_benchmarks/ (the hardware table goes to scripts/benchlib/)

    python scripts/bundle.py --output deepseek_kernel_benchmarks workflow/bundle/run_all_benchmarks.py
"""

import argparse
import os
import sys
from pathlib import Path

from _bootstrap import ROOT
from roofbench.errors import UserError, run_cli
from roofbench.generated import seal, write_generated
from roofbench.state import free_name, is_edited_copy

SOURCE = ROOT / "workflow" / "bundle"


def destination(path):
    """Where a source goes, relative to the bundle."""
    path = path.resolve()
    if path == ROOT / "config" / "hardware.json":
        return Path("scripts", "benchlib", path.name)
    if not path.is_relative_to(SOURCE):
        raise UserError(f"{path}: is not under {SOURCE}")
    return path.relative_to(SOURCE)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "deepseek_kernel_benchmarks")
    parser.add_argument("--overwrite", action="store_true", help="replace files that were edited by hand")
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args(argv)
    for source in options.files:
        copy(source, options.output / destination(source), options.overwrite)


def copy(source, target, overwrite):
    """Copy one file; says what became of an edited one."""
    text = source.read_text()
    if source.suffix == ".py":
        if write_generated(target, seal(text), overwrite) == "kept":
            print(f"{target}: kept, because it was edited by hand; --config overwrite=true replaces it")
        elif os.access(source, os.X_OK):
            target.chmod(0o755)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_edited_copy(target, source):
        aside = free_name(target.with_name(f"{target.name}.edited"))
        os.replace(target, aside)
        print(f"{target}: it was edited, and is a copy: edit {os.path.relpath(source)}. The edited one is {aside.name}")
    target.write_text(text)


if __name__ == "__main__":
    sys.exit(run_cli(main))
