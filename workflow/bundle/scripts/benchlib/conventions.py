"""Older conventions of result sets, read as data (``conventions.json``) and applied to rows."""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from .resultset import ResultError

FILE = Path(__file__).resolve().parent / "conventions.json"
FIELDS = ("kernel", "op", "phase", "B", "S", "L", "M", "N", "K")
SHAPE = ("M", "N", "K")


@dataclass(frozen=True)
class Normalised:
    """A row in today's convention, the row as it was, why it was changed, and which of M, N, K identify it."""

    row: object
    original: object
    changes: tuple
    shape: tuple = SHAPE

    @property
    def dims(self):
        """The columns that must agree with a row of the same key: {"N": 7168, …}."""
        return {name: getattr(self.row, name) for name in self.shape}


@lru_cache(maxsize=4)
def load(path=FILE):
    """The declared conventions; raises ResultError where the file is damaged or names an unknown column."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: {error}") from None
    for number, rule in enumerate(data["rules"]):
        unknown = (set(rule["match"]) | set(rule.get("set", {})) | set(rule.get("shape", []))) - set(FIELDS)
        if unknown or not rule.get("why"):
            problem = f"unknown column {sorted(unknown)[0]!r}" if unknown else "no `why`"
            raise ResultError(f"{path}: rules[{number}]: {problem}; columns are {', '.join(FIELDS)}")
    return data


def normalise(rows, path=FILE):
    """A Normalised for each row, in order."""
    data = load(path)
    return [_normalise(row, data) for row in rows]


def _normalise(row, data):
    original, changes, shape = row, [], SHAPE
    if row.kernel in data["kernels"]:
        row = replace(row, kernel=data["kernels"][row.kernel])
        changes.append(f"{original.kernel} is {row.kernel}")
    for rule in data["rules"]:
        if not all(_matches(getattr(row, name), wanted, row, data) for name, wanted in rule["match"].items()):
            continue
        changed = {name: _value(value, row, data) for name, value in rule.get("set", {}).items()}
        shape = tuple(rule.get("shape", shape))
        if any(getattr(row, name) != value for name, value in changed.items()):
            row = replace(row, **changed)
            changes.append(rule["why"])
    return Normalised(row, original, tuple(changes), shape)


def _matches(found, wanted, row, data):
    if isinstance(wanted, list):
        return found in wanted
    return found == _value(wanted, row, data)


def _value(text, row, data):
    """``=N`` is the row's N, ``=M/topk`` and ``=B*Nh`` one operation with a constant; all else is itself."""
    if not (isinstance(text, str) and text.startswith("=")):
        return text
    for sign in "*/":
        if sign in text:
            name, constant = text[1:].split(sign)
            value, factor = getattr(row, name), data["constants"][constant]
            return value * factor if sign == "*" else value // factor
    return getattr(row, text[1:])
