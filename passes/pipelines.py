"""The pipelines, as lists of passes, and all passes by name."""

from __future__ import annotations

from pjit.passes.affine import Affine
from pjit.passes.bands import Banding
from pjit.passes.batch import Batch
from pjit.passes.bilinear import Bilinear
from pjit.passes.canonicalize import Canonicalize
from pjit.passes.check_once import CheckOnce
from pjit.passes.context import Pass
from pjit.passes.cse import Cse
from pjit.passes.dce import Dce
from pjit.passes.decompose import Decompose
from pjit.passes.fold import Fold
from pjit.passes.fuse import Fuse
from pjit.passes.hoist import Hoist
from pjit.passes.layout import Layout
from pjit.passes.lower import Lower
from pjit.passes.schedule import Schedule

SIMPLIFY: list[Pass] = [
    Fold(),
    Canonicalize(),
    Decompose(skip=("nn.conv_transpose",)),
    Fold(),
    Canonicalize(),
    Affine(),
    Decompose(),
    Fold(),
    Canonicalize(),
    Fold(),
    Cse(),
    Hoist(),
    Dce(),
]
LAYOUT: list[Pass] = [Layout(), Canonicalize(), Fold(), Hoist(), Cse(), CheckOnce(), Dce()]
GRAPH: list[Pass] = [*SIMPLIFY, Bilinear(), Batch(), *LAYOUT]
KERNEL: list[Pass] = [Fuse(), Schedule(), Lower(), Banding()]

PASSES: dict[str, type[Pass]] = {
    cls.name: cls
    for cls in (
        *(Affine, Banding, Batch, Bilinear, Canonicalize, CheckOnce, Cse, Dce, Decompose, Fold),
        *(Fuse, Hoist, Layout, Lower, Schedule),
    )
}
