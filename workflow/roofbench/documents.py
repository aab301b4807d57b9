"""YAML documents with line numbers, and schema errors that a person can act on."""

import codecs
import json
import stat
from functools import lru_cache
from pathlib import Path

import yaml

from .errors import Problems, did_you_mean

SCHEMAS = Path(__file__).parent / "schemas"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


class Document:
    """Data of a YAML file, with the line of every key: line("arguments", 2, "dtype")."""

    def __init__(self, path, data, lines):
        self.path, self.data, self._lines = str(path), data, lines

    def line(self, *keys):
        """1-based line of the key path, or of the deepest part of it that is in the file."""
        for end in range(len(keys), -1, -1):
            if keys[:end] in self._lines:
                return self._lines[keys[:end]]
        return 0

    def place(self, *keys):
        """(file, line) of the key path, for messages."""
        return self.path, self.line(*keys)


def parse_yaml(text, path, problems):
    """A Document from YAML (or JSON) text, or None when it cannot be read.

    Every duplicate key is an error, and so are aliases, which can make a small file large.
    """
    try:
        loader = _LOADER(text)
        try:
            node = loader.get_single_node()
            lines = {}
            if not _positions(node, (), lines, path, problems, set()):
                return None
            data = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        problems.error(path, mark.line + 1 if mark else 0, "yaml", f"this is not valid YAML: {what}")
        return None
    except (ValueError, TypeError, RecursionError) as error:
        problems.error(path, 0, "yaml", f"this is not valid YAML: {type(error).__name__}")
        return None
    return Document(path, data, lines)


def read_text(path, problems, limit=2_000_000):
    """Text of a UTF-8 file, or None with a problem when it is missing, too large, or not text."""
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device has no end
            what = "a directory" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            problems.error(path, 0, "no-file", f"this is {what}, no file")
            return None
        if found.st_size > limit:
            problems.error(path, 0, "too-large", f"the file has {found.st_size} bytes; at most {limit} are read")
            return None
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            problems.error(path, 0, "not-text", "the file is UTF-16", "Save it as UTF-8.")
        elif b"\0" in data:
            problems.error(path, 0, "not-text", f"the file is no text (byte {data.index(0)} is zero)")
        else:
            return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        problems.error(path, 0, "no-file", "there is no such file", did_you_mean(path.name, siblings))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message = f"the file is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}"
        problems.error(path, line, "not-text", message, "Save it as UTF-8.")
    except OSError as error:
        problems.error(path, 0, "unreadable", f"the file cannot be read: {error.strerror or type(error).__name__}")
    return None


def load_yaml(path, problems):
    """A Document from a YAML file, or None with the problems recorded."""
    text = read_text(path, problems)
    return None if text is None else parse_yaml(text, path, problems)


def _positions(node, keys, lines, path, problems, seen):
    """Collect the line of every key; False where a node stands in two places."""
    if node is None:
        return True
    if id(node) in seen:
        line = node.start_mark.line + 1
        problems.error(path, line, "yaml", "what begins here is used again by an alias (*name): write it out")
        return False
    seen.add(id(node))
    lines.setdefault(keys, node.start_mark.line + 1)
    good = True
    if isinstance(node, yaml.MappingNode):
        names = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name in names:
                problems.error(path, key.start_mark.line + 1, "duplicate-key", f"the key {name!r} stands here twice")
            names.add(name)
            lines[(*keys, name)] = key.start_mark.line + 1
            good &= _positions(value, (*keys, name), lines, path, problems, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            good &= _positions(value, (*keys, index), lines, path, problems, seen)
    return good


@lru_cache(maxsize=8)
def _validator(name):
    import jsonschema

    base = jsonschema.Draft202012Validator
    # NaN is neither too small nor too large for any limit.
    checker = base.TYPE_CHECKER.redefine(
        "number", lambda _, value: base.TYPE_CHECKER.is_type(value, "number") and value == value
    )
    schema = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
    return jsonschema.validators.extend(base, type_checker=checker)(schema)


def validate(document, schema, problems, code="schema"):
    """Record every way in which the document departs from the schema (a file name under schemas/)."""
    clean = True
    for error in _validator(schema).iter_errors(document.data):
        clean = False
        _report(document, error, problems, code)
    return clean


def _report(document, error, problems, code):
    keys = tuple(error.absolute_path)
    if error.validator in ("anyOf", "oneOf") and error.context:
        deepest = max(len(e.relative_path) for e in error.context)
        inner = [e for e in error.context if len(e.relative_path) == deepest]
        if deepest or len(inner) == 1:
            return _report(document, inner[0], problems, code)
        wanted = sorted({_wanted(e) for e in inner})
        return _record(document, keys, problems, code, f"expected {' or '.join(wanted)}, found {_show(error.instance)}")
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for name in error.instance:
            if name not in known:
                hint = did_you_mean(name, known, f"Known keys: {', '.join(known)}." if len(known) < 25 else "")
                _record(document, (*keys, name), problems, "unknown-key", f"unknown key {str(name)[:60]!r}", hint, keys)
        return None
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return _record(document, keys, problems, code, f"missing {' and '.join(missing)}")
    if error.validator == "enum":
        hint = did_you_mean(error.instance, error.validator_value)
        message = f"expected {_wanted(error)}, found {_show(error.instance)}"
        return _record(document, keys, problems, code, message, hint)
    if error.validator in ("type", "pattern", "minimum", "maximum", "minItems", "const", "exclusiveMinimum"):
        return _record(document, keys, problems, code, f"expected {_wanted(error)}, found {_show(error.instance)}")
    return _record(document, keys, problems, code, error.message[:200])


def _wanted(error):
    value = error.validator_value
    if "description" in error.schema and error.validator in ("pattern", "type", "minItems"):
        return error.schema["description"]
    if error.validator == "type":
        return " or ".join(_TYPES[t] for t in ([value] if isinstance(value, str) else value))
    if error.validator == "enum":
        return "one of " + ", ".join(map(str, value))
    if error.validator == "minimum":
        return f"at least {value}"
    if error.validator == "exclusiveMinimum":
        return f"more than {value}"
    if error.validator == "maximum":
        return f"at most {value}"
    if error.validator == "minItems":
        return f"at least {value} of them"
    return f"{error.validator} {value}"


def _show(value):
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _record(document, keys, problems, code, message, hint="", shown=None):
    shown = keys if shown is None else shown
    where = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in shown).lstrip(".")
    text = f"{where}: {message}" if where else message
    problems.error(*document.place(*keys), code, text, hint)


def validate_data(data, schema, path):
    """Problems of plain data against a schema."""
    problems = Problems()
    validate(Document(path, data, {}), schema, problems)
    return problems
