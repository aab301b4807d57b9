"""Puts the importable package on the path, so that every script here runs alone from anywhere."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "workflow"))
