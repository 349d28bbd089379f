"""The deadline of user code: one timer for a batch, an event has a deadline and at most a tick more."""

import math
import signal
import time

import pytest

from shared.stopping import Stop
from workers.transform.deadline import Deadline, UserCodeTimeout


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize("tick", [math.inf, 0.07, 0.03])
def test_one_event_is_stopped_after_its_deadline(tick: float) -> None:
    began = time.monotonic()
    with Deadline(0.1, tick=tick) as deadline:
        deadline.current = 0
        with pytest.raises(UserCodeTimeout, match=r"longer than 0\.1 s"):
            _spin(5)
    assert time.monotonic() - began >= 0.1


def test_a_blocking_call_is_interrupted() -> None:
    with Deadline(0.05) as deadline:
        deadline.current = 3
        with pytest.raises(UserCodeTimeout):
            time.sleep(60)


def test_a_batch_may_take_longer_than_one_event() -> None:
    with Deadline(0.5) as deadline:
        for index in range(30):
            deadline.current = index
            _spin(0.05)
        deadline.current = None
        _spin(1.2)


def test_nothing_fires_after_the_batch() -> None:
    with Deadline(0.02) as deadline:
        deadline.current = 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    _spin(0.1)


def test_a_deadline_can_be_used_again() -> None:
    deadline = Deadline(0.05)
    for _ in range(2):
        with deadline:
            deadline.current = 0
            with pytest.raises(UserCodeTimeout):
                _spin(5)
    with deadline:
        deadline.current = 0
        _spin(0.01)


def test_progress_is_told_as_long_as_there_is_any() -> None:
    told: list[int | None] = []
    deadline = Deadline(0.4, lambda: told.append(deadline.current), tick=0.02)
    with deadline:
        for index in range(3):
            deadline.current = index
            _spin(0.1)
        with pytest.raises(UserCodeTimeout):
            _spin(5)
    assert told == [0, 1, 2], "once for each event that the timer met"


def test_a_request_to_stop_is_seen_at_a_tick() -> None:
    stop = Stop()
    deadline = Deadline(5, tick=0.02, stop=stop)
    seen = []
    with deadline:
        _spin(0.1)
        seen.append(deadline.leaving)
        stop.set()
        _spin(0.1)
        seen.append(deadline.leaving)
    with deadline:
        seen.append(deadline.leaving)
    assert seen == [False, True, True]
