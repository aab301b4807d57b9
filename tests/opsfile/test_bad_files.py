"""Every kind of bad ops file: an error that names the line, and never a traceback."""

# ruff: noqa: E501 - one bad file a line

import os
import re
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opsfile_helpers import OWN, ROOT, SMALL, line_of, lookalike, parse

from roofbench.errors import Problems
from roofbench.opsfile import parse_ops_file, read_ops_file

PREFILL_ROW = "| `self.input_layernorm()` | [B*S, H] = [B*S, 7168] | same | `rmsnorm` |"
DECODE_ROW = "| `self.q_a_layernorm()` | x: [B, Lq] | y: [B, Lq] | `rmsnorm` |"
SUMMARY_ROW = "| `rmsnorm` | sgl-kernel | input_layernorm, q_a_layernorm |"
OPS_HEADER = "| Op | Input Shape | Output Shape | Kernel |\n|----|-------------|--------------|--------|\n"


def row(text, new):
    """SMALL with one row replaced."""
    return SMALL.replace(text, new)


def test_the_small_file_is_good():
    specs, problems = parse(SMALL)
    assert not len(problems), problems.report()
    assert [(op["op"], op["phase"], len(op["points"])) for op in specs["rmsnorm"]["ops"]] == [
        ("input_layernorm", "prefill", 20),
        ("input_layernorm", "decode", 8),
        ("q_a_layernorm", "decode", 8),
    ]


# name: (text, code of the error, a part of its message or hint, text of the line it must name or None)
BAD = {
    "no summary": (SMALL[: SMALL.index("## Kernel Summary")], "missing-section", "'Kernel Summary'", None),
    "summary misspelt": (SMALL.replace("Kernel Summary", "Kernal Sumary"), "missing-section", "Did you mean Kernal Sumary", None),
    "no configuration": (SMALL.replace("## Model Configuration", "## Parameters"), "missing-section", "'Model Conf", None),
    "no decode section": (
        SMALL[: SMALL.index("## Decode")] + SMALL[SMALL.index("## Kernel Summary") :], "missing-phase", "decode phase", None,
    ),
    "no prefill section": (
        SMALL[: SMALL.index("## Prefill")] + SMALL[SMALL.index("## Decode") :], "missing-phase", "prefill phase", None,
    ),
    "phase heading misspelt": (SMALL.replace("## Decode Phase", "## Dekode Phase"), "missing-phase", "Dekode Phase", None),
    "section without table": (
        SMALL.replace("| `rmsnorm` | sgl", "").replace("| Kernel | Source | Ops Using It |\n|--------|--------|--------------|", ""),
        "missing-table", "Kernel Summary", "## Kernel Summary",
    ),
    "phase without table": (
        SMALL.replace(OPS_HEADER + PREFILL_ROW, ""), "missing-table", "prefill phase has no op table", "## Prefill Phase",
    ),
    "ops outside a phase": (SMALL.replace("## Prefill Phase", "## First Phase"), "no-phase", "First Phase", "| Op |"),
    "empty file": ("", "missing-section", "Model Configuration", None),
    "prose only": ("Nothing here.\n", "missing-section", "Kernel Summary", None),
    "delimiter missing": (
        SMALL.replace("|----|-------------|--------------|--------|\n" + PREFILL_ROW, PREFILL_ROW),
        "broken-table", "|---|---|", "| Op |",
    ),
    "delimiter too short": (
        SMALL.replace("|----|-------------|--------------|--------|\n" + PREFILL_ROW, "|----|-----|\n" + PREFILL_ROW),
        "broken-table", "header has 4 cells and the line under it 2", "| Op |",
    ),
    "section in a comment": (
        SMALL.replace("## Decode Phase", "<!--\n## Decode Phase"), "missing-phase", "inside the comment that begins in line 18", None,
    ),
    "section in a code block": (
        SMALL.replace("## Kernel Summary", "```\n## Kernel Summary"), "missing-section", "inside the code block that begins", None,
    ),
    "rows in HTML": (row(DECODE_ROW, "<details>\n" + DECODE_ROW), "broken-table", "the HTML that begins in line", DECODE_ROW),
    "table cut in two": (SMALL.replace(DECODE_ROW, "\n" + DECODE_ROW), "broken-table", "cut off", DECODE_ROW),
    "row too short": (row(DECODE_ROW, "| `self.q_a_layernorm()` | [B, Lq] |"), "broken-row", "2 cells, the header 4", "`self.q_a_l"),
    "row too long": (row(DECODE_ROW, DECODE_ROW + " x |"), "broken-row", "5 cells, the header 4", DECODE_ROW),
    "text under a table": (row(DECODE_ROW, DECODE_ROW + "\nand more"), "broken-row", "blank line", "and more"),
    "column missing": (SMALL.replace("Output Shape", "Result"), "missing-column", "'Output Shape'", "| Op |"),
    "column of the summary missing": (SMALL.replace("| Source |", "| Origin |"), "missing-column", "'Source'", "| Kernel | O"),
    "unknown kernel": (row(SUMMARY_ROW, SUMMARY_ROW.replace("rmsnorm", "rmsnrom")), "unknown-kernel", "Did you mean rmsnorm", "| `rmsnrom`"),
    "kernel to add": (
        row(SUMMARY_ROW, SUMMARY_ROW + "\n| `qzx_new` | sgl-kernel | a |"), "unknown-kernel", "'Add a kernel' in CONTRIBUTING.md", "| `qzx_new`",
    ),
    "unlisted kernel": (row(DECODE_ROW, DECODE_ROW.replace("`rmsnorm`", "`rmsnom`")), "unlisted-kernel", "Did you mean rmsnorm", "self.q_a"),
    "misspelt without backticks": (row(DECODE_ROW, DECODE_ROW.replace("`rmsnorm`", "rmsnom")), "unlisted-kernel", "Did you mean rmsnorm", "self.q_a"),
    "kernel twice": (row(SUMMARY_ROW, SUMMARY_ROW + "\n" + SUMMARY_ROW.replace("input_", "")), "double-kernel", "lists rmsnorm twice", None),
    "unknown source": (row(SUMMARY_ROW, SUMMARY_ROW.replace("sgl-kernel", "sgl_kernal")), "unknown-source", "Did you mean sgl-kernel", "sgl_kernal"),
    "no source": (row(SUMMARY_ROW, SUMMARY_ROW.replace("sgl-kernel", " ")), "cell", "source is missing", None),
    "no row for a kernel": (row(SUMMARY_ROW, SUMMARY_ROW + "\n| `topk_softmax` | sgl-kernel | topk |"), "no-row", "topk_softmax", "| `topk"),
    "undefined symbol": (row(DECODE_ROW, DECODE_ROW.replace("Lq", "Lqq")), "undefined-symbol", "Did you mean Lq?", "self.q_a"),
    "undefined symbol in the configuration": (SMALL.replace("Hh = H / 2", "Hh = Hx / 2"), "undefined-symbol", "Did you mean H", "| `half`"),
    "circular symbols": (SMALL.replace("Hh = H / 2", "Hh = Hh / 2"), "undefined-symbol", "circle", "| `half`"),
    "derived contradicts its value": (SMALL.replace("| - | Hh = H / 2", "| 3000 | Hh = H / 2"), "contradiction", "3000", "| `half`"),
    "symbol twice": (SMALL.replace("| 1536 | Lq |", "| 1536 | H |"), "cell", "H is 1536 here and 7168", "`q_lora_rank`"),
    "symbol of the sweep": (SMALL.replace("| 1536 | Lq |", "| 1536 | S |"), "cell", "S is the sweep's", "`q_lora_rank`"),
    "symbol without a number": (SMALL.replace("| 1536 | Lq |", "| many | Lq |"), "cell", "not a number: 'many'", "`q_lora_rank`"),
    "symbol is no name": (SMALL.replace("| 1536 | Lq |", "| 1536 | L/q |"), "cell", "'L/q' is not a symbol", "`q_lora_rank`"),
    "symbol is code": (SMALL.replace("Hh = H / 2", "Hh = __import__('os')"), "cell", "not an expression", "| `half`"),
    "symbol is a keyword": (SMALL.replace("| 1536 | Lq |", "| 1536 | lambda |"), "cell", "not usable as a name", "`q_lora_rank`"),
    "contradictory shape": (row(PREFILL_ROW, PREFILL_ROW.replace("7168", "4096")), "contradiction", "H is 7168, but the other side says 4096", "[B*S, H] ="),
    "contradictory tokens": (row(PREFILL_ROW, PREFILL_ROW.replace("[B*S, 7168]", "[B, 7168]")), "contradiction", "B * S is 15 at B=3, S=5", "[B*S, H] ="),
    "sides of different rank": (row(PREFILL_ROW, PREFILL_ROW.replace("[B*S, 7168]", "[7168]")), "shape", "2 and 1 dimensions", "[B*S, H] ="),
    "bracket open": (row(DECODE_ROW, DECODE_ROW.replace("Lq] |", "Lq |", 1)), "shape", "not closed", "self.q_a"),
    "shape not whole": (row(DECODE_ROW, DECODE_ROW.replace("Lq", "Lq / 5")), "shape", "307.2, not a whole number", "self.q_a"),
    "shape not positive": (row(DECODE_ROW, DECODE_ROW.replace("Lq", "Lq - H")), "shape", "not a size", "self.q_a"),
    "division by zero": (row(DECODE_ROW, DECODE_ROW.replace("Lq", "Lq // 0")), "shape", "division by zero", "self.q_a"),
    "a tower of powers": (row(DECODE_ROW, DECODE_ROW.replace("Lq", "9**9**9")), "shape", "out of range", "self.q_a"),
    "a tower in the configuration": (SMALL.replace("Hh = H / 2", "Hh = 9**9**9"), "symbol", "out of range", "| `half`"),
    "a long expression": (row(DECODE_ROW, DECODE_ROW.replace("Lq", "+".join(["Lq"] * 900))), "shape", "too long", "self.q_a"),
    "wrong rank for the kernel": (row(DECODE_ROW, DECODE_ROW.replace("[B, Lq]", "[B, 1, Lq]")), "shape", "3 dimensions, expected 2", "self.q_a"),
    "input and output differ": (row(DECODE_ROW, DECODE_ROW.replace("y: [B, Lq]", "y: [B, H]")), "shape", "is 7168 at B=1, S=1, but D is 1536", "self.q_a"),
    "prefill without S": (row(PREFILL_ROW, PREFILL_ROW.replace("B*S", "B")), "shape", "B*S tokens", "`rmsnorm` |"),
    "no shape at all": (row(DECODE_ROW, DECODE_ROW.replace("x: [B, Lq]", "x").replace("y: [B, Lq]", "y")), "shape", "do not give D", "self.q_a"),
    "condition not understood": (row(DECODE_ROW, DECODE_ROW.replace("`rmsnorm`", "`rmsnorm` (B<=)")), "cell", "not understood", "self.q_a"),
    "condition of unknown names": (row(DECODE_ROW, DECODE_ROW.replace("`rmsnorm`", "`rmsnorm` (Bx<=1)")), "condition", "Bx is not defined", "self.q_a"),
    "kernels side by side": (row(DECODE_ROW, DECODE_ROW.replace("`rmsnorm`", "`rmsnorm` `rmsnorm`")), "cell", "side by side", "self.q_a"),
    "op with two shapes": (row(DECODE_ROW, DECODE_ROW + "\n" + DECODE_ROW.replace("Lq", "H")), "double-op", "with two shapes", None),
    "op without a name": (row(DECODE_ROW, DECODE_ROW.replace("`self.q_a_layernorm()`", "`self.()`")), "cell", "no name", None),
    "op name too long": (row(DECODE_ROW, DECODE_ROW.replace("q_a_layernorm", "q" * 200)), "cell", "longer than 100", None),
    "sum of unknown parts": (
        row(DECODE_ROW, DECODE_ROW.replace("`rmsnorm`", "`rmsnorm` + `silu_and_mul`")), "unknown-sum", "ops.composites.q_a_layernorm", "self.q_a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_file(name):
    text, code, part, line = BAD[name]
    assert text != SMALL
    _, problems = parse(text)
    found = [
        problem for problem in problems.errors if problem.code == code and part in f"{problem.message} {problem.hint}"
    ]
    assert found, problems.report()
    assert str(found[0]).startswith("ops.md")
    if line:
        assert found[0].line == line_of(text, line), str(found[0])


MALICIOUS = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "{{ 7*7 }}",
    "{% x %}",
    "a;rm -rf",
    "$(id)",
    "a b",
    "x\u202ey",
    "é",
    "a.b",
    "a-b",
    "-rf",
    "1a",
    "a'b",
    "x" * 200,
]


@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("place", ["summary", "table"])
def test_names_that_are_no_names_are_refused(name, place):
    target = SUMMARY_ROW if place == "summary" else DECODE_ROW
    text = row(target, target.replace("`rmsnorm`", f"`{name}`"))
    specs, problems = parse(text)
    assert any("is not a kernel name" in p.message and p.line == line_of(text, f"`{name}`") for p in problems.errors)
    assert set(specs) <= {"rmsnorm"}


@pytest.mark.parametrize("name", ["utils", "all_kernels"])
def test_names_of_the_bundles_own_files_are_refused(name):
    text = row(SUMMARY_ROW, SUMMARY_ROW.replace("`rmsnorm`", f"`{name}`"))
    _, problems = parse(text)
    assert any(name in p.message and "cannot be a kernel's name" in p.message for p in problems.errors)


def test_op_labels_are_data():
    label = "self.x'); import os #{{ 7*7 }}"
    specs, problems = parse(row(DECODE_ROW, DECODE_ROW.replace("`self.q_a_layernorm()`", f"`{label}`")))
    assert not problems.errors
    assert specs["rmsnorm"]["ops"][-1]["op"] == label.removeprefix("self.")


def test_all_problems_come_out_at_once_in_order():
    text = row(DECODE_ROW, DECODE_ROW.replace("Lq", "Lqq"))
    text = text.replace(PREFILL_ROW, PREFILL_ROW.replace("7168", "7"))
    text = text.replace(SUMMARY_ROW, SUMMARY_ROW + "\n| `rmsnrm` | sgl-kernel | x |")
    _, problems = parse(text)
    assert {"contradiction", "undefined-symbol", "unknown-kernel"} == {p.code for p in problems.errors}
    assert [p.line for p in problems.errors] == sorted(p.line for p in problems.errors)
    assert problems.report().splitlines()[-1].startswith(f"{len(problems.errors)} errors")


def test_one_cause_is_one_message():
    """However many rows suffer from it: what was told at its definition or heading is not told again."""
    own = OWN.read_text()
    uses = re.findall(r"^\|.*\bH\b.*\|$", own, re.MULTILINE)
    for change, message in [
        (("| 7168 | H |", "| 7168x | H |"), "the value of H is not a number"),
        (("| 7168 | H |", "| 7168 | Hh |"), "uses H, which is not defined (also in lines"),
        (("| 7168 | H |", "| 0 | H |"), "H is 0, not a size (also in lines"),
        (("| Dq = Dn + Dr |", "| Dq = Dn + Drr |"), "Dq = Dn + Drr uses Drr, which is not defined"),
        (("| 128 | Dn |", "| 128 | Dn = Dq - Dr |"), "goes round in a circle: Dn → Dq → Dn"),
        (("## Model Configuration", "## Parameters"), "the section 'Model Configuration' is missing"),
        (("## Kernel Summary", "## Kernels"), "the section 'Kernel Summary' is missing"),
    ]:
        assert change[0] in own
        _, problems = parse(own.replace(*change))
        (error,) = problems.errors
        assert message in error.message, error
        assert len(problems.warnings) <= 1
    assert len(uses) > 30


def test_what_is_only_odd_is_a_warning():
    text = row(SUMMARY_ROW, SUMMARY_ROW.replace("q_a_layernorm", "no_such_op"))
    text = text.replace("| [B, H] | embedding lookup |", "| [B, Hxx] | embedding lookup |")
    text = text.replace("## Kernel", "| Note | Text |\n|--|--|\n| a | b |\n\n## Kernel")
    text = text.replace(DECODE_ROW, f"{DECODE_ROW}\n{DECODE_ROW}")
    specs, problems = parse(text)
    assert specs and not problems.errors
    assert {p.code for p in problems.warnings} == {"summary-op", "undefined-symbol", "other-table", "double-row"}


def test_a_known_kernel_that_the_summary_leaves_out_is_a_warning():
    specs, problems = parse(row(DECODE_ROW, DECODE_ROW.replace("`rmsnorm`", "`rmsnorm` / `fused_add_rmsnorm`")))
    assert list(specs) == ["rmsnorm"] and not problems.errors
    assert [p.code for p in problems.warnings] == ["unlisted-kernel"]


def test_unreadable_files(tmp_path):
    for name, content, code in [
        ("latin.md", b"# caf\xe9\n", "not-text"),
        ("big.md", b"x" * 3_000_000, "too-large"),
        ("zeros.md", b"# a\0b\n", "not-text"),
        ("wide.md", "# a\n".encode("utf-16"), "not-text"),
        ("gone.md", None, "no-file"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        problems = Problems()
        assert read_ops_file(tmp_path / name, problems) is None
        assert [p.code for p in problems] == [code]
    problems = Problems()
    assert read_ops_file(tmp_path, problems) is None and len(problems) == 1
    os.mkfifo(tmp_path / "pipe.md")
    for endless in (tmp_path / "pipe.md", "/dev/zero"):
        problems = Problems()
        assert read_ops_file(endless, problems) is None
        assert ["a pipe or a device" in p.message for p in problems] == [True]


def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    path = tmp_path / "ops.md"
    for data in (SMALL.encode("utf-8-sig"), SMALL.replace("\n", "\r\n").encode(), SMALL.replace("\n", "\r").encode()):
        path.write_bytes(data)
        problems = Problems()
        found = read_ops_file(path, problems)
        assert not len(problems), problems.report()
        assert [row.line for row in found.rows] == [row.line for row in parse_ops_file(SMALL, "", Problems()).rows]


def run(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "parse_ops.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_command_line_reports_and_writes_nothing(tmp_path):
    path = tmp_path / "bad.md"
    path.write_text(row(DECODE_ROW, DECODE_ROW.replace("Lq", "Lqq")))
    done = run("--ops-file", path, "--out-dir", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr and not done.stdout
    assert f"{path}:{line_of(path.read_text(), 'Lqq')}: error:" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run("--ops-file", tmp_path / "none.md", "--out-dir", tmp_path / "out")
    assert done.returncode == 1 and "no such file" in done.stderr and "Traceback" not in done.stderr
    done = run("--set", "batch_sizes=zero")
    assert done.returncode == 1 and "batch_sizes[0]" in done.stderr and "Traceback" not in done.stderr


slow_is_fine = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
fewer = settings(slow_is_fine, max_examples=30)  # each a large file


@slow_is_fine
@given(st.text(max_size=400))
def test_any_text_is_survived(text):
    specs, problems = parse(text)
    assert not specs and problems.errors


@fewer
@given(st.data())
def test_a_damaged_file_is_survived(data):
    lines = lookalike().splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        at = data.draw(st.integers(0, len(line)))
        junk = data.draw(st.text(alphabet="|[]()`*=/+-<>#:,.\\ B9x{}&;\t\u00e9", max_size=6))
        cut = data.draw(st.integers(0, 4))
        lines[index] = line[:at] + junk + line[at + cut :]
    specs, problems = parse("\n".join(lines))
    assert problems.errors or len(specs) >= 1
    for problem in problems:
        assert problem.message and 0 <= problem.line <= len(lines) + 1
