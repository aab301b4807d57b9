"""From results to decisions: the targets of the workflow, on results that are made up."""

import csv
import json
import shutil
import sys

import pytest
from project import ROOT

from roofbench import state
from roofbench.errors import UserError

sys.path.insert(0, str(ROOT / "tests" / "results"))
import browser  # noqa: E402
import synthetic  # noqa: E402

RESULTS = "deepseek_kernel_benchmarks/results"
LIBRARY = {"copy_library": 1, "copy_tools": 1}


def measured(folder, **options):
    """Results of one kernel of the project's ops file."""
    listed = [p for p in synthetic.points() if (p["kernel"], p["op"]) == ("rmsnorm", "q_a_layernorm")]
    synthetic.write_results(folder, listed, **options)


@pytest.fixture(scope="module")
def results(project):
    measured(project.file(RESULTS))
    measured(project.file("before"))
    return project


def test_a_comparison_needs_a_baseline(results):
    assert "--config baseline=PATH" in results.run("compare", status=1).output


def test_what_can_be_compared(tmp_path):
    (tmp_path / "rmsnorm.csv").write_text("")
    assert state.comparable(tmp_path, tmp_path) == tmp_path
    for baseline, folder, message in [
        (None, tmp_path, "--config baseline=PATH"),
        ("nowhere", tmp_path, "baseline: nowhere: there is no such file or directory"),
        (tmp_path, tmp_path / "empty", "there are no results to compare"),
    ]:
        with pytest.raises(UserError, match=message):
            state.comparable(baseline, folder)


def test_a_comparison_runs_no_benchmark_and_writes_a_table_and_pictures(results):
    jobs = results.run("compare", "--config", "baseline=before").jobs
    assert jobs.items() <= {**LIBRARY, "compare": 1}.items() and jobs["compare"] == 1
    for suffix in ("md", "csv", "png", "svg"):
        assert results.file(f"{RESULTS}/comparison.{suffix}").stat().st_size


def test_a_regression_fails_unless_the_threshold_is_higher(results):
    measured(results.file("faster"), speed=1.25)
    run = results.run("compare", "--config", "baseline=faster", status=1)
    assert "1.25 times the baseline" in run.output
    again = results.run("compare", "--config", "baseline=faster", "threshold=0.3")
    assert again.jobs == {"compare": 1}


def test_peaks_end_well_without_a_gpu(results):
    run = results.run("peaks", CUDA_VISIBLE_DEVICES="")
    assert run.jobs == {"peaks": 1} and "unavailable" in run.output


@pytest.mark.slow
def test_all_of_a_small_ops_file_with_its_report(project):
    """Any ops file: this one has no number of layers at first, and its kernels cannot be measured here."""
    shutil.rmtree(project.file(RESULTS), ignore_errors=True)
    project.write(("rmsnorm",))
    jobs = project.run("all").jobs
    assert jobs["plot"] == jobs["model_time"] == jobs["copy_steps"] == jobs["verify_bundle"] == 1
    assert "has no symbol 'L'" in project.file(f"{RESULTS}/model_time.md").read_text()
    page = project.file(f"{RESULTS}/roofline.html").read_text()
    assert "rmsnorm" in page and "<script src=" not in page
    project.run("--report", "report.html", "all")
    report = project.file("report.html").read_text()
    for part in ("Roofline", "Model time", "Kernels", "headroom.csv", "Colour is the kernel"):
        assert part in report, part


@pytest.mark.slow
def test_every_category_of_the_report_opens(project, tmp_path):
    """Of the report that the test above made."""
    if browser.BINARY is None:
        pytest.skip("no chromium: apt-get install chromium")
    expected = {
        "Kernels": ["Every measured point (CSV)", "Summary (HTML)"],
        "Roofline": ["Roofline (PNG)", "Roofline (SVG)"],
        "Model time": ["Headroom (CSV)", "What to fix first, and steps (HTML)"],
    }
    # In the menu; the text beside it has the names of the categories in bold, and may be there first.
    leaf = (
        "[...document.querySelectorAll(':not(strong)')].find(e => !e.children.length && e.textContent.trim() === {!r})"
    )
    with browser.Browser(tmp_path) as tab:
        for category, titles in expected.items():
            tab.call("Page.navigate", url="about:blank")
            tab.wait("location.href === 'about:blank'")
            tab.errors = []
            tab.call("Page.navigate", url=project.file("report.html").resolve().as_uri())
            tab.wait(f"document.readyState === 'complete' && !!{leaf.format(category)}")
            # By its own handler: the menu still moves while the page is drawn, and the mouse would miss.
            tab.ask(f"{leaf.format(category)}.click()")
            for title in titles:
                tab.wait(f"!!{leaf.format(title)}")
            shown = titles[-1]
            tab.ask(f"{leaf.format(shown)}.closest('tr').querySelector('a').click()")
            if shown.endswith("(HTML)"):
                # A page inside of another one is blank where its address is too long for the browser.
                tab.wait("(document.querySelector('iframe') || {}).src")
                assert tab.ask("document.querySelector('iframe').src.length") < 2 * 2**20
            else:
                tab.wait(
                    "[...document.querySelectorAll('img')].some(i => i.src.startsWith('data:') && i.naturalWidth > 500)"
                )
            assert tab.errors == []


@pytest.mark.slow
def test_the_steps_of_a_model_and_the_choice_of_paths(project):
    project.write(("rmsnorm",), L=61)
    jobs = project.run("all").jobs
    added_up = {"aggregate": 1, "plot": 1, "model_time": 1, "check_status": 1}
    assert jobs == {"parse_ops": 1, "copy_steps": 1, **added_up}
    steps = json.loads(project.file("deepseek_kernel_benchmarks/scripts/benchlib/model_steps.json").read_text())
    assert steps["layers"] == 61 and {step["name"] for step in steps["steps"]} == {"decode", "prefill"}
    assert "None of its 1 ops is measured." in project.file(f"{RESULTS}/model_time.md").read_text()
    lines = list(csv.DictReader(project.file(f"{RESULTS}/model_time.csv").open()))
    assert lines and {(line["ops"], line["complete"]) for line in lines} == {("1", "no")}
    chosen = ["--config", "paths=q_a_layernorm=fastest"]
    assert project.run("all", *chosen).jobs == added_up
    assert project.run("all", *chosen).jobs == {}
    output = project.run("all", "--config", "paths=q_layernorm=fastest", status=1).output
    assert "paths: no step of the model has the op q_layernorm. Did you mean q_a_layernorm?" in output
    assert "Traceback" not in output
