"""The project's configuration: config/config.yaml, possibly with values from a command line."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .documents import Document, load_yaml, validate
from .errors import Problems, UserError

_LISTS_OF_NAMES = ("kernels", "exclude")
_LISTS_OF_SIZES = ("batch_sizes", "seq_lens", "kv_lens")
_SWITCHES = ("overwrite", "retry", "allow_failures")
_MAPPINGS = ("symbols", "options", "timing", "paths")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "")


@dataclass(frozen=True)
class Config:
    """A checked configuration. `kernels` empty means all; `kv_lens` is filled in."""

    ops_file: str = "results/deepseek_nvfp4_ops.md"
    kernels: tuple = ()
    exclude: tuple = ()
    batch_sizes: tuple = (1, 2, 4, 8, 16, 32, 64, 128)
    seq_lens: tuple = (128, 256, 512, 1024, 2048)
    kv_lens: tuple = (128, 256, 512, 1024, 2048)
    symbols: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    hardware: str = "auto"
    timing: dict = field(default_factory=lambda: {"cache": "cold", "routing": "uniform", "point_timeout_s": 120})
    gpus: str | tuple = "all"
    busy_gpus: str = "report"
    overwrite: bool = False
    retry: bool = False
    allow_failures: bool = False
    paths: dict = field(default_factory=dict)
    baseline: str | None = None
    threshold: float = 0.1
    document: Document | None = field(default=None, compare=False)

    def place(self, *keys):
        """(file or option, line) in which a setting is given, for messages."""
        return self.document.place(*keys) if self.document else ("configuration", 0)

    def as_dict(self):
        """Plain data of every setting, in the form of config/config.yaml."""
        names = ["ops_file", *_LISTS_OF_NAMES, *_LISTS_OF_SIZES, *_MAPPINGS, *_SWITCHES]
        names += ["hardware", "gpus", "busy_gpus", "baseline", "threshold"]
        plain = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


class Given(Document):
    """Settings put together from files, of which later ones win, and from elsewhere: `given_by` says where."""

    def __init__(self, data, files, given_by, plain):
        super().__init__(given_by, plain, {})
        self.raw, self.files = data, files

    def place(self, *keys):
        """(file, line) of the file that has the setting as it is, else what gave it."""
        value = _at(self.raw, keys)
        while keys and value is _NOTHING:
            keys = keys[:-1]
            value = _at(self.raw, keys)
        for document in reversed(self.files):
            found = _at(document.data, keys)
            if found == value or repr(found) == repr(value):  # NaN is not equal to itself
                return document.place(*keys)
        return self.path, 0


_NOTHING = object()


def _at(data, keys):
    """What stands at a path of keys, which are texts where a file has numbers; _NOTHING where it ends earlier."""
    for key in keys:
        if isinstance(data, dict):
            data = next((value for name, value in data.items() if str(name) == str(key)), _NOTHING)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            return _NOTHING
    return data


def load_config(path="config/config.yaml", overrides=None, given_by="--set"):
    """Read and check a configuration file. `overrides` (a mapping) replaces keys, nested ones key by key; in messages
    they are those that `given_by` gave.

    Raises UserError that lists every problem.
    """
    document = _file(path)
    return check_config(_merge(document.data, overrides or {}), [document], given_by)


def check_file(path):
    """Raise UserError where a configuration file cannot be read, before anybody else tries."""
    _file(path)


def _file(path):
    """The Document of a configuration file; an empty one is an empty mapping. Raises UserError."""
    problems = Problems()
    document = load_yaml(path, problems)
    problems.raise_errors()
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        raise UserError(f"{path}: the configuration is not a mapping of keys to values")
    return document


def _merge(base, changes):
    merged = dict(base)
    for key, value in changes.items():
        value = _mapping(value) if key in _MAPPINGS else value
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def check_config(data, files=(), given_by="configuration"):
    """Check configuration data, in which values may be strings as typed on a command line.

    `kernels=a,b`, `kernels="[a, b]"`, `batch_sizes=8`, `overwrite=true`, `symbols="{Nh: 16}"` and `symbols=Nh=16`
    are all understood. `files` are the Documents from which the data comes, `given_by` gave the rest. Returns a
    Config; raises UserError that lists every problem with its file and line.
    """
    problems = Problems()
    plain = normalise(data)
    checked = Given(data, files, given_by, plain)
    if not validate(checked, "config.schema.json", problems, "config"):
        problems.raise_errors()
    defaults = Config()
    timing = {**defaults.timing, **(plain.get("timing") or {})}
    values = {name: value for name, value in plain.items() if value is not None and name in Config.__dataclass_fields__}
    for name in (*_LISTS_OF_NAMES, *_LISTS_OF_SIZES):
        if name in values:
            values[name] = tuple(dict.fromkeys(values[name]))
    if not values.get("kv_lens"):
        values["kv_lens"] = values.get("seq_lens", defaults.seq_lens)
    if isinstance(values.get("gpus"), list):
        values["gpus"] = tuple(values["gpus"])
    values["timing"] = timing
    return Config(**values, document=checked)


def normalise(data):
    """Configuration data with command-line spellings turned into plain lists, numbers, switches and mappings."""
    plain = {}
    for key, value in data.items():
        if key in _LISTS_OF_NAMES:
            value = _names(value, all_is_none=key == "kernels")
        elif key in _LISTS_OF_SIZES:
            value = _sizes(value)
        elif key in _SWITCHES:
            value = _switch(value)
        elif key in _MAPPINGS:
            value = _mapping(value)
        elif key == "gpus":
            value = _gpus(value)
        elif key == "threshold":
            value = _scalar(value)
        elif key == "baseline":
            value = value or None
        plain[str(key)] = value
    if isinstance(plain.get("timing"), dict):
        plain["timing"] = {k: _switch(v) if k == "locked_clocks" else _scalar(v) for k, v in plain["timing"].items()}
    if isinstance(plain.get("symbols"), dict):
        plain["symbols"] = {str(k): _scalar(v) for k, v in plain["symbols"].items()}
    if isinstance(plain.get("options"), dict):
        plain["options"] = {str(k): _mapping(v) for k, v in plain["options"].items()}
    return plain


def _listed(value):
    """A list from `a,b`, `[a, b]`, `a b`, one value or a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part for part in value.strip().removeprefix("[").removesuffix("]").replace(",", " ").split() if part]
    return list(value) if isinstance(value, list | tuple) else [value]


def _names(value, all_is_none):
    if isinstance(value, dict):
        return value
    names = [str(part).strip("'\"") if not isinstance(part, dict | list) else part for part in _listed(value)]
    return [] if all_is_none and names == ["all"] else names


def _sizes(value):
    if value is None or isinstance(value, dict):
        return value
    sizes = [_scalar(part) for part in _listed(value)]
    return [int(size) if isinstance(size, float) and size.is_integer() else size for size in sizes]


def _scalar(value):
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _switch(value):
    text = str(value).strip().lower()
    if value is None or text in _FALSE:
        return False
    return True if text in _TRUE else value


def _mapping(value):
    """A mapping from one, from `{a: 1}`, or from `a=1,b=2`."""
    if value is None or value == "":
        return {}
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text.startswith("{") and "=" in text:
        pairs = [part.partition("=") for part in text.replace(",", " ").split()]
        return {key: _scalar(content) for key, _, content in pairs}
    try:
        return yaml.safe_load(text if text.startswith("{") else "{" + text + "}")
    except (yaml.YAMLError, ValueError):
        return value


def _gpus(value):
    if value is None:
        return "all"
    listed = [_scalar(part) for part in _listed(value)]
    return listed[0] if listed and isinstance(listed[0], str) and len(listed) == 1 else listed


def parse_overrides(pairs):
    """A mapping from `key=value` and `key.inner=value` texts of a command line. Raises UserError."""
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"expected key=value, found {pair[:60]!r}")
        *outer, last = key.strip().split(".")
        place = overrides
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UserError(f"{key} is set both as a value and as a mapping")
        place[last] = value.strip()
    return overrides


def config_from_json(text, overrides=None, given_by="--settings"):
    """A Config from JSON text (what a workflow has merged already). Raises UserError."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"the configuration is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError("the configuration is not a mapping of keys to values")
    return check_config(_merge(data, overrides or {}), given_by=given_by)


def config_of_workflow(data, paths):
    """A Config from what a workflow has merged of these files and of `--config`. Raises UserError."""
    return check_config(data, [_file(path) for path in dict.fromkeys(paths) if Path(path).is_file()], "--config")


def settings_of(config):
    """A Config as plain data: every key of config/config.yaml, `parse` (the keys that decide the specs) and `run`
    (those that decide how benchmarks run)."""
    settings = config.as_dict()
    parse_keys = ("ops_file", "batch_sizes", "seq_lens", "kv_lens", "symbols", "options")
    timing = dict(settings["timing"])
    settings["parse"] = {**{key: settings[key] for key in parse_keys}, "timing": {"routing": timing.pop("routing")}}
    settings["run"] = {"hardware": settings["hardware"], "timing": timing, "gpus": settings["gpus"]}
    return settings
