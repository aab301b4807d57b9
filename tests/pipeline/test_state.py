"""What is worth another try, and what is taken away, without Snakemake."""

import json
import os

import pytest
from check_status import account
from run_all_benchmarks import choose

from roofbench import state
from roofbench.errors import UserError
from roofbench.generated import seal

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


MEASURED = "deepseek_kernel_benchmarks/results"


@pytest.fixture
def made(tmp_path):
    """A project's files of the kernels gone, edited and kept, under tmp_path."""
    files = {
        "results/specs/gone.json": "{}",
        "results/specs/kept.json": "{}",
        "results/verified/gone.json": "{}",
        "results/attempts/gone.json": "{}",
        "results/status.ok": "",
        "deepseek_kernel_benchmarks/scripts/bench_gone.py": seal("x = 1\n"),
        "deepseek_kernel_benchmarks/scripts/bench_kept.py": seal("x = 1\n"),
        "deepseek_kernel_benchmarks/scripts/bench_utils.py": seal("x = 1\n"),
        "deepseek_kernel_benchmarks/scripts/bench_edited.py": seal("x = 1\n") + "y = 2\n",
        f"{MEASURED}/gone.csv": "kernel\n",
        f"{MEASURED}/gone.jsonl": "{}\n",
        f"{MEASURED}/kept.jsonl": "{}\n",
        f"{MEASURED}/notes.csv": "mine\n",
        f"{MEASURED}/all_kernels.csv": "kernel\n",
        f"{MEASURED}/roofline.png": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return set(files)


def prune(folder, *taken_out):
    """What prune says where the ops file has `kept` alone, and the files that are left."""
    manifest = {"ops_file": "ops.md", "kernels": [{"kernel": "kept"}], "taken_out": taken_out}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    said = state.prune(folder / "manifest.json", folder)
    (folder / "manifest.json").unlink()
    return said, {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_prune_takes_out_what_the_ops_file_no_longer_has(tmp_path, made):
    said, left = prune(tmp_path, "gone")
    derived = {f"{MEASURED}/all_kernels.csv", f"{MEASURED}/roofline.png", "results/status.ok"}
    aside = {f"{MEASURED}/removed/gone{end}" for end in (".csv", ".jsonl")}
    assert left == made - {name for name in made if "gone" in name} - derived | aside
    assert "bench_edited.py" in "\n".join(said)
    assert prune(tmp_path, "gone")[0] == [line for line in said if "kept" in line]


def test_prune_leaves_the_results_of_another_ops_file(tmp_path, made):
    said, left = prune(tmp_path)
    assert {name for name in left if name.startswith(MEASURED)} == {n for n in made if n.startswith(MEASURED)}
    assert said[-1] == f"kept in {MEASURED}, not in ops.md (of another ops file?): gone"


def test_results_set_aside_earlier_are_never_replaced(tmp_path, made):
    (tmp_path / MEASURED / "removed").mkdir()
    (tmp_path / MEASURED / "removed" / "gone.csv").write_text("earlier\n")
    _, left = prune(tmp_path, "gone")
    assert (tmp_path / MEASURED / "removed" / "gone.csv").read_text() == "earlier\n"
    assert {f"{MEASURED}/removed/gone-2.csv", f"{MEASURED}/removed/gone-2.jsonl"} <= left


def test_a_failed_job_is_explained_by_its_log(tmp_path):
    log = tmp_path / "job.log"
    log.write_text("a.py:3: wrong\n    found     1\n    expected  2\nb.py:4: too\na.py: 2 findings\n")
    assert state.explain("verify a", log, first=True)[1:] == [
        "  a.py:3: wrong",
        "      found     1",
        "      expected  2",
    ]
    assert state.explain("plot", log, first=False) == [f"plot failed: see {log}", "  a.py: 2 findings"]
    assert state.explain("plot", tmp_path / "none.log", first=False) == [f"plot failed: see {tmp_path / 'none.log'}"]
    assert state.explain("plot", None, first=False) == ["plot failed"]


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
    with pytest.raises(UserError, match="is a directory"):
        state.check_files({"ops_file": str(tmp_path), "hardware": "auto"}, table)


def test_unknown_hardware_is_refused_with_the_names_there_are(tmp_path, table):
    ops_file = tmp_path / "model.md"
    ops_file.write_text("")
    with pytest.raises(UserError, match="expected one of auto, GB200, H200.*Did you mean H200"):
        state.check_files({"ops_file": str(ops_file), "hardware": "H2000"}, table)


def test_the_account_of_a_run_says_what_went_wrong_last():
    ok, cpu = {"status": "ok"}, {"status": "unavailable", "reason": "no GPU"}
    assert account({"a": cpu, "b": cpu}) == ["nothing could be measured on this machine:", "  2 kernels: no GPU"]
    assert account({"a": ok}) == ["1 of 1 kernel measured"]
    wrong = {"status": "incorrect", "reason": "NaN"}
    assert account({"a": wrong, "b": ok, "c": cpu, "d": {}, "e": {"status": "failed"}}) == [
        "1 of 5 kernels measured",
        "not possible on this machine:",
        "  1 kernel: no GPU",
        "2 of 5 kernels not measured as they should have been:",
        "  a: incorrect: NaN",
        "  e: failed: no reason recorded",
    ]


def test_a_kernel_that_is_not_there_is_answered_with_the_nearest_ones():
    known = [{"kernel": name} for name in ("rmsnorm", "fused_add_rmsnorm", "bmm_fp8")]
    assert choose(known, ["bmm_fp8,rmsnorm"]) == [known[0], known[2]] and choose(known, None) == known
    for wrong, hint in [
        ("rmsnrom", "did you mean rmsnorm?"),
        ("FP8", "did you mean bmm_fp8?"),
        ("qzx", "there are rms"),
    ]:
        with pytest.raises(ValueError, match=hint):
            choose(known, [wrong])


def test_an_edited_copy_is_one_that_was_changed_after_its_source(tmp_path):
    source, copy = tmp_path / "source.json", tmp_path / "copy.json"
    source.write_text("{}")
    assert not state.is_edited_copy(copy, source)
    copy.write_text("{}")
    assert not state.is_edited_copy(copy, source)
    copy.write_text('{"a": 1}')
    assert state.is_edited_copy(copy, source)
    os.utime(source, (9e9, 9e9))
    assert not state.is_edited_copy(copy, source)


def test_a_kernel_without_one_of_its_files_is_told_which(tmp_path):
    for pattern in state.PARTS.values():
        path = tmp_path / pattern.format("rmsnorm")
        path.parent.mkdir(parents=True)
        path.write_text("")
    state.check_parts([{"catalogue": "rmsnorm"}], tmp_path)
    (tmp_path / state.PARTS["contract"].format("rmsnorm")).rename(tmp_path / state.PARTS["contract"].format("rmsnrm"))
    with pytest.raises(UserError, match=r"contracts/rmsnorm\.py: the contract of rmsnorm is missing.*rmsnrm\.py"):
        state.check_parts([{"catalogue": "rmsnorm"}], tmp_path)
