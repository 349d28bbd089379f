"""Verdicts on groups: each line of the table is a situation that somebody met at night."""

import pytest

from shared.streams.inspect import ConsumerState, GroupState
from shared.verdicts import WINDOW_SECONDS, GroupVerdict, Observation, duration, judge, recent


def _seen(
    at: float,
    added: int,
    settled: int,
    oldest: float | None = 0,
    *,
    workers: tuple[str, ...] = ("one",),
    holders: tuple[ConsumerState, ...] = (),
    paused: str | None = None,
) -> Observation:
    state = GroupState(
        stage="clean",
        group="loader",
        stream_entries=0,
        added_events=added,
        settled_events=settled,
        lag_events=None,
        lag_entries=None,
        lag_seconds=oldest,
        pending_entries=sum(one.pending_entries for one in holders),
        pending_events=None,
        workers=list(workers),
        consumers=list(holders),
    )
    return Observation(at, state, paused)


def _judged(first: tuple[int, int], last: tuple[int, int], oldest: float, seconds: float = 30) -> GroupVerdict:
    return judge([_seen(0, *first), _seen(seconds, *last, oldest)])


@pytest.mark.parametrize(
    ("first", "last", "oldest", "seconds", "verdict"),
    [
        ((0, 0), (0, 0), 0, 30, "ok"),  # an idle fleet
        ((0, 0), (90_000, 90_000), 0.1, 30, "ok"),
        ((50_000, 0), (50_000, 0), 59, 3, "ok"),  # a burst has just come; nobody can tell yet
        ((50_000, 0), (50_000, 0), 61, 3, "stalled"),
        ((7, 0), (7, 0), 3_600, 30, "stalled"),  # a lag of 7 would look well on any panel
        ((900_000, 0), (900_000, 1), 3_600, 30, "slow"),
        ((900_000, 0), (900_000, 600_000), 3_600, 30, "slow"),  # after an outage, draining
        ((900_000, 0), (900_000, 600_000), 40, 30, "ok"),  # a burst that is gone in 15 s
        ((0, 0), (60_000, 30_000), 15, 30, "slow"),  # grows: 30 s behind already
        ((0, 0), (60_000, 55_000), 3, 30, "ok"),  # grows, but a moment behind
        ((0, 0), (60_000, 30_000), 1, 1, "ok"),  # of one second nobody tells growth
        ((200_000, 0), (230_000, 30_000), 50, 30, "slow"),  # full, and the marks hold it: who comes waits for 200 s
    ],
)
def test_verdicts(first: tuple[int, int], last: tuple[int, int], oldest: float, seconds: float, verdict: str) -> None:
    assert _judged(first, last, oldest, seconds).verdict == verdict


def test_rates_and_time_to_drain() -> None:
    draining = _judged((1_000, 0), (1_300, 600), 20)
    assert (draining.in_per_second, draining.out_per_second, draining.drain_seconds) == (10, 20, 70)
    assert draining.cause == "700 events wait, the oldest for 20 s; 10/s in, 20/s out; drains in 70 s"
    growing = _judged((0, 0), (600, 300), 25)
    assert growing.drain_seconds is None
    assert growing.cause.endswith("20/s in, 10/s out; does not shrink")
    assert _judged((5, 5), (5, 5), 0).drain_seconds == 0


def test_a_group_without_workers_or_with_an_open_breaker_is_stopped() -> None:
    gone = judge([_seen(0, 9, 0), _seen(30, 9, 0, 31, workers=())])
    assert (gone.verdict, gone.is_finding) == ("stopped", True)
    assert gone.cause.startswith("no loader worker is alive; 9 events wait")
    idle = judge([_seen(0, 9, 9, workers=())])
    assert (idle.verdict, idle.is_finding) == ("stopped", False)
    paused = judge([_seen(0, 9, 0), _seen(30, 9, 0, 31, paused="600 of 1,000 are dead letters")])
    assert paused.verdict == "stopped"
    assert paused.cause.startswith("the breaker is open: 600 of 1,000 are dead letters; 9 events wait")


def test_the_consumer_that_holds_something_for_longest_is_named() -> None:
    held = (ConsumerState("a", "live", 1, 4), ConsumerState("b", "live", 2, 70), ConsumerState("c", "live", 0, 900))
    found = judge([_seen(0, 500, 0), _seen(3, 500, 0, 70, holders=held)])
    assert (found.verdict, found.consumer) == ("stalled", "b")
    assert found.cause.endswith("b has held 2 entries for 70 s")
    assert judge([_seen(0, 500, 0), _seen(3, 500, 0, 70)]).cause.endswith("no worker takes any")
    pool = judge([_seen(0, 5, 0, 70, holders=(ConsumerState("~reclaimed", "pool", 1, 9),))])
    assert pool.cause.endswith("1 entry of workers that ended have waited for 9 s to be taken")


def test_one_look_tells_no_rate() -> None:
    found = judge([_seen(0, 10, 0, 3_600)])
    assert (found.verdict, found.in_per_second, found.out_per_second, found.drain_seconds) == ("slow", None, None, None)
    assert judge([_seen(0, 10, 0, None)]).cause == "10 events wait, of unknown age"


def test_the_window_forgets_what_is_old_and_what_an_earlier_epoch_counted() -> None:
    seen: list[Observation] = []
    for second in range(0, WINDOW_SECONDS + 20, 10):
        seen = recent(seen, _seen(second, second, second))
    assert seen[0].at_seconds == 10
    assert len(recent(seen, _seen(60, 3, 2))) == 1
    assert len(recent(seen, _seen(60, 100, 2))) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (0.44, "0.4 s"), (119, "119 s"), (180, "3 min"), (7_300, "2 h"), (1e6, "12 d")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
