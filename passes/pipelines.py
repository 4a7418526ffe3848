"""The pipelines, as lists of passes, and all passes by name."""

from __future__ import annotations

from pjit.passes.affine import Affine
from pjit.passes.canonicalize import Canonicalize
from pjit.passes.context import Pass
from pjit.passes.cse import Cse
from pjit.passes.dce import Dce
from pjit.passes.decompose import Decompose
from pjit.passes.fold import Fold
from pjit.passes.layout import Layout

SIMPLIFY: list[Pass] = [
    Canonicalize(),
    Fold(),
    Decompose(skip=("nn.conv_transpose",)),
    Canonicalize(),
    Fold(),
    Affine(),
    Decompose(),
    Canonicalize(),
    Fold(),
    Cse(),
    Dce(),
]
LAYOUT: list[Pass] = [Layout(), Canonicalize(), Fold(), Cse(), Dce()]
GRAPH: list[Pass] = [*SIMPLIFY, *LAYOUT]

PASSES: dict[str, type[Pass]] = {
    cls.name: cls
    for cls in (Affine, Canonicalize, Cse, Dce, Decompose, Fold, Layout)
}
