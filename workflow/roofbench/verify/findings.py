"""What a verification found, written for the person who edited the script."""

from dataclasses import dataclass, field

from roofbench.errors import plural

FAMILIES = {
    "syntax": "the script compiles and holds no leftover template marks",
    "imports": "the kernel and its helpers exist in every stack, from a provider that the catalogue allows",
    "shapes": "every argument has the shape, dtype, strides and values that the kernel's layout contract asks for",
    "kernel-call": "the call binds to each stack's signature and times the kernel alone",
    "metrics": "FLOPs, bytes and roofline figures agree with an independent computation",
    "loops": "every point of the spec is attempted exactly once, and nothing else",
    "output": "the run writes the CSV with the exact header and one full row a point",
}


@dataclass(frozen=True)
class Place:
    """Where the reader should look: a line of a file."""

    path: str
    line: int | None = None

    def __str__(self):
        return f"{self.path}:{self.line}" if self.line else self.path


@dataclass
class Finding:
    """One failed check. `check` is an identifier such as "shapes.stride"; `source` says where `expected` comes from."""

    check: str
    place: Place
    subject: str
    found: str
    expected: str
    source: str = ""
    points: dict = field(default_factory=dict)
    stacks: dict = field(default_factory=dict)

    def add(self, point=None, stack=None):
        """It was found here too. The first point is shown, the others are counted."""
        if point:
            self.points[point] = None
        if stack:
            self.stacks[stack] = None

    @property
    def key(self):
        """One thing in one line is one finding, however numbers and rows of the ops file differ between points."""
        return self.check, self.place, self.subject

    @property
    def where(self):
        """Where it was found, in words."""
        points, stacks = list(self.points), list(self.stacks)
        parts = points[:1]
        if len(points) > 1:
            parts[0] += f" and {plural(len(points) - 1, 'other point')}"
        if stacks:
            parts.append(f"stack{'s' if len(stacks) > 1 else ''} {' and '.join(stacks)}")
        return "; ".join(parts)

    def text(self):
        lines = [f"{self.place}: {self.check}: {self.subject}"]
        lines.append(f"    found     {self.found}")
        lines.append(f"    expected  {self.expected}")
        if self.where:
            lines.append(f"    at        {self.where}")
        if self.source:
            lines.append(f"    from      {self.source}")
        return "\n".join(lines)


class Report:
    """Findings of one script and how often each check was made."""

    def __init__(self):
        self.findings = {}
        self.checked = {}

    def passed(self, check, number=1):
        """Count that a check was made, whether it passed or not."""
        self.checked[check] = self.checked.get(check, 0) + number

    def fail(self, check, place, subject, found, expected, source="", point=None, stack=None):
        if check.split(".")[0] not in FAMILIES:
            raise ValueError(f"unknown check {check}")
        finding = Finding(check, place, str(subject), str(found), str(expected), str(source))
        finding = self.findings.setdefault(finding.key, finding)
        finding.add(point, stack)

    def merge(self, other):
        for check, number in other.checked.items():
            self.passed(check, number)
        for key, finding in other.findings.items():
            mine = self.findings.setdefault(key, finding)
            mine.points.update(finding.points)
            mine.stacks.update(finding.stacks)

    @property
    def ok(self):
        return not self.findings

    def ordered(self):
        order = list(FAMILIES)
        return sorted(
            self.findings.values(), key=lambda f: (order.index(f.check.split(".")[0]), f.place.line or 0, f.check)
        )

    def text(self, limit=40):
        findings = self.ordered()
        shown = [f.text() for f in findings[:limit]]
        if len(findings) > limit:
            shown.append(f"... and {len(findings) - limit} more")
        return "\n".join(shown)
