"""How threads take the pieces of a launch: each piece once, first those of their own share."""

import ctypes

import numpy as np
import pytest
from llvmlite import ir

from pjit.backends.llvm.module import NativeCode, compile_module, new_module
from pjit.backends.llvm.sync import I64, PTR, define, emit_take
from pjit.backends.llvm.target import machine

ROW = 16


class Share:
    """The pieces of one launch, as some threads take them."""

    def __init__(self, threads: int, pieces: int) -> None:
        target = machine()
        module = new_module(target)
        take = emit_take(module)
        function = define(module, "call", I64, [PTR, I64, PTR, I64, I64, I64], internal=False)
        b = ir.IRBuilder(function.append_basic_block())
        b.ret(b.call(take, function.args))
        self.code = NativeCode([compile_module(module, target)], ("call",))
        signature = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 3]
        self.call = ctypes.CFUNCTYPE(ctypes.c_int64, *signature)(self.code.address("call"))
        self.threads, self.pieces = threads, pieces
        self.cursors = np.zeros(ROW * threads, np.int64)
        self.owners = np.arange(threads)

    def take(self, thread: int) -> int:
        owner = self.owners[thread:].ctypes.data
        return self.call(self.cursors.ctypes.data, ROW, owner, thread, self.threads, self.pieces)


@pytest.mark.parametrize("pieces", [1, 2, 16])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_one_thread_takes_its_share_and_then_those_of_the_next(threads, pieces):
    share = Share(threads, pieces)
    me = threads - 1
    taken = [share.take(me) for _ in range(threads * pieces)]
    assert taken == [(me * pieces + i) % (threads * pieces) for i in range(threads * pieces)]
    assert [share.take(t) for t in range(threads)] == [-1] * threads


@pytest.mark.parametrize("pieces", [1, 2, 16])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_each_piece_is_taken_once(threads, pieces):
    share = Share(threads, pieces)
    rng = np.random.default_rng(threads * pieces)
    taken, running = [], set(range(threads))
    while running:
        thread = int(rng.choice(list(running)))
        piece = share.take(thread)
        if piece < 0:
            running.remove(thread)
        else:
            taken.append(piece)
    assert sorted(taken) == list(range(threads * pieces))
