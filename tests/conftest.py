"""Puts the package and the bundle's scripts on the path, as they are on theirs when they run."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

for folder in (ROOT / "workflow", ROOT / "workflow" / "bundle" / "scripts", ROOT / "scripts"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
