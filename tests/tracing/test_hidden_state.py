"""States of a function that look alike and are not: what one call did must not answer another.

Each function comes to its last question along two ways that differ in something no variable shows:
an operand of an unfinished expression, the cell of a closure, memory that two arrays share, the
type of a key, what an iterator or a bound method holds.
"""

import collections
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from random_programs import difference

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def g(x):
    return 10 if x.max() > 3 else 20


def hidden_local(x):
    n = 1 if x.sum() > 0 else 2
    return n + g(x)


def hidden_nonlocal(x):
    n = 1 if x.sum() > 0 else 2

    def h():
        nonlocal n
        n = 5
        return 10 if x.max() > 3 else 20

    return n + h()


def held_number(x):
    n = 3
    for _ in range(10):
        n -= 1 if x.min() < 0 else 2
    return n


def held_by_caller(x):
    n = 3
    for _ in range(10):
        n = [n, g(x), n][-1] + n + g(x)
    return n


def converted(x):
    w = x[0, 1] + 2 if x.sum() > 0 else x[0, 1] - 2
    return int(w)


def divided(x):
    n = x.argmin().item() + 2 if x.sum() > 0 else x.argmin().item() * 5
    return n // x.argmax().item()


def indexed(x):
    y, k = (x[0], 1) if x.sum() > 0 else (x[1], 2)
    return y[k : x.argmax().item() % 3], y[x.argmax().item() % 4], k


class C:
    def __init__(self, n):
        self.n = n

    def step(self, x):
        self.n = 7
        return 10 if x.max() > 3 else 20


def hidden_attr(x):
    c = C(1 if x.sum() > 0 else 2)
    return c.n + c.step(x)


def hidden_walrus(x):
    n = 1 if x.sum() > 0 else 2
    return n + (n := 7) + (10 if x.max() > 3 else 20) + n


class M:
    def __init__(self, n, log):
        self.n, self.log = n, log

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.log.append(self.n)


def with_ctx(x):
    log = []
    m = M(1, log) if x.sum() > 0 else M(2, log)
    with m:
        m = None
        y = 10 if x.max() > 3 else 20
    return y, log


def function_attr(x):
    def f():
        return f.k

    f.k = 1
    if x.sum() > 0:
        f.k = 2
    y = 10 if x.max() > 3 else 20
    return y + f()


def shared_cells(x):
    def make():
        n = 0

        def inc():
            nonlocal n
            n += 1

        def get():
            return n

        return inc, get

    inc, get = make()
    if x.sum() > 0:
        _, get = make()
    y = 10 if x.max() > 3 else 20
    inc()
    return y, get()


def bound_append(x):
    a, b = [], []
    app = a.append if x.sum() > 0 else b.append
    y = 10 if x.max() > 3 else 20
    app(1)
    return y, a, b


def either(x):
    f = math.floor if x.sum() > 0 else math.ceil
    y = 10 if x.max() > 3 else 20
    return y + f(float(x[0, 0]) + 0.5)


def either2(x):
    f = np.zeros if x.sum() > 0 else np.ones
    y = 10 if x.max() > 3 else 20
    return y + f(3)


def np_view(x):
    a = np.arange(4.0)
    b = a[1:] if x.sum() > 0 else a[1:].copy()
    y = 10 if x.max() > 3 else 20
    a += 1
    return y + b


def np_alias(x):
    a = np.arange(4.0)
    b = a if x.sum() > 0 else a.copy()
    y = 10 if x.max() > 3 else 20
    a += 1
    return y + b


def set_types(x):
    s = {1} if x.sum() > 0 else {True}
    y = 10 if x.max() > 3 else 20
    return y, [v for v in s]


def set_order(x):
    s = set()
    for v in [0, 8] if x.sum() > 0 else [8, 0]:
        s.add(v)
    y = 10 if x.max() > 3 else 20
    return y, list(s)


def tuple_keys(x):
    d = {(1,): 2} if x.sum() > 0 else {(1.0,): 2}
    y = 10 if x.max() > 3 else 20
    return y, [k[0] for k in d]


def ranges(x):
    r = slice(0, 3, 2) if x.sum() > 0 else slice(0, 4, 2)
    y = 10 if x.max() > 3 else 20
    return y, r.stop


def defaultdicts(x):
    d = collections.defaultdict(int if x.sum() > 0 else float)
    y = 10 if x.max() > 3 else 20
    return y, d["a"]


def deques(x):
    d = collections.deque([1], 1 if x.sum() > 0 else 2)
    y = 10 if x.max() > 3 else 20
    d.append(4)
    return y, list(d)


def zip_list(x):
    ws = [1.0, 2.0] if x.sum() > 0 else [3.0, 4.0]
    t = 0.0
    for w, i in zip(ws, range(2), strict=True):
        if x.max() > i:
            t += w
        else:
            t -= w
    return t


def enum_start(x):
    s = 1 if x.sum() > 0 else 5
    t = 0
    for k, i in enumerate(range(2), s):
        if x.max() > i:
            t += k
        else:
            t -= k
    return t


def finally_return(x):
    try:
        if x.sum() > 0:
            return x
        x = x + 1
    finally:
        return x * 2  # noqa: B012


def type_of(x):
    n = 0
    while x.sum() + n < 50:
        n += 1
        if type(n) is int:
            n += 1
    return n


def fstring(x):
    n = 0
    while x.sum() + n < 50:
        n += 1
    return f"{n}"


def strs(x):
    n = 0
    while x.sum() + n < 50:
        n += 1
    return str(n)


def strlist(x):
    n = 0
    while x.sum() + n < 50:
        n += 1
    return f"{[n]}", str({"a": n})


def kept_question(x):
    a = x.sum() if x.max() > 3 else x.min()
    b = a and 5
    c = x.max() > 100 or x.min() > -8 or (x.sum() > 2)
    return b, c, not (0 < x.min() < 2), (x.max() > 3) and (x.min() > 1)


def zip_list2(x):
    ws = [1.0, 2.0] if x.sum() > 0 else [1.0, 4.0]
    t = 0.0
    for w, i in zip(ws, range(2), strict=True):
        if x.max() > i + 3:
            t += w
        else:
            t -= w
    return t


def enum2(x):
    s = 1 if x.sum() > 0 else 5
    t = 0
    for k, i in enumerate(range(2), s):
        k = None if i == 0 else k
        if x.max() > i + 3:
            t += k or 0
        else:
            t -= k or 0
    return t


def strarr(x):
    return str(x.sum())


def isinst(x):
    y = x + 1
    return (
        isinstance(y, np.ndarray),
        isinstance(x.sum(), np.ndarray),
        isinstance(x.sum(), np.generic),
    )


def comp(x):
    return [1 if x[0, i] > 1 else -1 for i in range(3)]


def comp_shadow(x):
    i = 5 if x.sum() > 0 else 6
    items = [1 if x[0, i] > 1 else -1 for i in range(3)]
    return i, items


def comp_shadow2(x):
    i = 5 if x.sum() > 0 else 6
    items = any([x[0, i] > 1 for i in range(3)])
    return (i, 3) if items else (i, 4)


def obj_attr(x):
    class Made:
        pass

    o = Made()
    if x.sum() > 0:
        o.p = 1
    else:
        p = 1
    y = 10 if x.max() > 3 else 20
    try:
        return y, p
    except UnboundLocalError:
        return y, o.p


def exc_inflight(x):
    try:
        if x.sum() > 0:
            raise ValueError
        raise KeyError
    except (ValueError, KeyError):
        y = 10 if x.max() > 3 else 20
        if x.min() > -100:
            try:
                raise
            except KeyError:
                return y, "k"
            except ValueError:
                return y, "v"
    return y


def negzero(x):
    z = 0.0 if x.sum() > 0 else -0.0
    y = 10 if x.max() > 3 else 20
    return y, math.copysign(1.0, z)


def bool_int(x):
    z = 1 if x.sum() > 0 else True
    y = 10 if x.max() > 3 else 20
    return y, z


def cell_recursive(x, g=None, d=0):
    n = 3

    def h():
        return n

    if d == 0:
        return cell_recursive(x, h, 1)
    if x.sum() > 0:
        g = h
    y = 10 if x.max() > 3 else 20
    n = 4
    return y, g()


def gen_hidden(x):
    def gg():
        k = 1 if x.sum() > 0 else 2
        yield k
        yield k + 1

    it = gg()
    next(it)
    y = 10 if x.max() > 3 else 20
    return y + next(it)


def is_same(x):
    a = [1]
    b = a if x.sum() > 0 else [1]
    y = 10 if x.max() > 3 else 20
    return y, a is b


def arr_is(x):
    a = x + 1
    b = a if x.sum() > 0 else a.copy()
    y = 10 if x.max() > 3 else 20
    return y, a is b


def arr_view_kinds(x):
    a = x + 1
    b = a[0] if x.sum() > 0 else a[1]
    y = 10 if x.max() > 3 else 20
    b += 5
    return y, a


def dyn_view(x):
    a = x + 1
    i = int(x.max()) % 2
    b = a[i]
    y = 10 if x.sum() > 3 else 20
    b += 5
    return y, a


def or_value(x):
    n = 0 if x.sum() > 0 else 3
    m = n or (5 if x.max() > 3 else 6)
    return m


def chained(x):
    n = 1 if x.sum() > 0 else 4
    return 0 < n < (3 if x.max() > 3 else 9) < 8


def subscr(x):
    items = [1, 2]
    i = 0 if x.sum() > 0 else 1
    items[i] += 10 if x.max() > 3 else 20
    return items


def call_args(x):
    def f(a, b, c):
        return (a, b, c)

    return f(1 if x.sum() > 0 else 2, 3, 10 if x.max() > 3 else 20)


def call_args2(x):
    def f(a, b, c):
        return (a, b, c)

    n = 1 if x.sum() > 0 else 2
    return f(n, 3, 10 if x.max() > 3 else 20)


def kwargs_call(x):
    def f(a, b=0, c=0):
        return (a, b, c)

    n = 1 if x.sum() > 0 else 2
    return f(a=n, b=3, c=g(x))


def dict_build(x):
    n = 1 if x.sum() > 0 else 2
    return {"n": n, "k": g(x)}


def star(x):
    items = [1] if x.sum() > 0 else [2]
    return [*items, g(x)]


def fstr_hidden(x):
    n = 1 if x.sum() > 0 else 2
    return f"{n}-{g(x)}"


def with_gen(x):
    import contextlib

    log = []

    @contextlib.contextmanager
    def cm(k):
        yield
        log.append(k)

    with cm(1 if x.sum() > 0 else 2):
        y = 10 if x.max() > 3 else 20
    return y, log


def try_finally_hidden(x):
    out = []
    for k in range(2):
        try:
            if x.sum() > 0:
                continue
            out.append(k)
        finally:
            out.append(10 if x.max() > 3 else 20)
    return out


def finally_retval(x):
    def h():
        n = 1 if x.sum() > 0 else 2
        try:
            return n
        finally:
            n = 7
            m = 1 if x.max() > 3 else 0
            n += m

    return h()


def alias_loop(x):
    cur = x + 0
    prev = cur
    k = 0
    while cur.sum() < 60 and k < 30:
        if k % 3 == 0:
            prev = cur
        elif k % 3 == 1:
            prev = cur.copy()
        cur += 1
        k += 1
    return cur, prev, k


def view_loop(x):
    a = x + 0
    v = a[0]
    k = 0
    while a.sum() < 60 and k < 30:
        v += 1
        if v.max() > 6:
            a = a.copy()
            v = a[1]
        k += 1
    return a, v, k


def dict_count(x):
    d = {}
    for v in x.ravel():
        k = "hi" if v > 2 else "lo"
        d[k] = d.get(k, 0) + 1
    return d


def state_obj(x):
    class S:
        def __init__(s):
            s.n = 0
            s.hist = []

        def step(s, v):
            s.n += 1 if v > 2 else 2
            s.hist.append(s.n)
            return s

    s = S()
    k = 0
    while s.n < 9 and k < 9:
        s.step(x[0, k % 3])
        k += 1
    return s.n, s.hist, k


def closure_counter(x):
    n = 0

    def inc(v):
        nonlocal n
        n += v
        return n

    k = 0
    while inc(1 if x.sum() > 0 else 2) < 12 and k < 20:
        k += 1
    return n, k


def late_binding(x):
    fs = []
    for i in range(3):
        fs.append(lambda: i if x.sum() > 0 else -i)  # noqa: B023
    return [f() for f in fs]


def exc_loop(x):
    n = 0
    while True:
        try:
            n += 1
            if x.sum() + n > 20:
                raise StopIteration
            if n > 30:
                raise ValueError("x")
        except StopIteration:
            return n
        except ValueError as e:
            return str(e)


def is_none(x):
    best = None
    for v in x.ravel():
        if best is None or v > best:
            best = v
    return best


def oob_item(x):
    i = int(x.max())
    return x[0, i]


def class_body(x):
    class A:
        k = 1 if x.sum() > 0 else 2
        j = 10 if x.max() > 3 else 20

    return A.k, A.j


class Large:
    def __init__(self, v):
        self.v = v

    def __eq__(self, o):
        return bool(self.v > 3)

    __hash__ = None


def contains_eq(x):
    n = 1 if x.sum() > 0 else 2
    return n, 5 in [Large(x[0, 0]), Large(x[0, 1]), Large(x[1, 2])]


def nested_default(x):
    def f(a, acc=[]):  # noqa: B006
        acc.append(a)
        return len(acc)

    if x.sum() > 0:
        f(1)
    y = 10 if x.max() > 3 else 20
    return y, f(2)


def exc_obj(x):
    try:
        if x.sum() > 0:
            raise ValueError(1)
        raise ValueError(2)
    except ValueError as e:
        err = e
    y = 10 if x.max() > 3 else 20
    return y, err.args


def for_unbound(x):
    for i in range(int(x.max())):
        if x.min() > i:
            break
    return i


def slots_obj(x):
    class S:
        __slots__ = ("a", "b")

    s = S()
    if x.sum() > 0:
        s.a = 1
    else:
        s.b = 1
    y = 10 if x.max() > 3 else 20
    return y, hasattr(s, "a"), hasattr(s, "b")


def seq_mul(x):
    n = int(x.max()) % 4
    return [1] * n, "ab" * n, (0,) * n


def swap_alias(x):
    a, b = x + 1, x + 2
    if x.sum() > 0:
        a, b = b, a
    c = a
    y = 10 if x.max() > 3 else 20
    c += y
    return a, b


def partial_obj(x):
    import functools

    f = functools.partial(pow, 2) if x.sum() > 0 else functools.partial(pow, 3)
    y = 10 if x.max() > 3 else 20
    return f(2) + y


def loop_with_two_entries(x):
    """The first round of the outer loop, with other numbers, enters the inner one at its test."""
    k, rate = 0, 2.0
    y = x + 1
    while k < 9 and (1 if y.sum() > 3 else 0) > 0:
        if x.max() != x[0, 0]:
            j = 0
            while j < 3 and (x > 0).any():
                j += 1
                y -= y
                rate = rate + (1 if y.max() > 0 else 0) * 0.5
        k += 1
    return y, k, rate


CASES: list[Callable] = [
    held_number,
    held_by_caller,
    converted,
    divided,
    indexed,
    hidden_local,
    hidden_nonlocal,
    hidden_attr,
    hidden_walrus,
    with_ctx,
    function_attr,
    shared_cells,
    bound_append,
    either,
    either2,
    np_view,
    np_alias,
    set_types,
    set_order,
    tuple_keys,
    ranges,
    defaultdicts,
    deques,
    zip_list,
    enum_start,
    finally_return,
    type_of,
    fstring,
    strs,
    strlist,
    kept_question,
    zip_list2,
    enum2,
    strarr,
    isinst,
    comp,
    comp_shadow,
    comp_shadow2,
    obj_attr,
    exc_inflight,
    negzero,
    bool_int,
    cell_recursive,
    gen_hidden,
    is_same,
    arr_is,
    arr_view_kinds,
    dyn_view,
    or_value,
    chained,
    subscr,
    call_args,
    call_args2,
    kwargs_call,
    dict_build,
    star,
    fstr_hidden,
    with_gen,
    try_finally_hidden,
    finally_retval,
    dict_count,
    alias_loop,
    view_loop,
    closure_counter,
    state_obj,
    late_binding,
    class_body,
    contains_eq,
    nested_default,
    exc_obj,
    slots_obj,
    seq_mul,
    oob_item,
    for_unbound,
    swap_alias,
    partial_obj,
    exc_loop,
    is_none,
    loop_with_two_entries,
]


def run(function: Any, x: Any) -> Any:
    """The result of a call or what it raises."""
    try:
        return function(x)
    except Exception as e:
        return e


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_equals_python(function: Callable, interpreted: Any) -> None:
    compiled = interpreted(function)
    for x in (X, X - 10, X / 3, X / 3 - 2.5, X - 2.6):
        expected, actual = (run(f, x.copy()) for f in (function, compiled))
        if isinstance(expected, Exception):
            assert type(actual) is type(expected), function.__name__
        else:
            assert not difference(actual, expected), function.__name__
