"""The registry of back ends."""

from __future__ import annotations

import pytest

from pjit.backends.base import backend, backends
from pjit.ir.errors import PjitError


def test_names():
    for name in backends():
        assert backend(name).machine(threads=1).vector_bits >= 64


@pytest.mark.parametrize(("name", "what"), [("tpu", "no such"), ("cuda", "does not run")])
def test_others_say_what_is_missing(name, what):
    with pytest.raises(PjitError, match=what) as caught:
        backend(name)
    assert "cpu" in str(caught.value)
