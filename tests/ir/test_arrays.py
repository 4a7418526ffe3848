import numpy as np

from pjit.ir.arrays import ALIGNMENT, aligned


def test_aligned_copies_only_what_is_not_in_order():
    good = aligned(np.ones((5, 4), np.float32)[1:])
    assert aligned(good) is good
    for other in (good.T[:, :3], good[:, 1:], good.reshape(-1)[1:]):
        copy = aligned(other)
        assert copy.flags.c_contiguous
        assert copy.ctypes.data % ALIGNMENT == 0
        np.testing.assert_array_equal(copy, other)
