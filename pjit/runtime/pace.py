"""Which threads run the calls of a plan: chosen by what earlier calls took.

A call runs on the thread of the caller, with or without the help of the workers, or on the workers
while the caller goes on. To hand over a short call takes longer than the caller gains by it, and so
does to copy large arrays for a call that does little with them. The results do not depend on the
choice.
"""

from __future__ import annotations

from math import inf, isfinite

INLINE_SECONDS = 1e-3  # calls that take less run on the thread of the caller
COPIES = 2.0  # and those that take less than copying their arrays so many times
HELP_SECONDS = 10e-6  # calls that take less on one thread are not shared with the workers
TRIALS = 4  # calls that are timed each way; the fastest counts
PROOFS = 8  # short calls in a row after which a plan counts as short though the data decide
FIRST_PERIOD, LAST_PERIOD = 30, 960  # calls between two comparisons; each time twice as many


class Pace:
    """How the calls of a plan run.

    Args:
        guess: The estimated seconds of a call; infinite when the data decide. Then calls run on the
            thread of the caller only after ``PROOFS`` short ones, and until one is not; and alone,
            as signal handlers may run meanwhile that make and wait for other calls.
        threads: The number of workers.

    Attributes:
        inline: Whether calls run on the thread of the caller.
        helped: Whether workers help it.
    """

    __slots__ = (
        "_alone",
        "_best",
        "_bounded",
        "_left",
        "_limit",
        "_period",
        "_proofs",
        "_rest",
        "_threads",
        "helped",
        "inline",
    )

    def __init__(self, guess: float, threads: int) -> None:
        self._bounded, self._threads = isfinite(guess), threads
        self._alone, self._period, self._limit = inf, FIRST_PERIOD, INLINE_SECONDS
        self._hand_over()
        if guess < INLINE_SECONDS:
            self._keep()

    def _hand_over(self) -> None:
        """The next calls run on the workers."""
        self.inline, self._proofs = False, 1 if self._bounded else PROOFS

    def _keep(self) -> None:
        """The next calls run on the thread of the caller."""
        self.inline = True
        self._try(helped=False)

    def _try(self, helped: bool) -> None:
        """Begins to time the calls one way."""
        self.helped, self._left, self._best, self._rest = helped, TRIALS, inf, 0

    def queued(self, seconds: float, copying: float = 0.0) -> None:
        """Takes note of a call that the workers ran.

        Args:
            seconds: The time until its end was noticed.
            copying: The time that it took to copy its arrays before.
        """
        if self.inline:
            return
        if self._bounded:
            self._limit = max(INLINE_SECONDS, COPIES * copying)
        if seconds >= self._limit:
            self._hand_over()
            return
        self._proofs -= 1
        if not self._proofs:
            self._keep()

    def timed(self) -> bool:
        """Counts a call on the thread of the caller; whether ``ran`` is to be told its time."""
        if not self._rest:
            return True
        self._rest -= 1
        if not self._rest:
            self._try(helped=False)
        return not self._bounded

    def ran(self, seconds: float) -> None:
        """Takes note of the time of a call on the thread of the caller."""
        if seconds >= INLINE_SECONDS and not self._bounded:
            self._hand_over()
        if self._rest or not self.inline:
            return
        self._best = min(self._best, seconds)
        self._left -= 1
        if self._left:
            return
        if not self.helped:
            self._alone = self._best
            if self._threads > 1 and self._bounded and self._best > HELP_SECONDS:
                self._try(helped=True)
                return
        if min(self._alone, self._best) >= self._limit:
            self._hand_over()
        self.helped, self._rest = self._best < self._alone, self._period
        self._period = min(2 * self._period, LAST_PERIOD)
