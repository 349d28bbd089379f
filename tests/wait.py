"""Waiting for a condition: tests never sleep for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LONGEST_PAUSE_SECONDS = 0.1


def until(condition: Callable[[], T], seconds: float = 30, what: str = "the condition") -> T:
    """Call ``condition`` until it returns something true, and return that.

    Raises AssertionError with ``what`` and the last value once ``seconds`` have passed. What the
    condition raises passes through.
    """
    deadline = time.monotonic() + seconds
    pause = 0.002
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s; last value: {value!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
    return value
