"""Building IR: inserts operations at a point, infers their types, gives them a location."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pjit.ir.core import Block, Loc, Module, Op, Value
from pjit.ir.errors import ConstraintError, IRError
from pjit.ir.opdef import REGISTRY, complete_attrs, infer_types
from pjit.ir.types import Type


class Builder:
    """Appends operations to a block, or inserts them before an operation.

    ``b(Add, x, y)`` builds an operation and returns its result (a tuple when there are several).
    ``loc`` is the location of everything built; set it, or use ``with b.at(loc)``.
    """

    def __init__(self, block: Block, loc: Loc, module: Module, before: Op | None = None) -> None:
        self.block, self.loc, self.module, self.before = block, loc, module, before

    @staticmethod
    def before_op(op: Op, module: Module) -> Builder:
        """A builder that inserts before an operation, with its location."""
        assert op.parent is not None
        return Builder(op.parent, op.loc, module, op)

    @contextmanager
    def at(self, loc: Loc) -> Iterator[None]:
        """Uses another location for a while."""
        saved, self.loc = self.loc, loc
        try:
            yield
        finally:
            self.loc = saved

    def __call__(self, cls: type[Op] | str, *operands: Value, **attrs: Any) -> Any:
        """Builds an operation; returns its result, a tuple of several, or None.

        Raises:
            ConstraintError: A constraint of the operator does not hold; ``where`` is the location.
        """
        op = self.build(cls, operands, attrs)
        return op.results[0] if len(op.results) == 1 else (op.results or None)

    def build(
        self,
        cls: type[Op] | str,
        operands: Iterable[Value],
        attrs: dict[str, Any],
        regions: Iterable[Block] = (),
        types: Iterable[Type] | None = None,
    ) -> Op:
        """Builds and inserts an operation; with ``types`` nothing is inferred."""
        if isinstance(cls, str):
            if cls not in REGISTRY:
                raise IRError(f"no operator is called {cls!r}", where=str(self.loc))
            cls = REGISTRY[cls]
        operands = tuple(operands)
        try:
            full = complete_attrs(cls, attrs)
            inferred = tuple(types) if types is not None else infer_types(cls, operands, full)
        except ConstraintError as e:
            if e.where is not None:
                raise
            raise ConstraintError(
                f"{cls.op_name}: {e.what}",
                where=str(self.loc),
                expected=e.expected,
                got=e.got if e.got is not None else ", ".join(str(v.type) for v in operands),
                remedy=e.remedy,
            ) from None
        op = cls(operands, full, inferred, self.loc, regions)
        if self.before is None:
            return self.block.append(op)
        return self.block.insert_before(self.before, op)

    def constant(self, value: Any, dtype: Any = None, name: str = "c") -> Value:
        """A constant tensor; ``dtype`` is a DType or anything NumPy takes."""
        from pjit.ir.ops.basic import Const

        array = np.asarray(value, getattr(dtype, "numpy", dtype))
        return Const.of(self, array, name)
