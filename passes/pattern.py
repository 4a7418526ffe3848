"""Rewrite rules as data: a pattern of operators, a condition, a result.

``rule("relu-relu", op(Relu, op(Relu, p.x)), op(Relu, p.x))`` reads as an equation from left to
right. Variables are ``p.name``; ``const("c")`` is a variable that stands for a constant only;
attributes are matched by value or captured by a variable (``op(Transpose, p.x, perm=p.a)``);
``op(Concat, ...)`` leaves the operands open. ``when`` is a predicate of the match that returns
True, or the reason why the rule does not apply. A result that is more than a term is a function of
a builder and the match.

The first rule of a table whose pattern matches and whose condition holds is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from pjit.ir.builder import Builder
from pjit.ir.core import Loc, Module, Op, Value
from pjit.ir.ops.basic import Const
from pjit.passes.context import Context, RuleEvent
from pjit.passes.rewrite import rewrite

UNIFORM_LIMIT = 1 << 16  # larger constants are not searched for being one value repeated


@dataclass(frozen=True)
class Var:
    """Stands for a value or for an attribute."""

    name: str
    constant: bool = False


class _Vars:
    """Makes variables: ``p.x``."""

    def __getattr__(self, name: str) -> Var:
        return Var(name)


p = _Vars()


def const(name: str) -> Var:
    """A variable that matches constants only."""
    return Var(name, constant=True)


@dataclass(frozen=True)
class Term:
    """An operator applied to patterns; ``operands`` None leaves them open."""

    classes: tuple[type[Op], ...]
    operands: tuple[Term | Var, ...] | None
    attrs: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def named(self, name: str) -> Term:
        """Binds the value of the term to a name."""
        return Term(self.classes, self.operands, self.attrs, name)


def op(classes: type[Op] | Sequence[type[Op]], *operands: Any, **attrs: Any) -> Term:
    """A term of one or several operators; ``...`` leaves the operands open."""
    found = (classes,) if isinstance(classes, type) else tuple(classes)
    return Term(found, None if operands == (...,) else operands, attrs)


class Match:
    """What the variables of a pattern stand for, as attributes; ``root`` is the operation."""

    def __init__(self, root: Op, module: Module) -> None:
        self.root: Any = root
        self.module = module
        self.ops: list[Op] = []
        self.bound: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.bound[name]
        except KeyError:
            raise AttributeError(name) from None

    def array(self, value: Value) -> np.ndarray:
        """The elements of a constant."""
        return constant_array(value, self.module)

    def uniform(self, value: Value) -> Any:
        """The element that a constant repeats; None when it has different ones."""
        return uniform(value, self.module)


def is_constant(value: Value) -> bool:
    """Whether a value is a ``const``."""
    return isinstance(value.owner, Const)


def constant_array(value: Value, module: Module) -> np.ndarray:
    """The elements of a constant value."""
    assert isinstance(value.owner, Const), value
    return module.constants[value.owner.value]


def uniform(value: Value, module: Module) -> Any:
    """The element that a constant repeats, as a NumPy scalar; None for other values."""
    if not is_constant(value):
        return None
    if not 0 < prod(value.tensor.static_shape) <= UNIFORM_LIMIT:
        return None
    array = constant_array(value, module)
    flat = array.reshape(-1)
    first = flat[0]
    if array.size == 1:
        return first
    same = flat[-1] == first and bool((flat == first).all())
    if same and first == 0 and array.dtype.kind == "f":  # zeros of one sign
        signs = np.signbit(flat)
        same = bool((signs == signs[0]).all())
    return first if same else None


def single_use(value: Value) -> bool:
    """Whether exactly one operand is this value."""
    return len(value.uses) == 1


def keeps_type(m: Match) -> bool | str:
    """Whether the value x alone has the type of the matched operation."""
    return m.x.type == m.root.result.type or "x has another type than the result"


@dataclass(frozen=True)
class Rule:
    """An equation that is applied from left to right."""

    name: str
    pattern: Term
    result: Term | Var | Callable[[Builder, Match], Any]
    when: Callable[[Match], bool | str] | None = None


def rule(
    name: str,
    pattern: Term,
    result: Term | Var | Callable[[Builder, Match], Any],
    when: Callable[[Match], bool | str] | None = None,
) -> Rule:
    """Makes a rule."""
    return Rule(name, pattern, result, when)


def _match_value(pattern: Term | Var, value: Value, m: Match) -> bool:
    if isinstance(pattern, Var):
        if pattern.constant and not is_constant(value):
            return False
        return m.bound.setdefault(pattern.name, value) is value
    owner = value.owner
    if not isinstance(owner, pattern.classes):
        return False
    if pattern.name:
        m.bound[pattern.name] = value
    return _match_op(pattern, owner, m)  # type: ignore[arg-type]


def _match_op(pattern: Term, operation: Op, m: Match) -> bool:
    m.ops.append(operation)
    if pattern.operands is not None:
        operands = operation.operands
        if len(operands) != len(pattern.operands):
            return False
        for want, value in zip(pattern.operands, operands, strict=True):
            if not _match_value(want, value, m):
                return False
    for key, want in pattern.attrs.items():
        got = operation.attrs[key]
        if isinstance(want, Var):
            if m.bound.setdefault(want.name, got) != got:
                return False
        elif want != got:
            return False
    return True


def match(pattern: Term, operation: Op, module: Module) -> Match | None:
    """Matches a pattern with an operation as its root."""
    if not isinstance(operation, pattern.classes):
        return None
    m = Match(operation, module)
    return m if _match_op(pattern, operation, m) else None


def _build(b: Builder, term: Any, m: Match) -> Any:
    if isinstance(term, Var):
        return m.bound[term.name]
    if isinstance(term, Term):
        assert term.operands is not None
        operands = [_build(b, x, m) for x in term.operands]
        return b(term.classes[0], *operands, **{k: _build(b, v, m) for k, v in term.attrs.items()})
    return term


class RuleTable:
    """Rules in order, indexed by the operator at the root of their patterns."""

    def __init__(self, name: str, rules: Sequence[Rule]) -> None:
        names = [r.name for r in rules]
        assert len(set(names)) == len(names), f"{name}: two rules have one name"
        self.name, self.rules = name, tuple(rules)
        self._by_class: dict[type[Op], list[Rule]] = {}

    def rules_for(self, cls: type[Op]) -> list[Rule]:
        """The rules whose root may be an operator."""
        found = self._by_class.get(cls)
        if found is None:
            found = [r for r in self.rules if issubclass(cls, r.pattern.classes)]
            self._by_class[cls] = found
        return found

    def visit(self, operation: Op, b: Builder, context: Context) -> Any:
        """What replaces the results of an operation, or None."""
        for r in self.rules_for(type(operation)):
            m = match(r.pattern, operation, b.module)
            if m is None:
                continue
            verdict = True if r.when is None else r.when(m)
            if verdict is not True:
                if context.rule_events is not None:
                    reason = verdict or "the condition does not hold"
                    context.rule_events.append(RuleEvent(r.name, operation.loc, reason))
                continue
            b.loc = Loc.merge(x.loc for x in m.ops)
            if context.rule_events is not None:
                context.rule_events.append(RuleEvent(r.name, operation.loc, ""))
            return r.result(b, m) if callable(r.result) else _build(b, r.result, m)
        return None

    def apply(self, module: Module, context: Context) -> bool:
        """Applies the rules until none applies; returns whether one did."""
        return rewrite(module, lambda x, b: self.visit(x, b, context), self.name)
