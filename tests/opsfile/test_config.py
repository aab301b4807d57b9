"""The configuration: the shipped file, spellings of a command line, and mistakes."""

import json

import pytest
import yaml
from opsfile_helpers import ROOT

from roofbench.config import (
    Config,
    check_config,
    config_from_json,
    config_of_workflow,
    load_config,
    parse_overrides,
    settings_of,
)
from roofbench.errors import UserError

SHIPPED = ROOT / "config" / "config.yaml"


def test_the_shipped_file_holds_the_defaults():
    assert load_config(SHIPPED).as_dict() == Config().as_dict()
    assert set(yaml.safe_load(SHIPPED.read_text())) == set(Config().as_dict())


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("kernels", "rmsnorm", ("rmsnorm",)),
        ("kernels", "a,b", ("a", "b")),
        ("kernels", "[a, b]", ("a", "b")),
        ("kernels", ["a", "b", "a"], ("a", "b")),
        ("kernels", "all", ()),
        ("kernels", None, ()),
        ("exclude", "", ()),
        ("exclude", "all", ("all",)),
        ("batch_sizes", 8, (8,)),
        ("batch_sizes", "1,2", (1, 2)),
        ("batch_sizes", ["1e3", 8.0], (1000, 8)),
        ("seq_lens", [128, "256"], (128, 256)),
        ("kv_lens", None, (128, 256, 512, 1024, 2048)),
        ("symbols", "{Nh: 16}", {"Nh": 16}),
        ("symbols", "Nh=16,Nkv=16", {"Nh": 16, "Nkv": 16}),
        ("symbols", {"Nh": "16"}, {"Nh": 16}),
        ("symbols", None, {}),
        ("options", "{a: {kv_dtype: bf16}}", {"a": {"kv_dtype": "bf16"}}),
        ("overwrite", "true", True),
        ("overwrite", "False", False),
        ("retry", True, True),
        ("allow_failures", 1, True),
        ("gpus", "0,2", (0, 2)),
        ("gpus", 0, (0,)),
        ("gpus", "all", "all"),
        ("gpus", None, "all"),
        ("paths", "{experts: cutlass}", {"experts": "cutlass"}),
        ("paths", "experts=cutlass,*=fastest", {"experts": "cutlass", "*": "fastest"}),
        ("paths", None, {}),
        ("baseline", "yesterday/results", "yesterday/results"),
        ("baseline", "", None),
        ("threshold", "0.05", 0.05),
    ],
)
def test_spellings(key, written, value):
    assert getattr(check_config({key: written}), key) == value


def test_kv_lens_are_the_sequence_lengths_unless_given():
    assert check_config({"seq_lens": [7]}).kv_lens == (7,)
    assert check_config({"seq_lens": [7], "kv_lens": 9}).kv_lens == (9,)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ({"kernls": "a"}, "Did you mean kernels?"),
        ({"timing": {"cach": "warm"}}, "Did you mean cache?"),
        ({"timing": {"cache": "wram"}}, "Did you mean warm?"),
        ({"timing": {"point_timeout_s": 0}}, "more than 0"),
        ({"batch_sizes": [0]}, "batch_sizes[0]: expected at least 1, found 0"),
        ({"batch_sizes": "1,x"}, 'batch_sizes[1]: expected a whole number, found "x"'),
        ({"batch_sizes": []}, "at least 1"),
        ({"seq_lens": 1.5}, "a whole number"),
        ({"overwrite": "maybe"}, "true or false"),
        ({"kernels": "../x"}, "a kernel name"),
        ({"kernels": {"a": 1}}, "a list"),
        ({"symbols": {"Nh": "many"}}, "a number"),
        ({"symbols": {"Nh": -1}}, "more than 0"),
        ({"symbols": "what"}, "symbols"),
        ({"gpus": "some"}, "gpus"),
        ({"gpus": [-1]}, "at least 0"),
        ({"options": {"a": 3}}, "a mapping"),
        ({"ops_file": ""}, "a path"),
        ({"paths": "experts=3"}, "the name of a path"),
        ({"paths": ["experts"]}, "a mapping"),
        ({"baseline": ["a", "b"]}, "a path"),
        ({"threshold": "10%"}, "a number"),
        ({"threshold": -1}, "at least 0"),
        ({"threshold": float("nan")}, "threshold: expected a number, found NaN"),
        ({"timing": {"point_timeout_s": "nan"}}, "timing.point_timeout_s: expected a number, found NaN"),
        ({1: 2}, "unknown key '1'"),
    ],
)
def test_mistakes(data, part):
    with pytest.raises(UserError) as error:
        check_config(data)
    assert part in str(error.value)


def test_mistakes_in_a_file_have_lines(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# first\nkernels: []\nbatch_sizes: [1, 0]\nretryy: true\n")
    with pytest.raises(UserError) as error:
        load_config(path)
    assert f"{path}:3: error: batch_sizes[1]" in str(error.value)
    assert f"{path}:4: error: unknown key 'retryy'" in str(error.value)
    path.write_text("batch_sizes: 0\ntiming: {cache: warm, routing: unifrom}\n")
    with pytest.raises(UserError) as error:
        load_config(path, {"seq_lens": 0, "timing": {"cache": "wram"}, "retryy": None})
    assert f"{path}:1: error: batch_sizes[0]" in str(error.value)
    assert f"{path}:2: error: timing.routing" in str(error.value)
    for part in ("seq_lens[0]", "timing.cache", "unknown key 'retryy'"):
        assert f"--set: error: {part}" in str(error.value)


def test_mistakes_of_a_workflow_name_the_file_or_the_option(tmp_path):
    base, more = tmp_path / "base.yaml", tmp_path / "more.yaml"
    base.write_text("kernels: []\nbatch_sizes: [1]\nsymbols: {Nh: 1}\n")
    more.write_text("seq_lens: [128]\nbatch_sizes: [0]\n")
    with pytest.raises(UserError) as error:
        config_of_workflow({"batch_sizes": [0], "seq_lens": "x", "symbols": {"Nh": 1}}, [base, more])
    assert f"{more}:2: error: batch_sizes[0]" in str(error.value)
    assert "--config: error: seq_lens[0]" in str(error.value)
    base.write_text("kernels: []\nkernels: [a]\n")
    with pytest.raises(UserError, match="base.yaml:2: error: the key 'kernels' stands here twice"):
        config_of_workflow({"kernels": ["a"]}, [base])


@pytest.mark.parametrize("text", ["[]", "a", "a: [", "a: 1\na: 2", "\x00", "gpus: &a [0]\nkv_lens: *a"])
def test_broken_files(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        load_config(path)
    with pytest.raises(UserError):
        load_config(tmp_path / "none.yaml")


def test_an_empty_file_means_the_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# nothing\n")
    assert load_config(path).as_dict() == Config().as_dict()


def test_overrides_merge_key_by_key():
    changes = parse_overrides(["timing.cache=warm", "symbols.Nh=16", "kernels=a,b"])
    config = load_config(SHIPPED, changes)
    assert config.timing == {"cache": "warm", "routing": "uniform", "point_timeout_s": 120}
    assert (config.symbols, config.kernels) == ({"Nh": 16}, ("a", "b"))
    for bad in (["x"], ["a=1", "a.b=2"]):
        with pytest.raises(UserError):
            parse_overrides(bad)


def test_settings_for_the_workflow():
    given = {"kernels": "rmsnorm", "symbols": "Nh=16", "timing": {"cache": "warm", "routing": "balanced"}}
    settings = settings_of(config_of_workflow(given, [SHIPPED]))
    assert settings["parse"]["symbols"] == {"Nh": 16} and settings["parse"]["timing"] == {"routing": "balanced"}
    assert settings["run"]["timing"] == {"cache": "warm", "point_timeout_s": 120}
    assert "kernels" not in settings["parse"] and json.loads(json.dumps(settings)) == settings
    config = config_from_json(json.dumps(settings["parse"]))
    assert config.symbols == {"Nh": 16} and config.timing["routing"] == "balanced"
    for bad in ("[]", "{", "3"):
        with pytest.raises(UserError):
            config_from_json(bad)
