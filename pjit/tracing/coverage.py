"""Writes the tables of docs/numpy.md: ``python -m pjit.tracing.coverage``.

What is accepted comes from the registry of handlers, why something is refused from the table of
reasons; what is in neither is missing.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pjit.ir import docs
from pjit.ir.docs import code, table
from pjit.tracing import handlers  # noqa: F401  (they register themselves)
from pjit.tracing.calls import REDUCTIONS, SCATTERS
from pjit.tracing.elementwise import UFUNCS
from pjit.tracing.refusals import ARRAY_API, REFUSED
from pjit.tracing.scans import SCANS
from pjit.tracing.tracer import CREATION, FUNCTIONS, ONLY, Tracer, qualified

PAGE = Path(__file__).resolve().parents[2] / "docs" / "numpy.md"
NAMESPACES = (np, np.linalg, np.fft, np.lib.stride_tricks, np.emath)
ACCEPTED, REFUSED_, MISSING = "yes", "no", "missing"
Row = tuple[str, str, str]  # name, one of the above, notes


def functions(module: Any) -> list[Callable]:
    """The functions of a namespace of NumPy that tracers can take over, by name."""
    return _members(module, type(np.sum))  # those that look for __array_function__


def _members(module: Any, kind: type) -> list[Any]:
    values = [getattr(module, n) for n in dir(module) if not n.startswith("_")]
    return sorted({v for v in values if isinstance(v, kind)}, key=lambda v: v.__name__)


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except ValueError:  # of some functions in C
        return {}


def _remarks(function: Callable) -> Iterator[str]:
    """What the handler says about itself, and the options that it does not take."""
    handler = inspect.unwrap(FUNCTIONS[function])
    lines = (handler.__doc__ or "").strip().splitlines()
    name = qualified(function)
    if lines and lines[0].startswith(name) and (said := lines[0][len(name) :].strip(" ,.:;")):
        yield said.replace("``", "`")
    only = ONLY.get(function, {})
    for option, values in only.items():
        if len(values) == 1:
            yield f"only `{option}={values[0]!r}`"
    taken = _parameters(handler)
    if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        left = _parameters(function).keys() - taken.keys() - only.keys()
        optional = (
            n for n in left if _parameters(function)[n].default is not inspect.Parameter.empty
        )
        if without := ", ".join(f"`{n}`" for n in sorted(optional)):
            yield f"without {without}"


def function_row(function: Callable) -> Row:
    """The row of a function."""
    name = qualified(function)
    if function in FUNCTIONS:
        return name, ACCEPTED, "; ".join(_remarks(function))
    if function in CREATION:
        return name, ACCEPTED, "of traced arrays with `like=`"
    if name in REFUSED:
        return name, REFUSED_, REFUSED[name].why
    return name, MISSING, ""


def method_row(name: str) -> Row:
    """The row of an attribute or method of arrays."""
    key = f"ndarray.{name}"
    if key in REFUSED:
        return key, REFUSED_, REFUSED[key].why
    own = inspect.getattr_static(Tracer, name, None)
    if own is None:
        return key, MISSING, ""
    if "_question" in getattr(own, "__qualname__", ""):
        return key, REFUSED_, "it asks for numbers"
    same = getattr(np, name, None)
    if isinstance(same, type(np.sum)) and same not in FUNCTIONS:
        return key, REFUSED_, REFUSED[qualified(same)].why
    return key, ACCEPTED, ""


def ufuncs() -> list[np.ufunc]:
    """The ufuncs of NumPy, by name."""
    return _members(np, np.ufunc)


def ufunc_row(ufunc: np.ufunc) -> Row:
    """The row of a ufunc; the notes are its methods."""
    name = f"np.{ufunc.__name__}"
    if ufunc not in UFUNCS:
        return (name, REFUSED_, REFUSED[name].why) if name in REFUSED else (name, MISSING, "")
    methods = {"reduce": REDUCTIONS, "accumulate": SCANS, "at": SCATTERS}
    notes = [m for m, table in methods.items() if ufunc in table]
    if ufunc.nin == 2 and ufunc.signature is None:
        notes.append("outer")
    return name, ACCEPTED, ", ".join(map(code, notes))


SECTIONS: dict[str, Callable[[], Iterable[Row]]] = {
    "functions": lambda: (function_row(f) for m in NAMESPACES for f in functions(m)),
    "ufuncs": lambda: map(ufunc_row, ufuncs()),
    "attributes and methods": lambda: (
        method_row(n) for n in dir(np.ndarray) if not n.startswith("_")
    ),
}


def _table(rows: Iterable[Row], notes: str) -> list[str]:
    return table(("name", "traced", notes), [(code(n), state, why) for n, state, why in rows])


def _summary() -> list[str]:
    rows = []
    for name, make in SECTIONS.items():
        counts = Counter(state for _, state, _ in make())
        rows.append((name, *(str(counts[s]) for s in (ACCEPTED, REFUSED_, MISSING))))
    return table(("", "accepted", "refused", "missing"), rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    "versions": lambda: [f"The tables are those of NumPy {np.__version__.rpartition('.')[0]}."],
    "summary": _summary,
    "functions": lambda: _table(SECTIONS["functions"](), "notes, or why not"),
    "ufuncs": lambda: _table(SECTIONS["ufuncs"](), "methods, or why not"),
    "attributes and methods": lambda: _table(SECTIONS["attributes and methods"](), "why not"),
    "array API": lambda: table(
        ("name", "why it cannot be compiled"), [(code(n), r.why) for n, r in ARRAY_API.items()]
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page, or says with ``--check`` whether it is up to date."""
    return docs.command("python -m pjit.tracing.coverage", PAGE, TABLES, arguments)


if __name__ == "__main__":
    sys.exit(main())
