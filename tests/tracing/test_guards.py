"""What a function reads beside its arguments: a change of it never gives an old answer."""

import copy
import dataclasses
import functools
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pjit.errors import FallbackWarning, TraceError
from pjit.tracing import function as tracing
from pjit.tracing.function import CompiledFunction
from pjit.tracing.guards import Guards

X = np.arange(6, dtype=np.float32).reshape(2, 3)
LARGE = np.ones(100_000, np.float32)


def load(source: str, name: str = "settings_of_a_user") -> types.ModuleType:
    """A module of the user's."""
    module = types.ModuleType(name)
    module.__dict__["np"] = np
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    sys.modules[name] = module
    return module


class Base:
    bias = 1.0
    __slots__ = ("__dict__",)

    def shift(self, x: Any) -> Any:
        return x + self.bias


class Slotted(Base):
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 2.0


class Model(Base):
    kind = "soft"

    def __init__(self, cfg: Any = None) -> None:
        self.rate, self.cfg, self.layers = 2.0, cfg, [1.0, np.ones(3, np.float32)]
        self.table = {"a": 1.0}

    @property
    def scale(self) -> float:
        return self.rate * 3

    @functools.cached_property
    def cached(self) -> float:
        return self.rate + 1

    @staticmethod
    def half(x: Any) -> Any:
        return x / 2

    @classmethod
    def named(cls, x: Any) -> Any:
        return x * len(cls.kind)

    def shift(self, x: Any) -> Any:
        return super().shift(x) * 2

    def __call__(self, x: Any) -> Any:
        return x * self.rate

    def __getitem__(self, k: str) -> float:
        return self.table[k]


@dataclasses.dataclass
class Config:
    lr: float = 0.5
    deep: Any = None


class Lazy:
    def __init__(self) -> None:
        self._data = {"rate": 2.0}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_data"][name]
        except KeyError:
            raise AttributeError(name) from None


def setting(owner: Any, name: str, x: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, x)


def item(owner: Any, key: Any, x: Any) -> Callable[[], None]:
    return lambda: owner.__setitem__(key, x)


CODE = """
SCALE, NAME, FLAG = 2, "a", True
TABLE = np.arange(3, dtype=np.float32)
LARGE = np.ones((100, 1000), np.float32)
FROZEN = np.arange(3, dtype=np.float32)
FROZEN.flags.writeable = False
NUMBERS, NESTED, CHOICES = [1, 2, 3], {"a": [1.0, {"b": 2.0}]}, {3}
act = np.tanh

def helper(x, by=2):
    return x * by * SCALE

def other(x, by=3):
    return x - by

HELPERS = {"h": [helper]}
bound = __import__("functools").partial(helper, by=5)
held = __import__("functools").partial(helper, by=TABLE)

def f_number(x): return x * SCALE
def f_string(x): return x if NAME == "a" else -x
def f_bool(x): return x * FLAG
def f_array(x): return x + TABLE
def f_large(x): return x @ LARGE[:3]
def f_frozen(x): return x + FROZEN
def f_list(x): return x * NUMBERS[1] + len(NUMBERS)
def f_nested(x): return x * NESTED["a"][1]["b"]
def f_set(x): return x * (3 in CHOICES) + sum(CHOICES)
def f_act(x): return act(x)
def f_builtin(x): return abs(x) + max(2, 3)
def f_helper(x): return helper(x)
def f_dict_of_helpers(x): return HELPERS["h"][0](x)
def f_partial(x): return bound(x)
def f_partial_array(x): return held(x)
def f_lambda(x): return (lambda y: y * SCALE)(x)
def f_comprehension(x): return sum([x * n for n in NUMBERS])
def f_unset(x):
    try:
        return x * LATER
    except NameError:
        return x
def f_default(x, k=[1.0], *, s=2.0): return x * k[0] * s
"""


def globals_of_a_module(m: Any) -> dict[str, tuple]:
    def frozen() -> None:
        m.FROZEN.flags.writeable = True
        m.FROZEN[0] = 7

    def defaults() -> None:
        m.f_default.__defaults__ = ([5.0],)

    return {
        "number": (
            setting(m, "SCALE", 3), setting(m, "SCALE", 2.0), setting(m, "SCALE", True),
            setting(m, "SCALE", np.float64(2)), setting(m, "SCALE", np.ones(3)),
        ),
        "string": (setting(m, "NAME", "b"), setting(m, "NAME", "a")),
        "bool": (setting(m, "FLAG", False), setting(m, "FLAG", 1)),
        "array": (
            setting(m, "TABLE", m.TABLE * 2), lambda: item(m.TABLE, 0, 9)(),
            setting(m, "TABLE", m.TABLE.astype(np.float64)), setting(m, "TABLE", np.float32(2)),
            setting(m, "TABLE", m.LARGE[:2, :6:2]), item(m.LARGE, (0, 2), 5),
            lambda: m.TABLE.__setitem__(slice(None), np.nan), lambda: m.TABLE.sort(),
        ),
        "large": (item(m.LARGE, (0, 999), 2), item(m.LARGE, (99, 999), 2), item(m.LARGE, 0, 3)),
        "frozen": (frozen, setting(m, "FROZEN", np.zeros(3))),
        "list": (
            item(m.NUMBERS, 1, 5), lambda: m.NUMBERS.append(4), setting(m, "NUMBERS", [0, 7]),
            lambda: item(m.NUMBERS, 1, 7.0)(), lambda: item(m.NUMBERS, 1, np.arange(3))(),
            lambda: item(m.NUMBERS[1], 0, 8)(),
        ),
        "nested": (
            item(m.NESTED["a"][1], "b", 3.0), item(m.NESTED["a"], 1, {"b": 4.0}),
            item(m.NESTED, "a", [0, {"b": 5}]),
        ),
        "set": (lambda: m.CHOICES.add(8), m.CHOICES.clear),
        "act": (setting(m, "act", np.exp), setting(m, "act", lambda x: x), setting(m, "act", abs)),
        "builtin": (
            setting(m, "max", min), setting(m, "abs", np.negative), lambda: delattr(m, "max"),
        ),
        "helper": (
            setting(m, "SCALE", 9), setting(m, "helper", m.other),
            setting(m.other, "__defaults__", (8,)),
        ),
        "dict_of_helpers": (setting(m, "SCALE", 9), item(m.HELPERS["h"], 0, m.other)),
        "partial": (
            setting(m, "SCALE", 9), setting(m, "bound", functools.partial(m.helper, by=1)),
        ),
        "partial_array": (item(m.TABLE, 0, 9), setting(m, "SCALE", 4)),
        "lambda": (setting(m, "SCALE", 9),),
        "comprehension": (item(m.NUMBERS, 0, 9),),
        "unset": (setting(m, "LATER", 9), lambda: delattr(m, "LATER")),
        "default": (
            item(m.f_default.__defaults__[0], 0, 3.0), defaults,
            item(m.f_default.__kwdefaults__, "s", 4.0),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", globals_of_a_module(load(CODE)))
def test_globals(name: str, interpreted: Any, agree: Any) -> None:
    m = load(CODE)
    f = getattr(m, f"f_{name}")
    jf = interpreted(f)
    for change in (lambda: None, *globals_of_a_module(m)[name]):
        change()
        for _ in range(2):
            agree(jf(X), f(X))


def attributes() -> dict[str, tuple]:
    """By name: a function of an array, and changes."""
    m, s, ns, lazy = Model(), Slotted(), types.SimpleNamespace(lr=0.5), Lazy()
    cfg = Config(deep=Config(0.25))
    c = Model(cfg)
    layer, cls = [Model(), Model()], type("Model", (Model,), {})
    own, module = cls(), load("SCALE = 2.0\ndef f(x): return x * SCALE")
    words, queue, ordered = bytearray(b"ab"), deque([1.0]), OrderedDict(a=1)
    other = Model()
    other.rate = 7.0

    def changes_class() -> None:
        own.__class__ = Other  # type: ignore[assignment]

    class Other(Model):
        def shift(self, x: Any) -> Any:
            return x

    def of_a_module(x: Any) -> Any:
        import settings_of_a_user as also

        return x * module.SCALE + also.f(x)

    def flagged(x: Any) -> Any:
        return x * 2 if hasattr(ns, "flag") else x * getattr(ns, "lr", 1)

    def named(x: Any) -> Any:
        return x * sum(getattr(ns, n) for n in ("l" + "r",))

    def listed(x: Any) -> Any:
        return x * sum(v for v in vars(ns).values())

    lazy._data["lr"] = 1.0
    get = lazy._data.get

    def fields(x: Any) -> Any:
        return x * dataclasses.asdict(cfg)["lr"]

    def copied(x: Any) -> Any:
        return x * copy.copy(cfg).lr

    def function_with_attributes(x: Any) -> Any:
        return x * named.by  # type: ignore[attr-defined]

    named.by = 3  # type: ignore[attr-defined]
    return {
        "plain": (lambda x: x * m.rate, setting(m, "rate", 3.0), setting(m, "rate", np.ones(3))),
        "nested": (
            lambda x: x * c.cfg.lr * c.cfg.deep.lr, setting(cfg, "lr", 2),
            setting(cfg.deep, "lr", 3), setting(c, "cfg", Config(9.0, Config(1.0))),
        ),
        "slot": (lambda x: x * s.rate, setting(s, "rate", 3.0)),
        "deleted slot": (
            lambda x: x * getattr(s, "rate", 5), lambda: delattr(s, "rate"), setting(s, "rate", 3),
        ),
        "property": (
            lambda x: x * own.scale, setting(own, "rate", 3.0),
            setting(cls, "scale", property(lambda self: 5)),
        ),
        "cached property": (
            lambda x: x * m.cached, setting(m, "rate", 9.0), lambda: m.__dict__.pop("cached", None),
            setting(m, "cached", 3.5),
        ),
        "class attribute": (
            lambda x: x if own.kind == "soft" else -x, setting(cls, "kind", "hard"),
            setting(own, "kind", "soft"),
        ),
        "inherited": (
            lambda x: x + own.bias, setting(cls, "bias", 4.0), setting(own, "bias", 5.0),
            lambda: delattr(own, "bias"),
        ),
        "class": (changes_class and (lambda x: own.shift(x)), changes_class),
        "method": (
            lambda x: own.shift(x), setting(cls, "shift", lambda self, x: x - self.bias),
            setting(cls, "bias", 8), setting(own, "shift", lambda x: x * 9),
        ),
        "static method": (
            lambda x: own.half(x), setting(cls, "half", staticmethod(lambda x: x / 4)),
            setting(own, "half", np.exp),
        ),
        "class method": (lambda x: own.named(x), setting(cls, "kind", "s")),
        "call": (
            lambda x: layer[1](layer[0](x)), setting(layer[0], "rate", 3.0),
            item(layer, 1, other), setting(other, "rate", 1.5),
        ),
        "item": (lambda x: x * m["a"], item(m.table, "a", 2.0), setting(m, "table", {"a": 3})),
        "list": (
            lambda x: x * m.layers[0] + m.layers[1], item(m.layers, 0, 2), item(m.layers[1], 0, 2),
        ),
        "lazy": (lambda x: x * lazy.rate, item(lazy._data, "rate", 3.0), setting(lazy, "rate", 4)),
        "namespace": (lambda x: x * ns.lr, setting(ns, "lr", 2.0)),
        "module": (
            of_a_module, setting(module, "SCALE", 3.0), setting(module, "f", lambda x: x),
        ),
        "has": (flagged, setting(ns, "lr", 3), setting(ns, "flag", 1), lambda: delattr(ns, "flag")),
        "by name": (named, setting(ns, "lr", 3)),
        "all": (listed, setting(ns, "lr", 3), setting(ns, "more", 3)),
        "asdict": (fields, setting(cfg, "lr", 3)),
        "copy": (copied, setting(cfg, "lr", 3)),
        "of a function": (function_with_attributes, setting(named, "by", 4)),
        "bytes": (lambda x: x * words[0], item(words, 0, 3)),
        "method of a dict": (lambda x: x * get("lr"), item(lazy._data, "lr", 2.0)),
        "deque": (lambda x: x * queue[0], lambda: queue.appendleft(2.0)),
        "order": (
            lambda x: x * list(ordered).index("a"), lambda: ordered.update(b=2),
            lambda: ordered.move_to_end("a"),
        ),
        "bound method": (
            functools.partial(lambda g, x: g(x), m.shift), setting(m, "bias", 4),
            setting(m, "bias", 5),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", attributes())
def test_attributes(name: str, interpreted: Any, agree: Any) -> None:
    f, *changes = attributes()[name]
    jf = interpreted(f)
    for change in (lambda: None, *changes):
        change()
        for _ in range(2):
            agree(jf(X), f(X))


def test_self(interpreted: Any, agree: Any) -> None:
    class Own(Model):
        def __call__(self, x: Any) -> Any:
            return self.shift(x) * self.scale * self.cfg.lr + self.layers[1]

    Own.compiled = interpreted(Own.__call__)  # type: ignore[attr-defined]
    a, b = Own(Config()), Own(Config(2.0))
    for change in (
        lambda: None,
        setting(a, "rate", 5.0),
        setting(a.cfg, "lr", 0.1),
        setting(b, "bias", 3.0),
        item(a.layers[1], 0, 4),
        setting(Own, "bias", 6.0),
        setting(Own, "shift", lambda self, x: x),
        setting(b, "__dict__", {**a.__dict__, "rate": 0.5}),
    ):
        change()
        for m in (a, b):
            agree(m.compiled(X), m(X))  # type: ignore[attr-defined]


def test_closures(interpreted: Any, agree: Any) -> None:
    k, inner = 2, lambda x: x * k

    def change(n: Any, by: Any) -> None:
        nonlocal k, inner
        k, inner = n, by or inner

    def f(x: Any) -> Any:
        return inner(x) + k

    jf = interpreted(f)
    for n, by in ((2, None), (3, None), (3.0, None), (3, lambda x: x - k), (4, None)):
        change(n, by)
        agree(jf(X), f(X))


class Counts(CompiledFunction):
    """Counts compilations; does not run."""

    def _compile(self, module: Any) -> Any:
        self.compiled = getattr(self, "compiled", 0) + 1
        return super()._compile(module)


def test_both_programs_stay_when_a_value_goes_back_and_forth(agree: Any) -> None:
    m = load(CODE)
    f = Counts(m.f_number)
    for n in (2, 3, 2, 3, 2, 3):
        m.SCALE = n
        agree(f(X), m.f_number(X))
    assert f.compiled == 2
    m.SCALE = int("300") + n
    f(X)
    m.SCALE = int("300") + n  # equal, not identical
    agree(f(X), m.f_number(X))
    assert f.compiled == 3


def test_what_is_not_read_does_not_matter() -> None:
    m = load(CODE)
    f, g = Counts(m.f_number), Counts(Model.__call__)
    model = Model()
    for i in range(3):
        m.NAME, m.TABLE, m.helper, m.NEW = str(i), i, None, i
        model.other, model.layers[0], model.kind = i, i, str(i)  # type: ignore[attr-defined]
        f(X), g(model, X)
    assert (f.compiled, g.compiled) == (1, 1)


def test_a_value_that_always_changes_is_told(interpreted: Any, agree: Any) -> None:
    m = load(CODE)
    f = interpreted(m.f_number)
    for n in range(tracing.MAX_VARIANTS):
        m.SCALE = n
        agree(f(X), m.f_number(X))
    m.SCALE = 8
    with pytest.warns(FallbackWarning, match=r"SCALE .*7 -> 8"):
        f(X)
    m.SCALE = 9
    f(X)


def test_random_numbers_are_refused(interpreted: Any, agree: Any) -> None:
    import random

    rng, model = np.random.default_rng(1), types.SimpleNamespace(rng=np.random.RandomState(2))
    functions = [
        lambda x: x + rng.normal(),
        lambda x: x + np.random.rand(),
        lambda x: x + model.rng.rand(3),
        lambda x: x + random.random(),
        lambda x: x + np.random.default_rng().normal(),
    ]
    for f in functions:
        state = (rng.bit_generator.state["state"], random.getstate())
        with pytest.raises(TraceError, match=r"random|rng"):
            interpreted(f)(X)
        assert state == (rng.bit_generator.state["state"], random.getstate())
    seeded = lambda x: x + np.random.default_rng(3).normal(size=3)  # noqa: E731
    agree(interpreted(seeded)(X), seeded(X))


def test_guards_of_what_is_not_followed() -> None:
    def plain(x: Any) -> Any:
        return np.sum(x) * np.pi + functools.reduce(lambda a, b: a + b, [x, x])

    assert [g.name for g in Guards.of(plain, ()).all] == ["np", "functools"]
