"""What a run wrote: the CSV's header and rows, and the sidecar beside it."""

import contextlib
import csv
import json

from roofbench.verify import metrics
from roofbench.verify.figures import check_figures
from roofbench.verify.job import spec_points


def check_output(session, folder):
    """The CSV and its sidecar: header, one full row a point, and figures that agree with the fake clock."""
    job, source = session.job, session.source
    kernel = job.spec["kernel"]
    path = folder / f"{kernel}.csv"
    place = source.of("run_benchmarks")
    points, excluded = spec_points(job.spec)
    sidecar = read_sidecar(folder / f"{kernel}.jsonl")
    session.report.passed("output.file")
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.rglob("*") if p.is_file())) if folder.is_dir() else "nothing"
        session.fail(
            "output.file", place, "the results are not saved", found or "nothing", f"{kernel}.csv", "docs/design.md"
        )
        return
    session.point = None
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    session.report.passed("output.header")
    if not rows or tuple(rows[0]) != metrics.COLUMNS:
        session.fail(
            "output.header",
            place,
            f"the header of {kernel}.csv",
            ",".join(rows[0]) if rows else "an empty file",
            ",".join(metrics.COLUMNS),
        )
        return
    status = sidecar["run"].get("status")
    if len(rows) == 1 and points:
        explain_no_rows(session, sidecar, status)
        return
    attended = match_rows(session, rows[1:], points, place)
    check_figures(session, attended, points)
    session.report.passed("output.sidecar")
    if sidecar["run"] and status != "ok":
        reason = sidecar["run"].get("reason") or ""
        session.fail(
            "output.status", place, "the status of the run", f"{status} {reason}".strip(), "ok", "docs/design.md"
        )
    check_listed(session, sidecar, excluded, place)


def explain_no_rows(session, sidecar, status):
    """A header alone: say why, from the sidecar, unless a finding does already."""
    if not session.report.ok:
        return
    reason = sidecar["run"].get("reason") or next(
        (p.get("reason") or p.get("error") for p in sidecar["points"] if p.get("reason") or p.get("error")), ""
    )
    check = "imports.name" if status == "unavailable" else "output.rows"
    session.fail(
        check,
        session.source.of("PROVIDERS" if check == "imports.name" else "run_benchmarks"),
        f"nothing was measured on the stack {session.stack_name} ({status})",
        reason or "no row",
        "a row for each point",
    )


def match_rows(session, rows, points, place):
    """{key: row as dict} of the rows that belong to a point."""
    matched = {}
    # The CSV has no KV length of its own: it stands in N.
    kv = session.job.spec["sweep"]["kind"] == "kv"
    by_key = {}
    for key, (_, point) in points.items():
        by_key.setdefault((key[0], key[1], str(key[2]), str(key[3]), str(point["N"]) if kv else ""), key)
    session.report.passed("output.rows", len(points))
    for number, cells in enumerate(rows, 2):
        row = dict(zip(metrics.COLUMNS, cells, strict=False))
        if len(cells) != len(metrics.COLUMNS) or "" in [c.strip() for c in cells]:
            session.fail(
                "output.field",
                place,
                f"line {number} of the CSV has an empty field",
                ",".join(cells),
                f"{len(metrics.COLUMNS)} fields, all filled",
            )
            continue
        key = by_key.get((row["op"], row["phase"], row["B"], row["S"], row["N"] if kv else ""))
        if key is None:
            session.fail(
                "output.rows",
                place,
                "a row that is no point of the spec",
                ",".join(cells[:8]),
                "rows of the spec's points",
                "the spec",
            )
        elif key in matched:
            session.fail("output.rows", place, "two rows of one point", ",".join(cells[:8]), "one row a point", "", key)
        else:
            matched[key] = row
    for key in points:
        if key not in matched and key not in session.never:
            session.fail(
                "output.rows", place, "a point has no row", session.where(key), "one row a point", "the spec", key
            )
    return matched


def check_listed(session, sidecar, excluded, place):
    """Points outside the kernel's limits are listed in the sidecar, with a reason."""
    listed = {
        (p.get("op"), p.get("phase"), p.get("B"), p.get("S"), p.get("L", p.get("S"))): p
        for p in sidecar["points"]
        if p.get("status") == "not_applicable"
    }
    session.report.passed("loops.not-applicable", len(excluded))
    if not sidecar["run"]:
        return
    for key in excluded:
        if key not in listed:
            session.fail(
                "loops.not-applicable",
                place,
                "a point outside the kernel's limits is not listed",
                session.where(key),
                "an entry with its reason in the sidecar",
                "the spec",
                key,
            )
        elif not listed[key].get("reason"):
            session.fail(
                "loops.not-applicable",
                session.source.of("not_applicable"),
                "a point is left out",
                "no reason",
                "the limit that it breaks",
                "the spec",
                key,
            )


def read_sidecar(path):
    """{"run": {...}, "points": [...]} of a .jsonl, empty where there is none."""
    found = {"run": {}, "points": []}
    if not path.is_file():
        return found
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if record.get("type") == "run":
                found["run"] = record
            elif record.get("type") == "point":
                found["points"].append(record)
    return found


def put_neighbours(folder):
    """Results of another kernel in the same folder, {name: content}."""
    folder.mkdir(parents=True, exist_ok=True)
    neighbours = {"a_neighbour.csv": ",".join(metrics.COLUMNS) + "\n", "a_neighbour.jsonl": "{}\n"}
    for name, content in neighbours.items():
        (folder / name).write_text(content)
    return neighbours


def check_neighbours(session, folder, neighbours):
    """The run wrote its own two files and left everything else as it was."""
    kernel = session.job.spec["kernel"]
    place = session.source.of("run_benchmarks")
    session.report.passed("output.others")
    wanted = f"{kernel}.csv and {kernel}.jsonl, and nothing else changed"
    for name, content in neighbours.items():
        path = folder / name
        if not path.is_file() or path.read_text() != content:
            done = "changes" if path.is_file() else "removes"
            session.fail(
                "output.others", place, "results of other kernels", f"it {done} {name}", wanted, "docs/design.md"
            )
            return
    own = {f"{kernel}.csv", f"{kernel}.jsonl", *neighbours}
    strange = sorted(path.name for path in folder.iterdir() if path.name not in own)
    strange += sorted(path.name for path in session.folder.iterdir() if path != folder)
    if strange:
        session.fail("output.others", place, "files of the run", ", ".join(strange[:5]), wanted, "docs/design.md")
