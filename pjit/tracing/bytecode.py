"""What the bytecode of a function says about a place in it: what is live, what is on its stack.

A traced function is stopped where it asks for a value. Two visits of the same place are the same
state of the interpreter only if nothing else differs, and these facts say what else there is: the
local variables that are read later, and the operands that an unfinished expression holds on the
interpreter's stack, which no Python code can see.
"""

from __future__ import annotations

import dis
import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

NEW_CALLS = sys.version_info >= (3, 13)  # the callable is below NULL, not above it

Item = tuple  # what an item of the stack is: ("local", name), ("call",), ...
LOADED = ("null", "const", "local", "cell", "global", "attr", "self", "built")  # from variables
_LOADS = {"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_FAST_AND_CLEAR"}
_DEREFS = {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_CLOSURE", "LOAD_FROM_DICT_OR_DEREF"}
_READS = _LOADS | {"DELETE_FAST"}
_NO_FALL = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD"}
_NO_FALL |= {"JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE"}
_NOTHING = ("STORE_", "DELETE_", "POP_", "JUMP_", "RETURN_", "RAISE_", "RERAISE", "END_FOR")
_IGNORED = {"RESUME", "NOP", "PRECALL", "KW_NAMES", "CACHE", "EXTENDED_ARG", "COPY_FREE_VARS"}
_IGNORED |= {"MAKE_CELL", "NOT_TAKEN"}


@dataclass(frozen=True)
class Place:
    """An instruction of a function at which it was stopped.

    Attributes:
        name: Stands for the place: equal where what follows is equal.
        live: The local variables that may be read later, or that the stack holds.
        held: Those that the stack holds: what is assigned to them now does not change it.
        hidden: The items on the stack that the instruction does not consume, lowest first.
        callee: Where the instruction is a call: what is called.
        calls: Whether it is a call of an object, not of a method behind an operator.
        iterates: Whether it takes the next element of a ``for`` loop.
    """

    name: tuple
    live: frozenset[str]
    held: frozenset[str]
    hidden: tuple[Item, ...]
    callee: Item
    calls: bool
    iterates: bool


class _Code:
    """The instructions of a function, and facts that hold before each."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.ins = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
        self.offsets = [i.offset for i in self.ins]
        self.index = {o: k for k, o in enumerate(self.offsets)}
        self.handlers = [
            (e.start, e.end, self.index[e.target], e.depth + 1 + e.lasti)
            for e in getattr(dis.Bytecode(code), "exception_entries", ())
        ]
        self.next = [tuple(self._successors(k)) for k in range(len(self.ins))]
        self.live = self._liveness()
        self.stack = self._stacks()

    def target(self, k: int) -> int | None:
        i = self.ins[k]
        jumps = i.opcode in dis.hasjrel or i.opcode in dis.hasjabs
        return self.index.get(i.argval) if jumps else None

    def _successors(self, k: int) -> Iterator[int]:
        if self.ins[k].opname not in _NO_FALL and k + 1 < len(self.ins):
            yield k + 1
        target = self.target(k)
        if target is not None:
            yield target

    def _liveness(self) -> list[frozenset[str]]:
        """The variables that are live before each instruction, by iteration to a fixed point."""
        live: list[frozenset[str]] = [frozenset()] * len(self.ins)
        changed = True
        while changed:
            changed = False
            for k in reversed(range(len(self.ins))):
                i = self.ins[k]
                names = frozenset[str]().union(*(live[n] for n in self.after(k)))
                reads, writes = _variables(i)
                names = (names - writes) | reads
                if names != live[k]:
                    live[k], changed = names, True
        return live

    def after(self, k: int) -> list[int]:
        """The instructions that may follow, handlers of exceptions included."""
        at = self.offsets[k]
        return [*self.next[k], *(t for a, b, t, _ in self.handlers if a <= at < b)]

    def _stacks(self) -> list[tuple[Item, ...] | None]:
        found: list[tuple[Item, ...] | None] = [None] * len(self.ins)
        todo: list[tuple[int, tuple[Item, ...]]] = [(0, ())]  # what may differ is a ("call",)
        todo += [(t, (("call",),) * depth) for _, _, t, depth in self.handlers]
        while todo:
            k, stack = todo.pop()
            old = found[k]
            if old is not None:
                if len(old) != len(stack) or old == stack:
                    continue
                stack = tuple(a if a == b else ("call",) for a, b in zip(old, stack, strict=True))
                if stack == old:
                    continue
            found[k] = stack
            target = self.target(k)
            for n in self.next[k]:
                todo.append((n, self.step(k, stack, n == target)[1]))
        return found

    def step(
        self, k: int, stack: tuple[Item, ...], jump: bool
    ) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """What an instruction leaves alone, and the stack after it."""
        i = self.ins[k]
        name, arg = i.opname, i.arg or 0
        if name in _IGNORED:
            return stack, stack
        if name.startswith(("STORE_FAST", "STORE_DEREF", "DELETE_FAST", "DELETE_DEREF")):
            names = i.argval if isinstance(i.argval, tuple) else (i.argval,)
            stack = tuple(("call",) if _mentions(x, names) else x for x in stack)
        if name == "UNPACK_SEQUENCE":
            return stack[:-1], (*stack[:-1], *((("call",),) * arg))
        if name == "BEFORE_WITH":
            return stack[:-1], (*stack[:-1], ("call",), ("call",))
        if name in ("LIST_APPEND", "SET_ADD", "MAP_ADD"):
            rest = stack[: len(stack) - (2 if name == "MAP_ADD" else 1)]
            at = len(rest) - arg
            return rest, (*rest[:at], ("call",), *rest[at + 1 :])
        if name == "FOR_ITER" and stack and stack[-1] != ("iter",):
            stack = (*stack[:-1], ("call",))
        pushed = _loaded(i, stack)
        if pushed is not None:
            popped, items = pushed
            rest = stack[: len(stack) - popped]
            return rest, rest + items
        if name == "COPY":
            return stack, (*stack, stack[-arg])
        if name == "SWAP":
            s = list(stack)
            s[-1], s[-arg] = s[-arg], s[-1]
            return stack, tuple(s)
        if name in ("CALL", "CALL_KW"):
            rest = stack[: max(0, len(stack) - arg - 2 - (name == "CALL_KW"))]
            return rest, (*rest, ("call",))
        has_argument = i.opcode >= dis.HAVE_ARGUMENT
        effect = dis.stack_effect(i.opcode, arg if has_argument else None, jump=jump)
        pushes = 0 if name.startswith(_NOTHING) else 1
        popped = pushes - effect
        if popped < 0:
            pushes, popped = effect, 0
        if name == "FOR_ITER" and not jump:
            pushes, popped = 1, 0
        rest = stack[: max(0, len(stack) - popped)]
        item: Item = ("call",)
        if name == "GET_ITER":
            item = ("iter",)
        elif name.startswith("BUILD_") and all(x[0] in LOADED for x in stack[len(rest) :]):
            item = ("built", *stack[len(rest) :])
        return rest, rest + (item,) * pushes

    def at(self, lasti: int) -> int:
        """The instruction at an offset; Python 3.11 makes some calls before ``CALL``."""
        k = max(0, bisect_right(self.offsets, lasti) - 1)
        return k + (self.ins[k].opname == "PRECALL")

    def place(self, lasti: int) -> Place:
        k = self.at(lasti)
        stack = self.stack[k] or (("call",),)
        i = self.ins[k]
        rest, _ = self.step(k, stack, False)
        calls = i.opname in ("CALL", "CALL_KW", "CALL_FUNCTION_EX")
        live = frozenset[str]().union(*(self.live[n] for n in self.after(k)))
        held = frozenset(name for item in rest for name in _locals(item))
        iterates = i.opname == "FOR_ITER"
        return Place(self.name(k), live | held, held, rest, _callee(i, stack), calls, iterates)

    def name(self, k: int) -> tuple:
        """A conditional jump is named by where it goes: a loop tests at two places."""
        i = self.ins[k]
        if i.opname == "TO_BOOL" and k + 1 < len(self.ins):
            k, i = k + 1, self.ins[k + 1]
        target = self.target(k)
        if i.opname.startswith("POP_JUMP") and i.opname.endswith(("TRUE", "FALSE")):
            assert target is not None
            ways = (self.tail(target), self.tail(k + 1))
            return ("jump", *(ways if i.opname.endswith("TRUE") else ways[::-1]))
        return ("at", i.offset)

    def tail(self, k: int) -> object:
        """Names what starts at an instruction; a short way to a return is itself."""
        ways: list[tuple] = []
        at = k
        while len(ways) < 8 and at < len(self.ins):
            i = self.ins[at]
            if i.opname.startswith("RETURN"):
                return (*ways, (i.opname, repr(i.argval)))
            if i.opname in ("JUMP_FORWARD", "NOP", "POP_TOP", "JUMP_BACKWARD") and not ways:
                if i.opname == "POP_TOP":
                    break
                at = self.next[at][0]
                if at <= k:
                    break
                k = at
                continue
            if len(self.next[at]) != 1 or not i.opname.startswith("LOAD_"):
                break
            ways.append((i.opname, repr(i.argval)))
            at += 1
        return self.offsets[k]


def _locals(item: Item) -> Iterator[str]:
    """The local variables that an item of the stack refers to."""
    if item[0] in ("local", "cell"):
        yield item[1]
    elif item[0] in ("attr", "built"):
        for part in item[1:]:
            if isinstance(part, tuple):
                yield from _locals(part)


def _mentions(item: Item, names: tuple[str, ...]) -> bool:
    return any(name in names for name in _locals(item))


def _variables(i: dis.Instruction) -> tuple[frozenset[str], frozenset[str]]:
    """The local variables that an instruction reads and writes."""
    names = i.argval if isinstance(i.argval, tuple) else (i.argval,)
    if i.opname in _READS or i.opname.startswith("LOAD_FAST"):
        return frozenset(names), frozenset()
    if i.opname == "STORE_FAST_LOAD_FAST":
        return frozenset(names[1:]), frozenset(names[:1])
    if i.opname.startswith("STORE_FAST"):
        return frozenset(), frozenset(names)
    return frozenset(), frozenset()


def _loaded(i: dis.Instruction, stack: tuple[Item, ...]) -> tuple[int, tuple[Item, ...]] | None:
    """How many items a load takes and what it puts; None for another instruction."""
    name, arg = i.opname, i.arg or 0
    if name == "PUSH_NULL":
        return 0, (("null",),)
    if name in ("LOAD_CONST", "LOAD_SMALL_INT"):
        return 0, (("const", repr(i.argval)),)
    if name in _LOADS:
        return 0, (("call",) if i.argval == ".0" else ("local", i.argval),)
    if name in _DEREFS:
        return 0, (("cell", i.argval),)
    if name.startswith("LOAD_FAST") and isinstance(i.argval, tuple):
        return 0, tuple(("local", v) for v in i.argval)
    if name == "LOAD_GLOBAL":
        item: Item = ("global", i.argval)
        if not arg & 1:
            return 0, (item,)
        return 0, (item, ("null",)) if NEW_CALLS else (("null",), item)
    method = name == "LOAD_METHOD" or (
        name == "LOAD_ATTR" and sys.version_info >= (3, 12) and bool(arg & 1)
    )
    if method or name == "LOAD_ATTR":
        owner = stack[-1] if stack else ("call",)
        known = owner[0] in ("local", "cell", "global", "attr", "const")
        item = ("attr", owner, i.argval) if known else ("call",)
        return 1, ((item, ("self",)) if method else (item,))
    return None


def _callee(i: dis.Instruction, stack: tuple[Item, ...]) -> Item:
    """What a call calls."""
    if i.opname not in ("CALL", "CALL_KW"):
        return ("call",)
    below = stack[: len(stack) - (i.arg or 0) - (i.opname == "CALL_KW")][-2:]
    items = [x for x in below if x[0] not in ("null", "self")]
    if len(below) != 2 or len(items) != 1:
        return ("call",)
    return items[0]


@lru_cache(maxsize=1024)
def _facts(code: CodeType) -> _Code:
    return _Code(code)


@lru_cache(maxsize=8192)
def place(code: CodeType, lasti: int) -> Place:
    """The facts about an instruction, by its offset."""
    return _facts(code).place(lasti)


@lru_cache(maxsize=1024)
def rebinds(code: CodeType, name: str) -> bool:
    """Whether a function in another one assigns a variable of the outer one."""
    inner = [c for c in code.co_consts if isinstance(c, CodeType) and name in c.co_freevars]
    stores = ("STORE_DEREF", "DELETE_DEREF")
    return any(
        any(i.opname in stores and i.argval == name for i in dis.get_instructions(c))
        or rebinds(c, name)
        for c in inner
    )


def opname(code: CodeType, lasti: int) -> str:
    """The name of an instruction."""
    facts = _facts(code)
    return facts.ins[facts.at(lasti)].opname


def calls_global(code: CodeType, lasti: int) -> bool:
    """Whether the global that an instruction loads is called at once."""
    facts = _facts(code)
    i = facts.ins[max(0, bisect_right(facts.offsets, lasti) - 1)]
    return i.opname == "LOAD_GLOBAL" and bool((i.arg or 0) & 1)
