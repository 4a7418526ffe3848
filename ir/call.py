"""The memory that a call shares with the native functions of its program, in words of 8 bytes.

It begins with the barrier counter and the error word, each on a cache line of its own. An error
also ends the loops whose data decide how long they run; in ``STOP_WORD`` the first thread tells the
others of it. Now and then such a loop calls the function in ``POLL_WORD``, if there is one, which
may put an error. From ``FIRST_SIZE`` on come the sizes of the program, then a pointer per slot,
then a row of cursors per thread: how many pieces of its share of each launch have been taken (see
``backends/llvm/segment``). Cursors are zero between calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from pjit.ir.program import ProgramView, Segment

BARRIER_WORD, ERROR_WORD, FIRST_SIZE = 0, 8, 16
STOP_WORD, POLL_WORD, POLLED_WORD, RAISED_WORD = 9, 10, 11, 12
RAISED_WORDS = 3  # an exception of Python: its type, its value, its traceback
INTERRUPTED = -1  # in the error word; codes of the program are positive
_LINES = 16  # words of two cache lines, which no two rows share


@dataclass(frozen=True)
class CallWords:
    """Where things are.

    Attributes:
        sizes: The number of sizes.
        slots: The number of slots.
        cursors: The length of a row of cursors.
    """

    sizes: int
    slots: int
    cursors: int

    @staticmethod
    def of(view: ProgramView) -> CallWords:
        """Those of a program."""
        shared = [len(s.shared()) for s in view.steps if isinstance(s, Segment)]
        cursors = -(-max(shared, default=0) // _LINES) * _LINES
        return CallWords(len(view.sizes), len(view.slots), cursors)

    def size(self, at: int) -> int:
        """The word of a size."""
        return FIRST_SIZE + at

    def slot(self, at: int) -> int:
        """The word of a slot's pointer."""
        return FIRST_SIZE + self.sizes + at

    def cursor(self, at: int) -> int:
        """The word of a cursor of the first thread."""
        end = FIRST_SIZE + self.sizes + self.slots
        return -(-end // _LINES) * _LINES + at

    def count(self, threads: int) -> int:
        """All words, with a row of cursors for each thread."""
        return self.cursor(0) + self.cursors * threads
