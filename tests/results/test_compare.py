import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from benchlib import compare, compare_report, conventions, resultset, roofs
from benchlib.resultset import Row

sys.path.insert(0, str(Path(compare.__file__).parents[2]))
import compare_results  # noqa: E402

POINTS = resultset.points_from_list(synthetic.points())
GB200 = roofs.Roofs("GB200", synthetic.GB200, 8000e9)


def row(kernel, op, phase="decode", B=1, S=1, M=1, N=1, K=0, ms=0.01, **fields):
    return Row(kernel, op, phase, B, S, S, M, N, K, latency_ms=ms, **fields)


def joined(*rows):
    return compare.compare(resultset.ResultSet(Path("old"), list(rows)), resultset.ResultSet(Path("new"), []), POINTS)


@pytest.mark.parametrize(
    "old",
    [
        row("cutlass_mla_decode", "attn_mqa", B=4, S=256, M=512, N=256, K=576),
        row("trtllm_batch_decode_with_kv_cache_mla", "attn_mqa", B=128, S=2048, M=16384, N=2048, K=576),
        row("trtllm_ragged_attention_deepseek", "prefill_attn", "prefill", 2, 512, 89600, 512, 192),
        row("bmm_fp8", "q_nope*w_kc", B=8, M=8, N=512, K=128),
        row("bmm_fp8", "attn*w_vc", B=8, M=8, N=128, K=512),
        row("concat_mla_k", "concat_kv", "prefill", 1, 128, 128, 192, 0),
        row("dsv3_fused_a_gemm", "fused_qkv_a_proj", B=16, M=16, N=2112, K=7168),
        row("mla_rope_quantize_fp8", "rope_quantize", B=128, M=128, N=64, K=512),
        row("moe_fused_gate", "fused_gate", B=2, M=2, N=256, K=0),
        row("prepare_moe_input", "experts_gather", B=2, M=2, N=8, K=7168),
        row("moe_align_block_size", "align_experts", B=2, M=2, N=8, K=64),
        row("scaled_fp4_experts_quant", "experts_quant", B=2, M=16, N=7168),
        row("cutlass_fp4_group_mm", "experts_gate_up", B=4, M=32, N=4096, K=7168),
        row("cutlass_fp4_group_mm", "experts_down", B=4, M=32, N=7168, K=2048),
        row("apply_shuffle_mul_sum", "experts_scatter", B=2, M=2, N=7168, K=8),
        row("fused_moe_kernel", "fused_moe", "prefill", 1, 128, 1024, 2048, 7168),
        row("rmsnorm", "input_layernorm", B=2, M=2, N=7168),
    ],
    ids=lambda row: f"{row.kernel}-{row.op}",
)
def test_older_conventions_are_read(old):
    found = joined(old)
    assert found.joined_rows == 1
    assert (found.only_baseline, found.other_shape) == ([], [])
    assert found.pairs[0].baseline.L == found.pairs[0].current.L


def test_todays_rows_stay_as_they_are_but_for_the_alias():
    for item in conventions.normalise(POINTS):
        same = {name: getattr(item.row, name) for name in conventions.FIELDS[1:]}
        assert same == {name: getattr(item.original, name) for name in conventions.FIELDS[1:]}
    assert {item.original.kernel for item in conventions.normalise(POINTS) if item.changes} == {"concat_mla_mha_k"}


def test_another_shape_at_the_same_point_is_not_compared():
    found = joined(row("trtllm_fp4_block_scale_moe", "fused_moe", B=8, M=64, N=1024, K=1024))
    assert (found.joined_rows, len(found.other_shape)) == (0, 1)


def test_rows_without_a_counterpart_are_reported():
    found = joined(row("cutlass_scaled_fp4_mm", "kv_b_proj", B=1, M=1, N=32768, K=512))
    assert [old.op for old in found.only_baseline] == ["kv_b_proj"]
    assert len(found.only_current) == len(POINTS)


def test_what_neither_set_measured_is_no_difference():
    one, two = row("rmsnorm", "enorm"), row("rmsnorm", "enorm", B=2, M=2)
    missing = replace(two, latency_ms=None)
    old = resultset.ResultSet(Path("old"), [one, missing])
    found = compare.compare(old, resultset.ResultSet(Path("new"), [one, missing]))
    assert (len(found.pairs), found.only_current) == (1, [])
    found = compare.compare(old, resultset.ResultSet(Path("new"), [one, two]))
    assert [new.B for new in found.only_current] == [2]


def test_how_far_apart_two_runs_are():
    old = [row("rmsnorm", "enorm", B=n, M=n, ms=0.010 if n > 1 else 0.002) for n in range(1, 22)]
    new = [replace(item, latency_ms=item.latency_ms * (1 + item.B / 1000)) for item in old]
    found = compare.compare(resultset.ResultSet(Path("old"), old), resultset.ResultSet(Path("new"), new))
    text = compare_report.markdown(found, ["old", "new"])
    assert "differ by 1.10 % in the median and by 2.1 % at most" in text
    assert "95 % of the 20 points slower than 5.00 µs by no more than 2.00 %." in text


def test_duplicates_are_reported_and_widen_the_noise():
    one = row("rmsnorm", "enorm", B=1, M=1, N=7168, ms=0.010)
    found = joined(one, replace(one, latency_ms=0.012))
    assert found.joined_rows == 2
    assert [(name, len(rows)) for name, _, rows in found.duplicates] == [("baseline", 2)]
    assert found.pairs[0].baseline.latency_ms == pytest.approx(0.011)
    assert found.pairs[0].baseline.spread == pytest.approx(0.001 / 0.011)


@pytest.mark.parametrize(
    ("old", "new", "spreads", "expected"),
    [
        (0.100, 0.101, (0.0, 0.0), "same"),
        (0.100, 0.103, (0.0, 0.0), "slower"),
        (0.100, 0.097, (0.0, 0.0), "faster"),
        (0.100, 0.103, (0.01, 0.01), "slower"),
        (0.100, 0.103, (0.02, 0.01), "same"),
        (0.100, 0.105, (None, None), "same"),
        (0.100, 0.107, (None, None), "slower"),
        (0.00100, 0.00104, (0.0, 0.0), "same"),
        (0.00100, 0.00106, (0.0, 0.0), "slower"),
    ],
)
def test_the_verdict_takes_the_noise_into_account(old, new, spreads, expected):
    rows = [row("k", "o", ms=ms, spread=spread) for ms, spread in zip((old, new), spreads, strict=True)]
    noise = compare.combined_noise(*rows)
    assert compare.verdict(old, new, noise) == expected


def test_rows_above_the_roof_are_named():
    rows = [
        row("rmsnorm", "enorm", bytes=9e6, flops=1e6, ms=0.001),
        row("cutlass_scaled_fp4_mm", "q_b_proj", M=1, bytes=1e3, flops=10e9, ms=0.001),
        row("rmsnorm", "hnorm", bytes=7e6, flops=1e6, ms=0.001),
    ]
    sets = resultset.ResultSet(Path("old"), rows), resultset.ResultSet(Path("new"), [])
    found = compare.compare(*sets, POINTS, GB200).above_roof
    assert [(name, line.op, resource) for name, line, resource, _ in found] == [
        ("baseline", "enorm", "memory"),
        ("baseline", "q_b_proj", "compute"),
    ]
    assert found[0][3] == pytest.approx(9 / 8)


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    synthetic.write_results(folder / "old")
    synthetic.write_results(folder / "new")
    synthetic.write_results(folder / "slow", speed=1 / 1.2)
    return folder


def run(folder, old, new, *arguments):
    command = ["--baseline", str(folder / old), "--current", str(folder / new), "--output", str(folder / "out")]
    return compare_results.main([*command, *arguments])


def test_equal_sets_are_the_same(two_sets, capsys):
    assert run(two_sets, "old", "new") == 0
    assert "554 of 554 rows joined, 554 points compared" in capsys.readouterr().out
    with (two_sets / "out" / "comparison.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert tuple(lines[0]) == compare_report.CSV_COLUMNS
    assert {line["verdict"] for line in lines} == {"same"}
    assert {line["ratio"] for line in lines} == {"1.0000"}


def test_a_regression_fails_unless_it_is_below_the_threshold(two_sets, capsys):
    assert run(two_sets, "old", "slow") == 1
    assert "1.20 times the baseline" in capsys.readouterr().out
    assert run(two_sets, "old", "slow", "--threshold", "0.3") == 0
    assert run(two_sets, "slow", "old") == 0


def test_a_slower_gpu_is_no_regression_unless_strict(two_sets, tmp_path):
    synthetic.write_results(tmp_path / "h100", gpu="NVIDIA H100 80GB HBM3", bandwidth=3350e9)
    assert run(two_sets, "old", str(tmp_path / "h100")) == 0
    assert run(two_sets, "old", str(tmp_path / "h100"), "--strict") == 1
    text = (two_sets / "out" / "comparison.md").read_text()
    assert "From H200 (4.8 TB/s) to H100 (3.35 TB/s, both datasheet)" in text
    assert "a memory-bound point should take **1.433 times as long**" in text


def gpu(name, bandwidth, **fields):
    return roofs.Roofs(name, {"bf16": 1000e12, "fp8": 2000e12}, bandwidth, **fields)


def between(old_roofs, new_roofs, *pairs):
    """A Comparison of (op, bytes, FLOPs, milliseconds on either GPU)."""
    sets = [[], []]
    for op, nbytes, flops, *times in pairs:
        for rows, ms in zip(sets, times, strict=True):
            rows.append(row("k", op, ms=ms, bytes=nbytes, flops=flops, compute_dtype="bf16", bound="memory"))
    old, new = (resultset.ResultSet(Path(name), rows) for name, rows in zip(("old", "new"), sets, strict=True))
    return compare.compare(old, new, (), old_roofs, new_roofs)


def test_between_gpus_memory_bound_points_follow_the_ratio_of_the_bandwidths():
    """4 TB/s and 2 TB/s: what is at 80 % of the roof takes twice as long, and what is not says nothing."""
    found = between(
        gpu("A", 4e12),
        gpu("B", 2e12),
        ("follows", 80e6, 1e6, 0.025, 0.051),
        ("slow here", 80e6, 1e6, 0.025, 0.080),
        ("slow there", 80e6, 1e6, 0.060, 0.050),
        ("short", 1e3, 1e3, 0.002, 0.002),
        ("compute", 1e6, 80e9, 0.100, 0.100),
    )
    by_op = {pair.current.op: pair for pair in found.pairs}
    assert {op: pair.expected for op, pair in by_op.items()} == pytest.approx(
        {"follows": 2, "slow here": 2, "slow there": 2, "short": 2, "compute": 1}
    )
    assert {op: pair.follows for op, pair in by_op.items()} == {
        "follows": True, "slow here": False, "slow there": False, "short": None, "compute": True,
    }  # fmt: skip
    assert by_op["compute"].limit == "compute" and by_op["follows"].limit == "memory"
    assert by_op["slow here"].off == pytest.approx(0.6)
    assert by_op["slow here"].shares == pytest.approx((0.8, 0.5))


def test_measured_bandwidths_count_where_both_are_measured():
    one, two = ("x", 40e6, 1e6, 0.0125, 0.025), ("c", 1e6, 80e9, 0.1, 0.1)
    old = gpu("A", 4e12, measured_bandwidth=3.6e12, measured_compute={"bf16": 800e12})
    found = between(old, gpu("B", 2e12, measured_bandwidth=1.9e12), one, two)
    assert found.pairs[0].expected == pytest.approx(3.6 / 1.9)
    # The measured rate of one GPU and the datasheet's of the other make no ratio.
    assert found.pairs[1].expected == pytest.approx(1.0)
    assert between(old, gpu("B", 2e12), one).pairs[0].expected == pytest.approx(2.0)


def test_on_one_gpu_and_on_an_unknown_one_nothing_is_predicted():
    one = ("x", 80e6, 1e6, 0.025, 0.080)
    for new in (gpu("A", 4e12), replace(gpu("B", 2e12), assumed=True)):
        found = between(gpu("A", 4e12), new, one)
        assert (found.pairs[0].expected, found.pairs[0].follows) == (None, None)
        assert "What the roofs predict" not in compare_report.markdown(found, ["a", "b"], roofs=(gpu("A", 4e12), new))


def test_the_report_names_what_does_not_follow():
    pair = gpu("A", 4e12), gpu("B", 2e12)
    found = between(
        *pair, ("good", 80e6, 1e6, 0.025, 0.051), ("bad", 80e6, 1e6, 0.025, 0.080), ("s", 1e3, 1e3, 2e-3, 2e-3)
    )
    text = compare_report.markdown(found, ["a", "b"], roofs=pair)
    assert "From A (4 TB/s) to B (2 TB/s, both datasheet), a memory-bound point should take **2.000 times" in text
    assert "take **2.620 times as long** in the median; 1 of them are within 10 %" in text
    assert "| `k` | memory | 2 | 2.000 | 2.620 | 2.040 – 3.200 | 1 |" in text
    assert "| `k` | bad | decode B=1 | 2.000 | 3.200 | +60 % | 80 % | 50 % |" in text
    assert "The other 1 point (median ratio 1.000): below 50 % of the datasheet's roof" in text
    assert "regression" not in text.split("## Method")[0]
    lines = list(csv.DictReader(compare_report.csv_text(found).splitlines()))
    assert [(line["expected"], line["limit"], line["follows"]) for line in lines] == [
        ("2.0000", "memory", "yes"), ("2.0000", "memory", "no"), ("2.0000", "memory", ""),
    ]  # fmt: skip


def test_the_report_tells_points_at_the_roof_from_points_below_it():
    """At 95 % of the first roof times double; at 55 %, where something else limits, they hardly change."""
    pair = gpu("A", 4e12), gpu("B", 2e12)
    high = [(f"h{ms}", 95e6, 1e6, 0.025, ms) for ms in (0.050, 0.051)]
    found = between(*pair, *high, ("low", 55e6, 1e6, 0.025, 0.030), ("roof", 100e6, 1e6, 0.025, 0.050))
    text = compare_report.markdown(found, ["a", "b"], roofs=pair)
    assert "| 90 % or more | 3 | 2.000 | 2.000 – 2.040 | 3 |" in text
    assert "| 50 to 60 % | 1 | 1.200 | 1.200 | 0 |" in text


def test_the_report_names_what_follows_far_below_the_roof():
    """At 20 % of the roof the time doubles with the bandwidth: more is moved than is counted."""
    pair = gpu("A", 4e12), gpu("B", 2e12)
    found = between(*pair, ("again", 20e6, 1e6, 0.025, 0.049), ("launch", 20e6, 1e6, 0.025, 0.026))
    text = compare_report.markdown(found, ["a", "b"], roofs=pair)
    assert "1 point below 50 % of the datasheet's roof in both sets changed as the bandwidth did all the same." in text
    assert "| `k` | again | decode B=1 | 2.000 | 1.960 | -2 % | 20 % | 20 % |" in text
    assert "| `k` | launch | decode B=1 | 2.000 |" not in text


def write_csv(path, rows):
    """A bare CSV of (bandwidth in GB/s, share in percent) of one memory-bound point each."""
    lines = [",".join(resultset.COLUMNS)]
    for number, (gbs, share) in enumerate(rows, 1):
        lines.append(f"rmsnorm,enorm,decode,{number},1,{number},7168,0,0.01,100,{share:.2f},{gbs:.2f},1.25,memory")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_bare_csv_says_by_its_shares_which_gpu_it_was(tmp_path, capsys):
    old = write_csv(tmp_path / "old.csv", [(4800 * share / 100, share) for share in (6.25, 12.5, 50, 80)])
    new = write_csv(tmp_path / "new.csv", [(3350 * share / 100, share) for share in (6.25, 12.5, 50, 80)])
    assert roofs.choose(resultset.load(old)).name == "H200"
    assert roofs.choose(resultset.load(new)).name == "H100"
    slow = new.read_text().replace(",0.01,", ",0.02,")
    new.write_text(slow)
    command = ["--baseline", str(old), "--current", str(new), "--output", str(tmp_path / "out")]
    assert compare_results.main(command) == 0
    assert "not counted as regressions: H200 and H100 are different GPUs" in capsys.readouterr().out
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "Peaks of the baseline set: H200 (the entry of the hardware table that the file's own peak_pct fits)" in text
    other = write_csv(tmp_path / "other.csv", [(1000 * share / 100, share) for share in (6.25, 50)])
    assert (found := roofs.choose(resultset.load(other))).assumed
    assert found.source == "assumed: nothing says which GPU it was"


def test_what_is_not_measured_any_more_is_named_with_its_reason(capsys):
    one = row("rmsnorm", "enorm")
    gone = replace(one, latency_ms=None, extra={"status": "failed", "reason": "it raised"})
    found = compare.compare(resultset.ResultSet(Path("old"), [one]), resultset.ResultSet(Path("new"), [gone]))
    assert [pair.current.op for pair in found.lost] == ["enorm"]
    text = compare_report.markdown(found, ["old", "new"])
    assert "## Not measured in the current set" in text
    assert "| `rmsnorm` | enorm | decode | 1 | it raised |" in text
    options = argparse.Namespace(threshold=0.1, strict=False)
    assert compare_results.report(found, options, (None, None)) == 2
    assert "no measurement of the baseline's points" in capsys.readouterr().err


def test_what_cannot_be_compared_is_an_error(two_sets, tmp_path, capsys):
    assert run(two_sets, "nothing", "new") == 2
    assert "nothing: there is no such file or directory" in capsys.readouterr().err
    (tmp_path / "a.csv").write_text("kernel,time\n")
    assert run(two_sets, str(tmp_path / "a.csv"), "new") == 2
    assert "a.csv:1: the header lacks op, phase" in capsys.readouterr().err
    for threshold in ("-1", "nan"):
        assert run(two_sets, "old", "new", "--threshold", threshold) == 2
        assert "expected a number of at least 0" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(two_sets, str(tmp_path / "empty"), "new") == 2
    assert "empty: holds no results: it has no CSV and no sidecar of a kernel" in capsys.readouterr().err
    (tmp_path / "b.csv").write_text(",".join(resultset.COLUMNS) + "\n")
    assert run(two_sets, str(tmp_path / "b.csv"), "new") == 2
    assert "b.csv: holds no results: it has a header and no row" in capsys.readouterr().err
    synthetic.write_results(tmp_path / "none", synthetic.points()[:3], lacks={"rmsnorm"})
    assert run(two_sets, str(tmp_path / "none"), "new") == 2
    assert "none: nothing in it is measured" in capsys.readouterr().err
    written = tmp_path / "file"
    written.touch()
    assert run(two_sets, "old", "new", "--output", str(written)) == 2
    assert "file: cannot be written: File exists" in capsys.readouterr().err


def test_conventions_name_known_columns_only(tmp_path):
    path = tmp_path / "conventions.json"
    path.write_text('{"kernels": {}, "constants": {}, "rules": [{"why": "x", "match": {"kernal": "a"}}]}')
    with pytest.raises(resultset.ResultError, match="unknown column 'kernal'"):
        conventions.normalise([], path)


def test_two_kernel_stacks_and_what_is_different_between_them(two_sets, tmp_path):
    synthetic.write_results(tmp_path / "stack", speed=1.25)
    for sidecar in (tmp_path / "stack").glob("*.jsonl"):
        sidecar.write_text(sidecar.read_text().replace('"torch": "2.9.1"', '"torch": "2.10.0"'))
    assert run(two_sets, "old", str(tmp_path / "stack")) == 0
    text = (two_sets / "out" / "comparison.md").read_text()
    assert "554 faster" in text
    facts = text.split("## How they were measured")[1].split("##")[0]
    assert "| packages torch | 2.9.1 | 2.10.0 |" in facts
    assert "Equal in both: gpu NVIDIA H200; driver 570.1." in facts
