"""Ops files: Markdown tables of the operators and kernels of a model.

`read_ops_file` gives an OpsFile and records every problem of the file with its line.
"""

from .cells import CellError, OpName, Shapes, Tensor, Term, parse_shapes
from .model import OpRow, OpsFile, SummaryRow, Symbol, parse_ops_file, read_ops_file

__all__ = [
    "CellError",
    "OpName",
    "OpRow",
    "OpsFile",
    "Shapes",
    "SummaryRow",
    "Symbol",
    "Tensor",
    "Term",
    "parse_ops_file",
    "parse_shapes",
    "read_ops_file",
]
