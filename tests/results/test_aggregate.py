import csv
import json
import re
from pathlib import Path

import pytest
import synthetic

from benchlib import aggregate, resultset
from benchlib.resultset import ResultError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path):
    listed = [p for p in synthetic.points() if p["kernel"] in ("silu_and_mul", "rmsnorm", "cutlass_mla_decode")]
    return tmp_path, synthetic.write_results(tmp_path, listed)


def test_the_table_has_every_row_in_the_order_of_the_kernels(results):
    folder, _ = results
    path = aggregate.aggregate(folder, ["silu_and_mul", "cutlass_mla_decode", "rmsnorm"])
    with path.open() as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == list(resultset.COLUMNS)
    assert [row[0] for row in rows[1:]] == ["silu_and_mul"] * 84 + ["rmsnorm"] * 136


def test_cells_are_copied_unchanged(results):
    folder, _ = results
    table = aggregate.aggregate(folder, ["rmsnorm"])
    assert table.read_text() == (folder / "rmsnorm.csv").read_text()


def test_an_empty_list_of_kernels_gives_the_header_alone(tmp_path):
    assert aggregate.aggregate(tmp_path, []).read_text() == ",".join(resultset.COLUMNS) + "\n"


def test_gpus_of_two_types_are_refused_and_nothing_is_written(results):
    folder, kernels = results
    lines = (folder / "rmsnorm.jsonl").read_text().splitlines()
    run = json.loads(lines[0])
    run["provenance"]["gpu"] = {"name": "NVIDIA H100 80GB HBM3"}
    (folder / "rmsnorm.jsonl").write_text("\n".join([json.dumps(run), *lines[1:]]))
    with pytest.raises(ResultError, match="NVIDIA H100 80GB HBM3: rmsnorm; NVIDIA H200: silu_and_mul"):
        aggregate.aggregate(folder, kernels)
    assert not (folder / "all_kernels.csv").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("kernel,op,", "kernel,what,"), r"rmsnorm.csv:1: the header lacks op"),
        (lambda text: text + "rmsnorm,op\n", r"rmsnorm.csv:138: found 2 cells, expected 14"),
        (lambda text: text + text.splitlines()[1] + "\n", r"rmsnorm.csv:138: op .* stands in line 2 already"),
        (
            lambda text: text.replace("\nrmsnorm,", "\nlayernorm,", 1),
            r"csv:2: the row is of kernel 'layernorm'",
        ),
        (lambda text: text.replace("prefill,1,", "prefill,one,", 1), r"column B holds 'one', expected an integer"),
        (lambda text: "", r"rmsnorm.csv:1: the file is empty"),
    ],
)
def test_a_damaged_table_is_an_error_that_names_the_line(results, change, message):
    folder, kernels = results
    path = folder / "rmsnorm.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(ResultError, match=message):
        aggregate.aggregate(folder, kernels)


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(ResultError, match="rmsnorm.csv: is missing"):
        aggregate.aggregate(tmp_path, ["rmsnorm"])


def test_the_frame_holds_the_sidecar(results):
    pytest.importorskip("pandas")
    folder, _ = results
    frame = aggregate.sidecar_frame(folder, ["rmsnorm"])
    assert len(frame) == 136
    assert set(frame["schema_version"]) == {1}
    assert frame["statistics.p20_ms"].iloc[0] == pytest.approx(frame["latency_ms"].iloc[0] * 0.995, rel=1e-3)


def test_the_parquet_file_reads_back(results):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    folder, kernels = results
    frame = pandas.read_parquet(aggregate.export_parquet(folder, kernels))
    assert tuple(frame.columns[: len(aggregate.FRAME_COLUMNS)]) == aggregate.FRAME_COLUMNS
    assert len(frame) == 136 + 84
    assert frame["statistics.p80_ms"].dtype == float


def test_the_schema_is_the_same_with_and_without_rows_and_as_documented(tmp_path):
    pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    listed = [p for p in synthetic.points() if p["kernel"] == "dsv3_router_gemm"]
    schemas = []
    for lacks in ({"dsv3_router_gemm"}, ()):
        synthetic.write_results(tmp_path, listed, lacks=lacks)
        schema = parquet.read_schema(aggregate.export_parquet(tmp_path, ["dsv3_router_gemm"]))
        schemas.append({name: str(schema.field(name).type) for name in aggregate.FRAME_COLUMNS})
    assert schemas[0] == schemas[1]
    kinds = {"str": ("large_string", "string"), "Int64": ("int64",), "float64": ("double",)}
    for name, kind in aggregate.FRAME_TYPES.items():
        assert schemas[0][name] in kinds[kind], name
    section = (ROOT / "docs" / "results.md").read_text().split("## `all_kernels.parquet`")[1].split("\n## ")[0]
    documented = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (text|whole number|float) \|", section, re.MULTILINE)
    words = {"str": "text", "Int64": "whole number", "float64": "float"}
    found = {name: kind for names, kind in documented for name in re.findall(r"`(\w+)`", names)}
    assert found == {name: words[kind] for name, kind in aggregate.FRAME_TYPES.items()}


def test_parquet_without_a_measurement_and_with_fields_of_two_types(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    listed = [p for p in synthetic.points() if p["kernel"] == "dsv3_router_gemm"]
    synthetic.write_results(tmp_path, listed, lacks={"dsv3_router_gemm"})
    empty = pandas.read_parquet(aggregate.export_parquet(tmp_path, ["dsv3_router_gemm"]))
    assert empty.empty and tuple(empty.columns) == aggregate.FRAME_COLUMNS
    synthetic.write_results(tmp_path, listed, lacks=())
    sidecar = tmp_path / "dsv3_router_gemm.jsonl"
    run, *points = map(json.loads, sidecar.read_text().splitlines())
    points[0]["sets"], points[1]["sets"] = 3, "one"
    sidecar.write_text("\n".join(map(json.dumps, [run, *points])))
    frame = pandas.read_parquet(aggregate.export_parquet(tmp_path, ["dsv3_router_gemm"]))
    assert list(frame["sets"][:2]) == ["3", "one"] and frame["sets"].isna().sum() == 3


def test_without_pyarrow_there_is_a_message_and_everything_else(results, monkeypatch, capsys):
    import importlib.util

    path = ROOT / "scripts" / "aggregate.py"
    spec = importlib.util.spec_from_file_location("aggregate_command", path)
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    folder, _ = results

    def missing(*arguments):
        raise ResultError("pyarrow is missing")

    monkeypatch.setattr(command, "export_parquet", missing)
    monkeypatch.setattr("sys.argv", ["aggregate.py", "--results", str(folder), "--kernels", "rmsnorm"])
    assert command.main() == 0
    assert (folder / "all_kernels.csv").exists() and (folder / "benchmark_summary.md").exists()
    assert "all_kernels.parquet is not written: pyarrow is missing" in capsys.readouterr().err
