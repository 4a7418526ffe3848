"""The CPU back end as ``backends.base`` hands it out."""

from __future__ import annotations

from pjit.backends.llvm.build import build
from pjit.backends.llvm.module import load_object
from pjit.backends.llvm.pool import Pool
from pjit.backends.llvm.target import machine

__all__ = ["Pool", "build", "load_object", "machine"]
