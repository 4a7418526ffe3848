"""The language of the compiler: types, operations, their text, their checks and their meaning.

The operators are in ``pjit.ir.ops``, the kernel level in ``pjit.ir.loops``.
"""

from __future__ import annotations

from pjit.ir.builder import Builder
from pjit.ir.core import Block, Function, Loc, Module, Op, Value
from pjit.ir.errors import (
    ConstraintError,
    IRError,
    OpDefError,
    ParseError,
    PassError,
    PjitError,
    VerifyError,
)
from pjit.ir.expr import Dim, Expr, sym
from pjit.ir.interp import interpret, interpret_kernel
from pjit.ir.text import parse_module, print_function, print_module
from pjit.ir.types import DType, TensorType, dtype, tensor
from pjit.ir.verify import obligations, verify

__all__ = [
    "Block",
    "Builder",
    "ConstraintError",
    "DType",
    "Dim",
    "Expr",
    "Function",
    "IRError",
    "Loc",
    "Module",
    "Op",
    "OpDefError",
    "ParseError",
    "PassError",
    "PjitError",
    "TensorType",
    "Value",
    "VerifyError",
    "dtype",
    "interpret",
    "interpret_kernel",
    "obligations",
    "parse_module",
    "print_function",
    "print_module",
    "sym",
    "tensor",
    "verify",
]
