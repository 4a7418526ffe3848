import numpy as np

from pjit.ir.arrays import ALIGNMENT, LARGE, Shelf, aligned


def test_aligned_copies_only_what_is_not_in_order():
    good = aligned(np.ones((5, 4), np.float32)[1:])
    assert aligned(good) is good
    for other in (good.T[:, :3], good[:, 1:], good.reshape(-1)[1:]):
        copy = aligned(other)
        assert copy.flags.c_contiguous
        assert copy.ctypes.data % ALIGNMENT == 0
        np.testing.assert_array_equal(copy, other)


def test_a_shelf_keeps_small_arrays_side_by_side():
    shelf = Shelf()
    arrays = [np.arange(n, dtype=np.float32).reshape(-1, 1) for n in (3, 40, 0, LARGE // 8)]
    kept = [shelf.put(a) for a in arrays * 9]
    for a, b in zip(arrays * 9, kept, strict=True):
        assert b.ctypes.data % ALIGNMENT == 0
        assert b.base.nbytes >= LARGE
        np.testing.assert_array_equal(a, b)
    assert kept[1].ctypes.data - kept[0].ctypes.data == ALIGNMENT, "the first one has 12 bytes"
    assert shelf.put(kept[0]) is kept[0]


def test_a_shelf_leaves_large_arrays_where_they_are():
    large = np.empty(LARGE // 4, np.float32)
    assert Shelf().put(large) is large
    repeated = np.broadcast_to(np.float32(3), (LARGE // 4,))
    assert Shelf().put(repeated) is repeated
