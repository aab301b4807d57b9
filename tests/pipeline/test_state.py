"""What is worth another try, and what is taken away, without Snakemake."""

import json

import pytest

from roofbench import state
from roofbench.errors import UserError
from roofbench.render import seal

NOW = {"executor": "local", "devices": [], "packages": {"torch": "2.11"}, "settings": {"cache": "cold"}}
MANIFEST = {name: {"kernel": name, "catalogue": name.upper()} for name in ("a", "b", "c")}


@pytest.fixture
def recorded(tmp_path):
    """Function: the paths of a sidecar with a status and of the fingerprint left with it."""

    def record(status, fingerprint=NOW):
        sidecar, attempt = tmp_path / "k.jsonl", tmp_path / "attempt.json"
        sidecar.write_text(json.dumps({"type": "run", "status": status}) + "\n" + json.dumps({"type": "point"}) + "\n")
        attempt.write_text(json.dumps(fingerprint))
        return sidecar, attempt

    return record


@pytest.mark.parametrize("status", ["unavailable", "failed", "partial", "timeout", "incorrect"])
@pytest.mark.parametrize(
    "changed",
    [{"devices": ["GPU-1, H200, 580.1"]}, {"packages": {"torch": "2.12"}}, {"executor": "slurm"}, {"settings": {}}],
)
def test_a_change_asks_for_another_try(recorded, status, changed):
    assert state.wants_run(*recorded(status), {**NOW, **changed}, allow_failures=True)


@pytest.mark.parametrize("status", ["unavailable", "failed", "partial", "timeout", "incorrect"])
def test_retry_asks_for_another_try(recorded, status):
    assert state.wants_run(*recorded(status), NOW, retry=True)


@pytest.mark.parametrize("status", ["failed", "partial", "timeout", "incorrect"])
def test_a_failure_is_tried_again_unless_it_is_allowed(recorded, status):
    assert state.wants_run(*recorded(status), NOW)
    assert not state.wants_run(*recorded(status), NOW, allow_failures=True)


def test_unavailable_waits_for_a_change(recorded):
    assert not state.wants_run(*recorded("unavailable"), NOW)


def test_ok_is_final_until_the_settings_change(recorded):
    assert not state.wants_run(*recorded("ok"), {**NOW, "devices": ["another"]}, retry=True)
    assert state.wants_run(*recorded("ok"), {**NOW, "settings": {"cache": "warm"}})


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"type": "point"}\n'])
def test_a_damaged_sidecar_is_made_again(recorded, text):
    sidecar, attempt = recorded("ok")
    sidecar.write_text(text)
    assert state.wants_run(sidecar, attempt, NOW)


def test_a_lost_fingerprint_asks_for_another_try(recorded):
    sidecar, attempt = recorded("unavailable")
    attempt.unlink()
    assert state.wants_run(sidecar, attempt, NOW)


@pytest.mark.parametrize(
    ("kernels", "exclude", "chosen"),
    [([], [], ["a", "b", "c"]), (["c", "a"], [], ["a", "c"]), (["B"], [], ["b"]), ([], ["a", "C"], ["b"])],
)
def test_select(kernels, exclude, chosen):
    assert state.select(MANIFEST, kernels, exclude, "ops.md") == chosen


@pytest.mark.parametrize(("kernels", "exclude"), [(["x"], []), ([], ["x"]), (["a"], ["a"])])
def test_select_refuses(kernels, exclude):
    with pytest.raises(UserError, match="ops.md"):
        state.select(MANIFEST, kernels, exclude, "ops.md")


def test_prune_takes_out_what_the_ops_file_no_longer_has(tmp_path):
    files = {
        "results/specs/gone.json": "{}",
        "results/specs/kept.json": "{}",
        "results/verified/gone.json": "{}",
        "results/attempts/gone.json": "{}",
        "deepseek_kernel_benchmarks/scripts/bench_gone.py": seal("x = 1\n"),
        "deepseek_kernel_benchmarks/scripts/bench_kept.py": seal("x = 1\n"),
        "deepseek_kernel_benchmarks/scripts/bench_utils.py": seal("x = 1\n"),
        "deepseek_kernel_benchmarks/scripts/bench_edited.py": seal("x = 1\n") + "y = 2\n",
        "deepseek_kernel_benchmarks/results/gone.csv": "kernel\n",
        "deepseek_kernel_benchmarks/results/gone.jsonl": "{}\n",
        "deepseek_kernel_benchmarks/results/kept.jsonl": "{}\n",
        "deepseek_kernel_benchmarks/results/notes.csv": "mine\n",
        "deepseek_kernel_benchmarks/results/all_kernels.csv": "kernel\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "manifest.json").write_text(json.dumps({"kernels": [{"kernel": "kept"}]}))
    said = "\n".join(state.prune(tmp_path / "manifest.json", tmp_path))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    gone = {name for name in files if "gone" in name} | {"deepseek_kernel_benchmarks/results/all_kernels.csv"}
    aside = {f"deepseek_kernel_benchmarks/results/removed/gone{end}" for end in (".csv", ".jsonl")}
    assert left == set(files) - gone | aside | {"manifest.json"}
    assert "bench_edited.py" in said
    assert state.prune(tmp_path / "manifest.json", tmp_path) == [line for line in said.splitlines() if "kept" in line]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps({"devices": [{"name": "GB200"}, {"name": "H200"}]}))
    return path


def test_settings_that_name_what_is_there_pass(tmp_path, table):
    ops_file = tmp_path / "model.md"
    ops_file.write_text("")
    for hardware in ("auto", "H200", "h200"):
        state.check_files({"ops_file": str(ops_file), "hardware": hardware}, table)


def test_an_ops_file_that_is_not_there_is_refused_with_the_nearest_name(tmp_path, table):
    (tmp_path / "model.md").write_text("")
    with pytest.raises(UserError, match=r"does not exist.*model\.md"):
        state.check_files({"ops_file": str(tmp_path / "modle.md"), "hardware": "auto"}, table)
    with pytest.raises(UserError, match="is no file"):
        state.check_files({"ops_file": str(tmp_path), "hardware": "auto"}, table)


def test_unknown_hardware_is_refused_with_the_names_there_are(tmp_path, table):
    ops_file = tmp_path / "model.md"
    ops_file.write_text("")
    with pytest.raises(UserError, match="expected one of auto, GB200, H200.*Did you mean H200"):
        state.check_files({"ops_file": str(ops_file), "hardware": "H2000"}, table)
