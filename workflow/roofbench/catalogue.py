"""The kernel catalogue: one YAML file for each kernel, checked when it is loaded."""

from functools import cached_property
from pathlib import Path

from . import grammar
from .documents import load_yaml, validate
from .errors import Problems, UserError, did_you_mean
from .grammar import GrammarError

RESERVED = ("T", "B", "S", "L")
"""Dimensions bound at every point: tokens, requests, sequence length, KV length."""


class Entry:
    """One kernel. `data` is the content of its file; the attributes are shorthands for it."""

    def __init__(self, document):
        self.document, self.data = document, document.data
        self.path, self.name = document.path, self.data["name"]
        self.aliases = self.data.get("aliases", [])
        self.sweep = self.data.get("sweep", "tokens")
        self.limits = self.data.get("limits", [])
        self.options = self.data.get("options", {})
        ops = self.data.get("ops", {})
        self.labels = ops.get("labels", {})
        self.same_as = ops.get("same_as", {})
        self.composites = ops.get("composites", {})
        self.declares = ops.get("declares", [])

    def __repr__(self):
        return f"Entry({self.name!r})"

    def __getitem__(self, key):
        return self.data[key]

    def get(self, key, default=None):
        return self.data.get(key, default)

    @property
    def names(self):
        return [self.name, *self.aliases]

    @property
    def sources(self):
        """Sources (as in an ops file's Source column) for which there is a provider."""
        return list(dict.fromkeys(p["source"] for p in self.data["providers"]))

    def chosen_options(self, chosen=None):
        """Option values by name, defaults filled in. Raises UserError for an unknown option or value."""
        chosen = dict(chosen or {})
        for name, value in chosen.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                hint = did_you_mean(name, self.options, f"It has: {known}.")
                raise UserError(f"{self.name} has no option {name}. {hint}")
            if str(value) not in self.options[name]["values"]:
                known = ", ".join(self.options[name]["values"])
                raise UserError(f"option {name} of {self.name} is {value}; it can be {known}")
        return {name: str(chosen.get(name, option["default"])) for name, option in self.options.items()}

    def option_dims(self, options):
        """Kernel dimensions (whole numbers) that the chosen option values bring."""
        dims = {}
        for name, value in options.items():
            dims.update(self.options[name]["values"][value])
        return dims

    def substitute(self, text, options):
        """`text` with "{option}" replaced by the chosen value of that option."""
        for name, value in options.items():
            text = text.replace("{" + name + "}", value)
        return text

    @cached_property
    def dims(self):
        """Names that expressions of the entry may use, in the order in which they are bound."""
        dims = dict.fromkeys(RESERVED)
        for option in self.options.values():
            for value in option["values"].values():
                dims.update(dict.fromkeys(value))
        dims.update(dict.fromkeys(self.data["shapes"].get("symbols", {})))
        for side in ("inputs", "outputs"):
            for tensor in self.data["shapes"].get(side, []):
                for dim in tensor["dims"]:
                    try:
                        dims.update(dict.fromkeys(grammar.free_names(dim)))
                    except GrammarError:
                        continue
        return tuple(dims)

    def line(self, *keys):
        return self.document.line(*keys)


class Catalogue:
    """Entries by name and alias. `broken` are names of files whose mistakes were told: nothing is known of these."""

    def __init__(self, entries, directory, broken=()):
        self.directory, self.broken = str(directory), frozenset(broken)
        self.entries = {entry.name: entry for entry in entries}
        self._by_name = {name: entry for entry in entries for name in entry.names}

    def get(self, name):
        """The entry of this name or alias, or None."""
        return self._by_name.get(name)

    def entry(self, name):
        """The entry of this name or alias. Raises UserError with the nearest spelling."""
        if name not in self._by_name:
            hint = did_you_mean(name, self._by_name, "CONTRIBUTING.md, 'Add a kernel', says how to add it.")
            raise UserError(f"the catalogue {self.directory} has no kernel {name}. {hint}")
        return self._by_name[name]

    def names(self):
        """All names and aliases."""
        return list(self._by_name)

    def __iter__(self):
        return iter(self.entries.values())

    def __len__(self):
        return len(self.entries)

    def __contains__(self, name):
        return name in self._by_name


def load_entry(path, problems=None):
    """One entry. With `problems`, they are recorded there and None may be returned; without, errors are raised."""
    found = Problems() if problems is None else problems
    entry = _load(Path(path), found)
    if problems is None:
        found.raise_errors()
    return entry


def load_catalogue(directory, problems=None):
    """Every *.yaml of a directory. With `problems`, what is wrong is recorded there; without, errors are raised."""
    found = Problems() if problems is None else problems
    directory = Path(directory)
    paths = sorted(directory.glob("*.yaml")) if directory.is_dir() else []
    if not paths:
        found.error(directory, 0, "no-catalogue", "no kernel catalogue: the directory holds no .yaml file")
    loaded = {path: _load(path, found) for path in paths}
    entries = [entry for entry in loaded.values() if entry]
    owner = {entry.name: entry for entry in entries}
    for entry in entries:
        for alias in entry.aliases:
            if owner.setdefault(alias, entry) is not entry:
                message = f"the alias {alias} also belongs to {owner[alias].name}"
                found.error(entry.path, entry.line("aliases"), "catalogue", message)
    stacks = [path.stem for path in sorted(directory.parent.glob("stacks/*.json"))]
    for entry in entries if stacks else ():
        for i, provider in enumerate(entry["providers"]):
            for name in provider["stacks"]:
                if name not in stacks:
                    message = f"providers[{i}].stacks: there is no stack {name}"
                    hint = did_you_mean(name, stacks, f"There are {', '.join(stacks)}.")
                    found.error(entry.path, entry.line("providers", i, "stacks"), "catalogue", message, hint)
    if problems is None:
        found.raise_errors()
    return Catalogue(entries, directory, [path.stem for path, entry in loaded.items() if not entry])


def _load(path, problems):
    document = load_yaml(path, problems)
    if document is None or not validate(document, "kernel.schema.json", problems, "catalogue"):
        return None
    entry = Entry(document)
    if entry.name != path.stem:
        message = f"the name is {entry.name} but the file is called {path.name}"
        problems.error(path, entry.line("name"), "catalogue", message, f"Rename it to {entry.name}.yaml.")
    before = len(problems.errors)
    _check(entry, problems)
    return entry if len(problems.errors) == before else None


def _check(entry, problems):
    """Every expression parses and uses only dimensions that are bound."""
    dims = entry.dims

    def expression(text, keys, names=dims):
        try:
            unknown = [name for name in grammar.free_names(text) if name not in names]
        except GrammarError as error:
            problems.error(entry.path, entry.line(*keys), "catalogue", f"{_path(keys)}: {error}")
            return
        for name in unknown:
            hint = did_you_mean(name, names, f"Bound are: {', '.join(names)}.")
            problems.error(entry.path, entry.line(*keys), "catalogue", f"{_path(keys)}: {name} is not bound", hint)

    shapes = entry.data["shapes"]
    for name, text in shapes.get("symbols", {}).items():
        expression(text, ("shapes", "symbols", name), _Anything())
        if name in RESERVED:
            problems.error(entry.path, entry.line("shapes", "symbols", name), "catalogue", f"{name} is always bound")
    for side in ("inputs", "outputs"):
        for i, tensor in enumerate(shapes.get(side, [])):
            for j, dim in enumerate(tensor["dims"]):
                expression(dim, ("shapes", side, i, "dims", j))
    for name, text in entry.data["columns"].items():
        expression(text, ("columns", name))
    for i, limit in enumerate(entry.limits):
        expression(limit["require"], ("limits", i, "require"))
    costs = [*dims, "active_experts"] if "active_experts" in entry.data else dims
    for name, text in entry.data["cost"].items():
        expression(text, ("cost", name), costs)
    for part in ("arguments", "returns"):
        for i, argument in enumerate(entry.data.get(part, [])):
            for key in ("shape", "strides"):
                for j, text in enumerate(argument.get(key, [])):
                    expression(text, (part, i, key, j), costs)
            if "traffic" in argument:
                expression(argument["traffic"], (part, i, "traffic"), costs)
            value = argument.get("value")
            if isinstance(value, str) and value.startswith("="):
                expression(value[1:], (part, i, "value"), costs)
    for name, option in entry.options.items():
        if option["default"] not in option["values"]:
            message = f"options.{name}: the default {option['default']} is not among its values"
            problems.error(entry.path, entry.line("options", name, "default"), "catalogue", message)
    dtype = entry.data["compute_dtype"]
    if dtype.startswith("{") and dtype[1:-1] not in entry.options:
        problems.error(entry.path, entry.line("compute_dtype"), "catalogue", f"there is no option {dtype[1:-1]}")
    if entry.sweep == "kv" and entry.data["shapes"].get("inputs") == []:
        problems.error(entry.path, entry.line("shapes"), "catalogue", "shapes.inputs: expected at least one tensor")


class _Anything:
    """Names that are only known once an ops file is read."""

    def __contains__(self, name):
        return True

    def __iter__(self):
        return iter(())


def _path(keys):
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).lstrip(".")
