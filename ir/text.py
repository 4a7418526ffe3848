"""The text of IR: ``print_module`` and ``parse_module`` are inverses.

::

    graph @net(%x: f32[N,3,32,32]) -> f32[N,10] {
      %w = const @conv.weight : f32[64,3,7,7]   // net.py:11
      %half = const @half = [0.5, 0.5] : f32[2]   // net.py:11
      %0 = nn.conv %x, %w {strides=[2,2]} : f32[N,64,16,16]   // net.py:12
      %1, %2 = topk %0 {k=3, axis=1} : f32[N,3,16,16], i64[N,3,16,16]   // net.py:13
      %3 = if %c : f32[2] {   // net.py:14
        yield %half   // net.py:14
      } {
        ...
      }
      return %4   // net.py:16
    }

- A function starts with ``graph`` (level graph and, with ``{level="fused"}``, level fused),
  ``kernel`` or ``program``. Its attributes follow the result types. ``may_be_zero=["nz0"]`` names
  the dimensions that may be 0; the others are at least 1.
- An operation is ``results = name operands {attributes} : result types regions``, each part where
  there is something to write. Attributes that equal their default are left out. A region is ``{
  (%i: index): operations }``, without the parentheses when it has no arguments.
- An attribute is an int, a float (``1.0``, ``1e-05``, ``inf``, ``nan``), ``true``, ``false``,
  ``none``, a ``"string"``, an element type, a symbolic expression (``(H + 1)//2``, ``#0 + 1``) or
  a list ``[a,b]``.
- A constant of at most 16 elements is written out, exactly (``0x7fc00001`` gives the bits of a
  NaN); the others come from the ``constants`` given to ``parse_module``.
- A comment begins with ``//`` at the start of a line or after a space (``(H + 1)//2`` has none).
  The comment on the line on which an operation begins is its location; without one the location
  is that line of the text.
- A value's name is its own if it is an identifier and unique in the function; the others are
  numbered.
"""

from __future__ import annotations

from pjit.ir.parser import parse_module
from pjit.ir.printer import print_function, print_module

__all__ = ["parse_module", "print_function", "print_module"]
