"""Problems with input files, told to the person who wrote them."""

import difflib
import sys
from dataclasses import dataclass, replace

ERROR = "error"
WARNING = "warning"


class UserError(Exception):
    """Something that the user can put right. Entry points print it and exit with status 1."""

    def __init__(self, message, problems=()):
        super().__init__(message)
        self.problems = list(problems)


@dataclass(frozen=True)
class Problem:
    """One finding: where (file, 1-based line or 0 if none), how bad, a stable code, what, and how to put it right."""

    file: str
    line: int
    severity: str
    code: str
    message: str
    hint: str = ""

    def __str__(self):
        place = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{place}: {self.severity}: {self.message} [{self.code}]"
        return text + "".join(f"\n    {line}" for line in self.hint.splitlines())


class Problems:
    """Collects every problem of a run. Equal ones are kept once; they come out by file and line.

    Problems of one file and code with the same `cause` are one: the first of the most severe is told, with the lines
    of the others.
    """

    def __init__(self):
        self._found = {}
        self._causes = {}

    def error(self, file, line, code, message, hint="", cause=None):
        self._add(Problem(str(file), line or 0, ERROR, code, message, hint), cause)

    def warning(self, file, line, code, message, hint="", cause=None):
        self._add(Problem(str(file), line or 0, WARNING, code, message, hint), cause)

    def add(self, others, wanted=lambda problem: True):
        """Take over those of other problems that are `wanted`."""
        for problem in others:
            if wanted(problem):
                self._add(problem)

    def _add(self, problem, cause=None):
        if cause is None:
            self._found.setdefault(problem)
        else:
            self._causes.setdefault((problem.file, problem.code, cause), []).append(problem)

    def __iter__(self):
        found = [*self._found, *map(_as_one, self._causes.values())]
        return iter(sorted(found, key=lambda p: (p.file, p.line, p.severity, p.code, p.message)))

    def __len__(self):
        return len(self._found) + len(self._causes)

    @property
    def errors(self):
        return [p for p in self if p.severity == ERROR]

    @property
    def warnings(self):
        return [p for p in self if p.severity == WARNING]

    def report(self, limit=200):
        """Warnings, then errors, then the counts: what matters most stands last, next to the prompt."""
        lines = []
        for found in (self.warnings, self.errors):
            lines += [str(p) for p in found[:limit]]
            if len(found) > limit:
                lines.append(f"… and {len(found) - limit} more {found[0].severity}s")
        if lines:
            counts = [(len(self.errors), "error"), (len(self.warnings), "warning")]
            lines.append(", ".join(plural(n, word) for n, word in counts if n))
        return "\n".join(lines)

    def raise_errors(self):
        """Raise UserError if there is any error."""
        if self.errors:
            raise UserError("\n".join(str(p) for p in self.errors), self.errors)


def _as_one(problems, shown=5):
    """Problems with one cause as a single one."""
    first, *others = sorted(problems, key=lambda p: (p.severity, p.line, p.message))
    lines = sorted({p.line for p in others} - {first.line, 0})
    if not lines:
        return first
    more = f" and {len(lines) - shown} more" if len(lines) > shown + 1 else ""
    listed = ", ".join(map(str, lines[:shown] if more else lines))
    where = f"line {listed}" if len(lines) == 1 else f"lines {listed}{more}"
    return replace(first, message=f"{first.message} (also in {where})")


def plural(count, word):
    """`1 error`, `2 errors`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def nearest(word, known, cutoff=0.6):
    """The known spelling nearest to `word`, or None. Case does not count."""
    by_lower = {str(k).lower(): str(k) for k in known}
    found = difflib.get_close_matches(str(word).lower()[:200], list(by_lower), n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def did_you_mean(word, known, otherwise=""):
    """A sentence with the nearest spelling, or `otherwise`."""
    found = nearest(word, known)
    return f"Did you mean {found}?" if found else otherwise


def run_cli(main, argv=None):
    """Run an entry point: exit status 0, or 1 with the message (and no traceback) on a UserError or where a file
    cannot be read or written."""
    try:
        return main(argv) or 0
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
