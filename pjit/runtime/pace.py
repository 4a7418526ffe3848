"""Which threads run the calls of a plan: chosen by what earlier calls took.

A call runs on the thread of the caller, with or without the help of the workers, or on the workers
while the caller goes on. To hand over a short call takes longer than the caller gains by it, and so
does to copy large arrays for a call that does little with them. A caller that waited for the last
results as soon as it had called gains nothing at all as long as it does. The results do not depend
on the choice.
"""

from __future__ import annotations

from math import inf, isfinite

INLINE_SECONDS = 1e-3  # calls that take less run on the thread of the caller
COPIES = 2.0  # and those that take less than copying their arrays so many times
WAITS = 8  # calls in a row after which a caller counts as one that waits
SOON = 0.02  # the part of a call after which who waits for it did not do much else
WAITED_SECONDS = 50e-3  # calls that take less run on the thread of a caller that waits
HELP_SECONDS = 10e-6  # calls that take less on one thread are not shared with the workers
TRIALS = 4  # calls that are timed each way; the fastest counts
PROOFS = 8  # short calls in a row after which a plan counts as short though the data decide
FIRST_PERIOD, LAST_PERIOD = 30, 960  # calls between two comparisons; each time twice as many
WAITED_PERIOD = 30  # calls after which it is seen whether a caller still waits


class Pace:
    """How the calls of a plan run.

    Args:
        guess: The estimated seconds of a call; infinite when the data decide. Then calls run on the
            thread of the caller only after ``PROOFS`` short ones, and until one is not; and alone,
            as signal handlers may run meanwhile that make and wait for other calls.
        threads: The number of workers.

    Attributes:
        inline: Whether calls run on the thread of the caller.
        patient: Whether they do because it would wait; other threads that call would wait too.
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
        "_waits",
        "helped",
        "inline",
        "patient",
    )

    def __init__(self, guess: float, threads: int) -> None:
        self._bounded, self._threads = isfinite(guess), threads
        self._alone, self._period, self._limit = inf, FIRST_PERIOD, INLINE_SECONDS
        self._waits = 0
        self._hand_over()
        if guess < INLINE_SECONDS:
            self._keep()

    def _hand_over(self) -> None:
        """The next calls run on the workers."""
        self.inline = self.patient = False
        self._proofs = 1 if self._bounded else PROOFS

    def _keep(self, patient: bool = False) -> None:
        """The next calls run on the thread of the caller."""
        self.inline, self.patient = True, patient
        self._try(helped=patient and self._threads > 1)

    def _try(self, helped: bool) -> None:
        """Begins to time the calls one way."""
        self.helped, self._left, self._best, self._rest = helped, TRIALS, inf, 0

    def queued(self, seconds: float, copying: float = 0.0, waited: bool = False) -> None:
        """Takes note of a call that the workers ran.

        Args:
            seconds: The time until its end was noticed.
            copying: The time that it took to copy its arrays before.
            waited: Whether the caller waited for it from the start and had nothing else to do.
        """
        if self.inline:
            return
        self._waits = self._waits + 1 if waited else 0
        if self._bounded:
            self._limit = max(INLINE_SECONDS, COPIES * copying)
        if seconds < self._limit:
            self._proofs -= 1
            if not self._proofs:
                self._keep()
            return
        self._hand_over()
        if self._bounded and self._waits >= WAITS and seconds < WAITED_SECONDS:
            self._limit = WAITED_SECONDS
            self._keep(patient=True)

    def timed(self) -> bool:
        """Counts a call on the thread of the caller; whether ``ran`` is to be told its time."""
        if not self._rest:
            return True
        self._rest -= 1
        if not self._rest:
            if self.patient:
                self._hand_over()  # the caller may have begun to do something else meanwhile
            else:
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
        self.helped = self._best < self._alone
        if self.patient:
            self._rest = WAITED_PERIOD
            return
        self._rest, self._period = self._period, min(2 * self._period, LAST_PERIOD)
