"""Copies of modules, and values that tell whether two are alike."""

from __future__ import annotations

from pjit.ir.core import Block, Constants, Function, Module, Op, Value


def count_ops(module: Module) -> int:
    """The number of operations, those in regions included."""
    return sum(1 for f in module.functions.values() for _ in f.walk())


def structure(module: Module) -> tuple:
    """A value that is equal for modules that differ in locations and names only."""
    numbers: dict[Value, int] = {}

    def number(v: Value) -> int:
        return numbers.setdefault(v, len(numbers))

    def block(x: Block) -> tuple:
        args = tuple((number(a), str(a.type)) for a in x.args)
        return args, tuple(operation(op) for op in x.ops)

    def operation(op: Op) -> tuple:
        results = tuple((number(r), str(r.type)) for r in op.results)
        attrs = tuple((k, repr(v)) for k, v in sorted(op.attrs.items()))
        operands = tuple(number(v) for v in op.operands)
        return op.op_name, operands, attrs, results, tuple(block(r) for r in op.regions)

    functions = tuple(
        (f.name, f.level, tuple((k, repr(v)) for k, v in sorted(f.attrs.items())), block(f.body))
        for f in module.functions.values()
    )
    constants = tuple((k, id(module.constants.stored(k))) for k in module.constants)
    return functions, constants


def clone(module: Module) -> Module:
    """A copy that shares the arrays of the constants."""
    out = Module(constants=Constants(module.constants))
    for f in module.functions.values():
        out.add(Function(f.name, clone_block(f.body, {}), f.level, dict(f.attrs)))
    return out


def clone_block(block: Block, values: dict[Value, Value]) -> Block:
    """A copy of a block; ``values`` maps the values from outside, and gets those inside."""
    out = Block()
    for a in block.args:
        values[a] = out.add_arg(a.type, a.name)
    for op in block.ops:
        regions = [clone_block(r, values) for r in op.regions]
        operands = [values.get(v, v) for v in op.operands]
        new = type(op)(operands, op.attrs, [r.type for r in op.results], op.loc, regions)
        for old, copy in zip(op.results, new.results, strict=True):
            copy.name = old.name
            values[old] = copy
        out.append(new)
    return out
