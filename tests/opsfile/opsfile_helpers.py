"""Parsing of ops files in tests: text in, specs and problems out."""

from functools import lru_cache
from pathlib import Path

from roofbench.catalogue import load_catalogue
from roofbench.config import check_config
from roofbench.errors import Problems
from roofbench.join import build_specs
from roofbench.opsfile import parse_ops_file

ROOT = Path(__file__).resolve().parents[2]
LOOKALIKE = ROOT / "tests" / "fixtures" / "lookalike_ops.md"
OWN = ROOT / "results" / "deepseek_nvfp4_ops.md"


@lru_cache
def catalogue():
    return load_catalogue(ROOT / "config" / "kernels")


@lru_cache
def lookalike():
    return LOOKALIKE.read_text()


def parse(text, **settings):
    """(specs by kernel, problems) of an ops file's text with the real catalogue."""
    problems = Problems()
    result = build_specs(parse_ops_file(text, "ops.md", problems), catalogue(), check_config(settings), problems)
    return result.specs, problems


def line_of(text, part):
    """1-based line on which a part of the text stands first."""
    return text[: text.index(part)].count("\n") + 1


# The smallest file without problems; tests change one thing in it.
SMALL = """\
# Small

## Model Configuration

| Parameter | Value | Symbol |
|-----------|-------|--------|
| `hidden_size` | 7168 | H |
| `q_lora_rank` | 1536 | Lq |
| `half` | - | Hh = H / 2 |
| `dtype` | bfloat16 | - |

## Prefill Phase

| Op | Input Shape | Output Shape | Kernel |
|----|-------------|--------------|--------|
| `self.input_layernorm()` | [B*S, H] = [B*S, 7168] | same | `rmsnorm` |

## Decode Phase

| Op | Input Shape | Output Shape | Kernel |
|----|-------------|--------------|--------|
| `self.input_layernorm()` | [B, H] | [B, H] | `rmsnorm` |
| `self.q_a_layernorm()` | x: [B, Lq] | y: [B, Lq] | `rmsnorm` |
| `self.lookup()` | [B] | [B, H] | embedding lookup |

## Kernel Summary

| Kernel | Source | Ops Using It |
|--------|--------|--------------|
| `rmsnorm` | sgl-kernel | input_layernorm, q_a_layernorm |
"""
