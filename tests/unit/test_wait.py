"""until: the helper that every other test waits with."""

import pytest

from tests.wait import until


def test_returns_the_first_true_value() -> None:
    values = iter([None, 0, "", "ready", "later"])
    assert until(lambda: next(values), what="a value") == "ready"


def test_says_what_was_missing_and_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"three rows: not within 0\.01 s; last value: 0"):
        until(lambda: 0, seconds=0.01, what="three rows")


def test_checks_once_even_without_time() -> None:
    assert until(lambda: True, seconds=-1) is True


def test_an_error_in_the_condition_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        until(lambda: 1 / 0)
