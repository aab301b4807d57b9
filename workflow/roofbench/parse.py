"""The whole parse: ops file, catalogue, configuration and the steps of the model in, specs and steps out."""

from dataclasses import dataclass

from .catalogue import load_catalogue
from .documents import read_text
from .errors import Problems
from .join import Specs, build_specs
from .opsfile import parse_ops_file
from .results import steps_or_reason


@dataclass
class Parsed:
    """What a parse gives. `specs` and `steps` are None where the ops file cannot be read; with errors, they lack
    what the errors are about."""

    problems: Problems
    text: str | None = None
    specs: Specs | None = None
    steps: dict | None = None


def parse(config, catalogue_dir, steps_config):
    """Parse the ops file that a Config names. Every problem is recorded, none is raised.

    `catalogue_dir` holds the catalogue's entries, `steps_config` is the path of config/model_steps.yaml.
    """
    parsed = Parsed(Problems())
    problems = parsed.problems
    catalogue = load_catalogue(catalogue_dir, problems)
    parsed.text = read_text(config.ops_file, problems)
    if parsed.text is None:
        return parsed
    ops = parse_ops_file(parsed.text, config.ops_file, problems)
    parsed.specs = build_specs(ops, catalogue, config, problems)
    if not problems.errors:
        changes = {name: value for name, value in config.symbols.items() if name in ops.symbols}
        parsed.steps = steps_or_reason(steps_config, ops, problems, ops.values(Problems(), changes))
    return parsed
