"""Cells of ops files: shapes, kernels, ops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofbench.opsfile import cells
from roofbench.opsfile.cells import CellError
from roofbench.opsfile.markdown import Cell, read_blocks


def cell(markdown):
    """The cell as Markdown reads it."""
    table = read_blocks(f"| h |\n|---|\n| {markdown} |\n").tables[0]
    return table.rows[0].cells[0]


def names(markdown):
    return [[term.name for term in alternative] for alternative in cells.parse_kernels(cell(markdown))]


def test_shapes():
    shapes = cells.parse_shapes("q_pe: [B*S, Nh, Dr] (rotated), k_pe: [B*S, 1, Dr], mask")
    assert [(t.name, t.sides) for t in shapes.tensors] == [
        ("q_pe", (("B * S", "Nh", "Dr"),)),
        ("k_pe", (("B * S", "1", "Dr"),)),
        ("mask", ()),
    ]
    assert shapes.names() == ["B", "S", "Nh", "Dr"]


def test_equal_sides():
    (tensor,) = cells.parse_shapes("[B*S, Lq+Lkv + Dr] = [B*S, 2112]").tensors
    assert tensor.sides == (("B * S", "Lq + Lkv + Dr"), ("B * S", "2112"))


@pytest.mark.parametrize("text", ["same", "Same", "same (in place)", "same as input"])
def test_same(text):
    assert cells.parse_shapes(text).same


def test_functions_and_parentheses_in_shapes():
    (tensor,) = cells.parse_shapes("[round_up(B, 128), (H + 1)*2]").tensors
    assert tensor.sides == (("round_up(B, 128)", "(H + 1) * 2"),)
    assert cells.parse_shapes("[]").tensors[0].sides == ((),)
    assert cells.parse_shapes("").tensors == cells.parse_shapes("-").tensors == ()
    assert [t.name for t in cells.parse_shapes("quantized input (packed), scales").tensors] == [
        "quantized input",
        "scales",
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[B, H", "not closed"),
        ("B, H]", "no counterpart"),
        ("[B, (H]", "no counterpart"),
        ("[B, 9**9**]", "not an expression"),
        ("[B,, H]", "empty"),
        ("[B, H] = ", "missing at the end"),
        ("[B, H] = [B]", "2 and 1 dimensions"),
        ("[B, H] [B, H]", "unexpected"),
        ("[B, H] → view [B]", "unexpected"),
        ("x: B, H", "in brackets"),
        ("x = [B]", "unexpected"),
        ("[B, H} ]", "not an expression"),
        ("[a.b]", "not an expression"),
    ],
)
def test_bad_shapes(text, part):
    with pytest.raises(CellError, match=part.replace("(", r"\(")):
        cells.parse_shapes(text)


def test_kernels():
    assert names("`a` / `b`") == [["a"], ["b"]]
    assert names("`a` + `b` / `c`") == [["a", "b"], ["c"]]
    assert names("`a`/`b`") == [["a"], ["b"]]
    assert names("embedding lookup") == names("(varies by backend)") == [[None]]
    assert names("flashinfer/trtllm prefill") == [[None], [None]]
    assert names("`a` or better (fast)") == [["a"]]
    assert names("") == []


def test_conditions():
    ((first,), (second,)) = cells.parse_kernels(cell("`a` (B<=16) / `b`"))
    assert (first.condition, second.condition) == ("B <= 16", None)
    ((term,),) = cells.parse_kernels(cell("`a` (low latency, if B*S <= 16, S > 1)"))
    assert term.condition == "(B * S <= 16) and (S > 1)"
    ((term,),) = cells.parse_kernels(cell("`a` (B ≤ 16)"))
    assert term.condition == "B <= 16"
    ((term,),) = cells.parse_kernels(cell("`a` (B &lt;= 16)"))
    assert term.condition == "B <= 16"


@pytest.mark.parametrize(
    "markdown",
    [
        "`../etc`",
        "`a b`",
        "`{{ x }}`",
        "`a;rm`",
        "`a/b`",
        "`a` /",
        "/ `a`",
        "`a` `b`",
        "`a` (B<=)",
        "`a` (B<=16",
        "`1a`",
        "`ä`",
    ],
)
def test_bad_kernels(markdown):
    with pytest.raises(CellError):
        cells.parse_kernels(cell(markdown))


@pytest.mark.parametrize(
    ("markdown", "name", "annotation"),
    [
        ("`self.input_layernorm()`", "input_layernorm", None),
        ("`self.shared_head.norm()`", "shared_head.norm", None),
        ("`bmm_fp8()` (q_nope * w_kc)", "bmm_fp8", "q_nope * w_kc"),
        ("`cutlass_fp4_group_mm` (gate_up)", "cutlass_fp4_group_mm", "gate_up"),
        ("Fused MoE", "Fused MoE", None),
        ("**`self.topk()`**", "topk", None),
        (r"`a` (b \| c)", "a", "b | c"),
    ],
)
def test_ops(markdown, name, annotation):
    op = cells.parse_op(cell(markdown))
    assert (op.name, op.annotation) == (name, annotation)


def test_op_lists():
    text = "`self.a()`, b (low-latency, B<=16), q_nope * w_kc, experts (cutlass)"
    assert cells.parse_op_list(text) == ("a", "b", "q_nope * w_kc", "experts")


def test_values():
    assert [cells.parse_value(text) for text in ("7168", "`7168`", "7,168", "7 168", "1e4", "2.5", "-3")] == [
        7168, 7168, 7168, 7168, 10000.0, 2.5, -3,
    ]  # fmt: skip
    assert [cells.parse_value(text) for text in ("bf16", "", "1 < 2", "9**9**9")] == [None] * 4


dims = st.sampled_from(["B", "B*S", "H", "Nh * Dq", "2*I", "Lq + Lkv + Dr", "128", "round_up(B, 128)"])
shape = st.lists(dims, min_size=1, max_size=4)


@given(
    st.lists(st.tuples(st.sampled_from(["", "q: ", "k_pe: "]), shape), min_size=1, max_size=4),
    st.sampled_from(["", " "]),
)
def test_shape_cells_round_trip(tensors, space):
    text = f",{space}".join(f"{name}[{f',{space}'.join(sides)}]" for name, sides in tensors)
    read = cells.parse_shapes(text)
    again = ", ".join((f"{t.name}: " if t.name else "") + f"[{', '.join(t.sides[0])}]" for t in read.tensors)
    assert cells.parse_shapes(again).tensors == read.tensors
    assert [len(t.sides[0]) for t in read.tensors] == [len(sides) for _, sides in tensors]


@given(st.text(alphabet="[]()=,:*/+ `BSHx19<>|same-é", max_size=50))
def test_no_cell_text_is_too_strange(text):
    for read in (cells.parse_shapes, cells.parse_op_list, cells.parse_value, cells.bare_op):
        try:
            read(text)
        except CellError:
            pass
    for read in (cells.parse_kernels, cells.parse_op):
        for code in (False, True):
            try:
                read(Cell(((text, code), (" / x", False))))
            except CellError:
                pass
