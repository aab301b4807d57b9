"""Files that a person wrote or edited are verified and kept."""

import pytest

pytestmark = pytest.mark.slow

MARK = "# a person was here\n"
BUNDLE = "deepseek_kernel_benchmarks"


@pytest.fixture(autouse=True, scope="module")
def built(project):
    """Scripts made and verified once."""
    project.run("verify")


def test_an_edited_script_is_verified_again_and_kept(project):
    project.append(project.script("rmsnorm"), MARK)
    assert project.run("verify").jobs == {"verify_script": 1}
    assert project.run("verify").jobs == {}
    assert project.script("rmsnorm").read_text().endswith(MARK)


def test_it_is_kept_when_its_spec_changes_and_verified_against_the_new_one(project):
    project.write(Lq=1024)
    run = project.run("verify", status=1)
    assert run.jobs == {"parse_ops": 1, "index_scripts": 1, "verify_bundle": 1, "render_script": 1}
    assert "kept" in run.output
    assert project.script("rmsnorm").read_text().endswith(MARK)
    assert not project.file("results/verified/rmsnorm.json").exists()


def test_overwrite_replaces_it_once(project):
    assert project.run("verify", "--config", "overwrite=true").jobs == {"render_script": 1, "verify_script": 1}
    assert MARK not in project.script("rmsnorm").read_text()
    assert project.run("verify", "--config", "overwrite=true").jobs == {}
    assert project.run("verify").jobs == {}


def test_a_script_written_from_nothing_is_kept(project):
    text = project.script("rmsnorm").read_text() + MARK
    project.script("rmsnorm").unlink()
    project.run("generate")
    project.script("rmsnorm").write_text(text)
    project.run("generate", "--forcerun", "render_script")
    assert project.script("rmsnorm").read_text() == text


@pytest.mark.parametrize("name", ["run_all_benchmarks.py", "plot_roofline.py", "scripts/bench_utils.py"])
def test_edited_files_of_the_bundle_are_kept(project, name):
    project.append(f"{BUNDLE}/{name}", MARK)
    project.append(f"workflow/bundle/{name}", "# upstream has changed\n")
    assert project.run("verify").jobs["verify_bundle"] == 1
    assert project.file(f"{BUNDLE}/{name}").read_text().endswith(MARK)
    project.run("verify", "--config", "overwrite=true")
    assert "# upstream has changed" in project.file(f"{BUNDLE}/{name}").read_text()
    assert MARK not in project.file(f"{BUNDLE}/{name}").read_text()


def test_the_edited_script_of_a_removed_kernel_stays(project):
    project.append(project.script("silu_and_mul"), MARK)
    project.write(("rmsnorm",), Lq=1024)
    assert "kept" in project.run("generate").output
    assert project.script("silu_and_mul").exists()


def test_an_edited_copy_of_data_is_set_aside_and_made_again(project):
    copy = project.file(f"{BUNDLE}/scripts/benchlib/hardware.json")
    text = copy.read_text()
    copy.write_text(text.replace("H200", "H201"))
    run = project.run("generate")
    assert run.jobs["copy_library"] == 1 and "edit config/hardware.json" in run.output
    assert copy.read_text() == text
    assert "H201" in copy.with_name("hardware.json.edited").read_text()
    assert project.run("generate").jobs == {}
    copy.write_text(text.replace("H200", "H202"))
    project.run("generate")
    assert "H201" in copy.with_name("hardware.json.edited").read_text()
    assert "H202" in copy.with_name("hardware.json.edited-2").read_text()
