"""Writes the tables of docs/ir.md from the operator classes: ``python -m pjit.ir.docs``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pjit.ir.core import Op
from pjit.ir.errors import PjitError
from pjit.ir.loops import PRIMS
from pjit.ir.opdef import REGISTRY, REQUIRED, OpDef, Signature
from pjit.ir.printer import attribute
from pjit.ir.types import DTYPES, FLOATS, INTS, NUMERIC, DType, bool_
from pjit.ir.verify import LEVELS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ir.md"
BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"
GROUPS: list[tuple[set[DType], str]] = [
    (set(DTYPES.values()), "any"),
    ({*INTS, bool_}, "int or bool"),
    (set(NUMERIC), "number"),
    (set(FLOATS), "float"),
    (set(INTS), "int"),
]


def dtypes_text(dtypes: Sequence[DType]) -> str:
    """The element types that an operand accepts, in a word where there is one."""
    if not dtypes:
        return "any"
    for group, word in GROUPS:
        if set(dtypes) == group:
            return word
    return " ".join(map(str, dtypes))


def operands_text(signature: Signature) -> str:
    """``x: float, bias?: float, xs...: any``."""
    marks = (("..." if o.variadic else "?" if o.optional else "", o) for o in signature.operands)
    return ", ".join(f"{o.name}{mark}: {dtypes_text(o.dtypes)}" for mark, o in marks)


def attributes_text(signature: Signature) -> str:
    """``axis, keepdims=false``."""
    return ", ".join(
        a.name if a.default is REQUIRED else f"{a.name}={attribute(a.default)}"
        for a in signature.attrs
    )


def first_paragraph(cls: type[Op]) -> str:
    """The first paragraph of the docstring, in Markdown."""
    return " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split()).replace("``", "`")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown; bars in cells are escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return lines


def code(text: str) -> str:
    """The text as code, if there is any."""
    return f"`{text}`" if text else ""


def operator_tables() -> list[str]:
    """One table a family of graph operators."""
    import pjit.ir.ops

    families: dict[str, list[type[OpDef]]] = {}
    for cls in REGISTRY.values():
        assert issubclass(cls, OpDef)
        if cls.__module__.startswith(f"{pjit.ir.ops.__name__}."):
            families.setdefault(cls.__module__.rpartition(".")[2], []).append(cls)
    lines = []
    for family in sorted(families):
        rows = [
            (
                code(cls.op_name),
                code(operands_text(cls.signature)),
                code(attributes_text(cls.signature)),
                cls.lowering() + (f" ({cls.onnx})" if cls.onnx else ""),
                first_paragraph(cls),
            )
            for cls in sorted(families[family], key=lambda c: c.op_name)
        ]
        head = ("operator", "operands", "attributes", "lowering (ONNX name)", "meaning")
        lines += [f"### {family}.py", "", *table(head, rows), ""]
    return lines[:-1]


def kernel_tables() -> list[str]:
    """The operations of the kernel level, then the scalar primitives."""
    kernel = [c for c in REGISTRY.values() if issubclass(c, OpDef) and c.level == "kernel"]
    rows = [
        (code(c.op_name), code(attributes_text(c.signature)), first_paragraph(c))
        for c in kernel
        if c not in PRIMS.values()
    ]
    prims = [(code(c.op_name), str(c.arity), first_paragraph(c)) for c in PRIMS.values()]
    return [
        *table(("operation", "attributes", "meaning"), rows),
        "",
        *table(("primitive", "operands", "meaning"), prims),
    ]


def level_table() -> list[str]:
    """The levels that the verifier knows."""
    return table(("level", "what is legal"), [(code(k), v.doc) for k, v in LEVELS.items()])


def dtype_table() -> list[str]:
    """The element types."""
    rows = [(code(d.name), str(d.bits), str(d.numpy)) for d in DTYPES.values()]
    return table(("name", "bits", "NumPy"), rows)


SECTIONS = {
    "element types": dtype_table,
    "levels": level_table,
    "operators": operator_tables,
    "kernel operations": kernel_tables,
}


Tables = Mapping[str, Callable[[], list[str]]]


def updated(page: str, tables: Tables = SECTIONS) -> str:
    """The page with its tables written anew.

    Raises:
        PjitError: The markers of a table are missing.
    """
    for name, make in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise PjitError(f"the page has no table of {name}", expected=f"{begin} ... {end}")
        page = "\n".join([before + begin, "", *make(), "", end + after])
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page, or says with ``--check`` whether it is up to date."""
    return command("python -m pjit.ir.docs", PAGE, SECTIONS, arguments)


def command(
    program: str, default: Path, tables: Tables, arguments: Sequence[str] | None = None
) -> int:
    """The command line of a module that writes the tables of a page."""
    parser = argparse.ArgumentParser(
        prog=program, description=f"Writes the tables of {default.name}."
    )
    parser.add_argument("page", nargs="?", type=Path, default=default, help=default.name)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 if it is out of date"
    )
    options = parser.parse_args(arguments)
    old = options.page.read_text()
    new = updated(old, tables)
    if options.check:
        return int(new != old)
    options.page.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
