"""Rewriting of blocks: visits each operation, replaces it by what the visitor builds, drops what
becomes unused.

A sweep goes through a block once, in order, and makes a new list of operations, so a replacement
costs no search for its place. Built operations are visited too. Sweeps repeat until one changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pjit.ir.builder import Builder
from pjit.ir.core import Block, Module, Op, Value
from pjit.ir.errors import IRError
from pjit.ir.verify import agree

Visit = Callable[[Op, Builder], "Value | Sequence[Value] | None"]


def removable(op: Op) -> bool:
    """Whether an operation may go when its results are unused."""
    if op.terminator or not op.pure:  # type: ignore[attr-defined]
        return False
    return all(inner.terminator or removable(inner) for r in op.regions for inner in r.ops)


class _Sweeper:
    def __init__(self, module: Module, visit: Visit, what: str) -> None:
        self.module, self.visit, self.what = module, visit, what
        self.dead: set[Op] = set()
        self.changed = False
        size = sum(1 for f in module.functions.values() for _ in f.walk())
        self.fuel = 1000 + 50 * size

    def sweep(self) -> bool:
        """Visits all blocks once; returns whether anything changed."""
        self.changed = False
        for function in self.module.functions.values():
            self._block(function.body)
        self.dead.clear()
        return self.changed

    def _block(self, block: Block) -> None:
        out: list[Op] = []
        pending = block.ops[::-1]
        scratch = Block()
        b = Builder(scratch, pending[0].loc, self.module) if pending else None
        while pending:
            op = pending.pop()
            assert b is not None
            if op in self.dead:
                continue
            if not any(r.uses for r in op.results) and removable(op):
                self._kill(op)
                continue
            for region in op.regions:
                self._block(region)
            b.loc = op.loc
            new = self.visit(op, b)
            if new is None:
                assert not scratch.ops, f"{self.what} built operations and then kept {op}"
                op.parent = block
                out.append(op)
                continue
            self._replace(op, (new,) if isinstance(new, Value) else tuple(new))
            pending += scratch.ops[::-1]
            scratch.ops = []
        block.ops = [op for op in out if op not in self.dead]

    def _replace(self, op: Op, values: tuple[Value, ...]) -> None:
        self.fuel -= 1
        if self.fuel < 0:
            raise IRError(
                f"{self.what} does not come to an end", where=str(op.loc), got=f"again {op.op_name}"
            )
        for old, new in zip(op.results, values, strict=True):
            if not agree(old.type, new.type):
                raise IRError(
                    f"{self.what} changed the type of {op.op_name}",
                    where=str(op.loc),
                    expected=old.type,
                    got=new.type,
                )
            old.replace_by(new)
            new.name = new.name or old.name
        self._kill(op)

    def _kill(self, op: Op) -> None:
        """Drops an operation and what only it used."""
        self.changed = True
        stack = [op]
        while stack:
            op = stack.pop()
            self.dead.add(op)
            op.parent = None
            sources = []
            for inner in op.walk():
                sources += [v.op for v in inner.operands]
                inner.operands = ()
            for source in dict.fromkeys(sources):
                if source is None or source in self.dead or not removable(source):
                    continue
                if not any(r.uses for r in source.results):
                    stack.append(source)


def rewrite(module: Module, visit: Visit, what: str) -> bool:
    """Replaces operations until the visitor changes nothing; returns whether anything changed.

    Args:
        module: Changed in place.
        visit: Called as ``visit(op, b)`` with a builder that inserts before ``op``; returns the
            values that replace the results of ``op``, or None (having built nothing) to keep it.
        what: Names the rewriting in errors.

    Raises:
        IRError: A replacement has another type, or the rewriting goes on for far too long.
    """
    sweeper = _Sweeper(module, visit, what)
    changed = False
    while sweeper.sweep():
        changed = True
    return changed


def prune_constants(module: Module) -> bool:
    """Removes the constants that no operation names; returns whether there were any."""
    used = {
        op.attrs["value"]
        for f in module.functions.values()
        for op in f.walk()
        if op.op_name == "const"
    }
    unused = [name for name in module.constants if name not in used]
    for name in unused:
        del module.constants[name]
    return bool(unused)
