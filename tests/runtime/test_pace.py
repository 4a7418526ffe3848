"""Which threads run the calls of a plan."""

from __future__ import annotations

from math import inf

import pytest

from pjit.runtime.pace import (
    FIRST_PERIOD,
    HELP_SECONDS,
    INLINE_SECONDS,
    LAST_PERIOD,
    PROOFS,
    TRIALS,
    WAITED_PERIOD,
    WAITED_SECONDS,
    WAITS,
    Pace,
)

SHORT, LONG = INLINE_SECONDS / 2, INLINE_SECONDS * 2


def tell(pace: Pace, *seconds: float) -> None:
    for s in seconds:
        assert pace.timed()
        pace.ran(s)


def count_untimed(pace: Pace) -> int:
    calls = 0
    while not pace.timed():
        calls += 1
        assert calls <= LAST_PERIOD
    return calls


@pytest.mark.parametrize(
    ("guess", "inline"), [(0.0, True), (SHORT, True), (LONG, False), (inf, False)]
)
def test_the_first_call_goes_by_the_guess(guess: float, inline: bool) -> None:
    assert Pace(guess, 2).inline == inline


def test_a_call_of_the_workers_that_was_short() -> None:
    pace = Pace(LONG, 2)
    pace.queued(LONG)
    assert not pace.inline
    pace.queued(SHORT)
    assert pace.inline
    assert not pace.helped


def test_a_call_that_takes_little_longer_than_to_copy_its_arrays() -> None:
    pace = Pace(LONG, 2)
    pace.queued(LONG, LONG / 3)
    assert not pace.inline
    pace.queued(LONG, LONG / 1.5)
    assert pace.inline
    tell(pace, *[LONG] * (2 * TRIALS))
    assert pace.inline
    assert count_untimed(pace) == FIRST_PERIOD
    tell(pace, *[2 * LONG] * (2 * TRIALS))
    assert not pace.inline


def test_copies_say_nothing_of_what_depends_on_the_data() -> None:
    pace = Pace(inf, 2)
    for _ in range(2 * PROOFS):
        pace.queued(LONG, LONG)
    assert not pace.inline


def test_what_depends_on_the_data_is_short_only_after_some_proofs() -> None:
    pace = Pace(inf, 1)
    for seconds in (*[SHORT] * (PROOFS - 1), LONG, *[SHORT] * (PROOFS - 1)):
        pace.queued(seconds)
        assert not pace.inline
    pace.queued(SHORT)
    assert pace.inline


@pytest.mark.parametrize("before", [1, TRIALS + 3])
def test_what_depends_on_the_data_goes_back_after_one_long_call(before: int) -> None:
    pace = Pace(inf, 1)
    for _ in range(PROOFS):
        pace.queued(SHORT)
    tell(pace, *[SHORT] * before)
    assert pace.inline
    tell(pace, LONG)
    assert not pace.inline
    for _ in range(PROOFS):
        assert not pace.inline
        pace.queued(SHORT)
    assert pace.inline


@pytest.mark.parametrize("faster", [True, False])
def test_help_where_it_pays(faster: bool) -> None:
    pace = Pace(SHORT, 2)
    tell(pace, SHORT, *[SHORT / 2] * (TRIALS - 1))
    assert pace.helped
    tell(pace, *[SHORT] * (TRIALS - 1), SHORT / 3 if faster else SHORT)
    assert (pace.inline, pace.helped) == (True, faster)
    assert count_untimed(pace) == FIRST_PERIOD
    assert not pace.helped, "the ways are compared again, beginning with one thread"


@pytest.mark.parametrize(("seconds", "threads"), [(HELP_SECONDS / 2, 4), (SHORT, 1)])
def test_no_help_where_it_cannot_pay(seconds: float, threads: int) -> None:
    pace = Pace(0.0, threads)
    tell(pace, *[seconds] * TRIALS)
    assert (pace.inline, pace.helped) == (True, False)
    assert count_untimed(pace) == FIRST_PERIOD


def test_what_depends_on_the_data_runs_alone() -> None:
    pace = Pace(inf, 2)
    for _ in range(PROOFS):
        pace.queued(SHORT)
    for _ in range(3 * TRIALS):
        pace.ran(SHORT)
        assert not pace.helped


def test_the_ways_are_compared_ever_less_often() -> None:
    pace, waits = Pace(0.0, 1), []
    for _ in range(8):
        tell(pace, *[SHORT] * TRIALS)
        waits.append(count_untimed(pace))
    assert waits[:3] == [FIRST_PERIOD, 2 * FIRST_PERIOD, 4 * FIRST_PERIOD]
    assert waits[-2:] == [LAST_PERIOD] * 2


def test_what_proves_long_goes_to_the_workers() -> None:
    pace = Pace(SHORT, 2)
    tell(pace, *[LONG] * (2 * TRIALS))
    assert not pace.inline
    pace.queued(SHORT)
    assert pace.inline
    assert pace.timed()


def wait(pace: Pace, calls: int, seconds: float = LONG) -> None:
    for _ in range(calls):
        assert not pace.inline
        pace.queued(seconds, waited=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_caller_that_always_waits_runs_its_calls(threads: int) -> None:
    pace = Pace(LONG, threads)
    wait(pace, WAITS - 1)
    pace.queued(LONG)
    wait(pace, WAITS)
    assert (pace.inline, pace.patient, pace.helped) == (True, True, threads > 1)
    tell(pace, *[LONG] * TRIALS)
    assert (pace.inline, pace.patient, pace.helped) == (True, True, threads > 1)


def test_now_and_then_it_is_seen_whether_a_caller_still_waits() -> None:
    pace = Pace(LONG, 2)
    wait(pace, WAITS)
    for _ in range(5):
        assert pace.patient
        tell(pace, *[LONG] * TRIALS)
        assert count_untimed(pace) == WAITED_PERIOD
        wait(pace, 1)
    tell(pace, *[LONG] * TRIALS)
    count_untimed(pace)
    assert not pace.inline
    pace.queued(LONG)
    wait(pace, WAITS)
    assert pace.patient


def test_a_call_that_proves_very_long_goes_back_to_the_workers() -> None:
    pace = Pace(LONG, 2)
    wait(pace, 2 * WAITS, WAITED_SECONDS)
    wait(pace, 1)
    tell(pace, *[WAITED_SECONDS] * TRIALS)
    assert not pace.inline


def test_what_depends_on_the_data_and_is_long_never_runs_here() -> None:
    wait(Pace(inf, 2), 2 * WAITS)


def test_short_calls_of_a_caller_that_waits_are_short_calls() -> None:
    pace = Pace(LONG, 2)
    pace.queued(SHORT, waited=True)
    assert (pace.inline, pace.patient) == (True, False)
