"""Torch's symbolic sizes as dimensions of the IR."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import sympy
import torch

from pjit.frontends.torch.registry import Refused
from pjit.ir import expr
from pjit.ir.expr import Dim

_CALLS: dict[str, Callable[..., Dim]] = {
    "FloorDiv": expr.floordiv,
    "CleanDiv": expr.floordiv,
    "CeilDiv": expr.ceildiv,
    "PythonMod": expr.mod,
    "Mod": expr.mod,
    "ModularIndexing": lambda x, by, size: expr.mod(expr.floordiv(x, by), size),
    "Max": lambda *xs: reduce(expr.maximum, xs),
    "Min": lambda *xs: reduce(expr.minimum, xs),
    "Add": lambda *xs: reduce(lambda a, b: a + b, xs),
    "Mul": lambda *xs: expr.product(xs),
}


def dim_of(size: Any) -> Dim:
    """A size as a dimension.

    Raises:
        Refused: It depends on data, or in a way that dimensions do not have.
    """
    if isinstance(size, torch.SymInt):
        return _convert(size.node.expr)
    return int(size)


def _convert(e: sympy.Expr) -> Dim:
    if isinstance(e, sympy.Integer):
        return int(e)
    if isinstance(e, sympy.Symbol):
        if e.name.startswith(("u", "zuf")):
            raise Refused(f"the size {e} depends on data")
        return expr.sym(e.name)
    if isinstance(e, sympy.Pow) and isinstance(e.exp, sympy.Integer) and e.exp > 0:
        return expr.product([_convert(e.base)] * int(e.exp))
    call = _CALLS.get(type(e).__name__)
    if call is None:
        raise Refused(f"the size {e} is not supported", "give the inputs static sizes")
    return call(*map(_convert, e.args))
