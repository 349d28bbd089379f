"""Rollups: windows aligned to the epoch, sums that do not depend on order, keys sorted."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidEvent
from shared.pipeline import RollupSection
from workers.loader.clean import CleanEvent
from workers.loader.fields import Fields
from workers.loader.rollups import Rollup, RollupRow, paths

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _rollup(window: str = "5s", **more: Any) -> Rollup:
    given_ = {"table": "r", "window": window, "by": ["zone"], "aggregates": {"mobile": "sum(m)", "events": "count"}}
    section = RollupSection.model_validate(given_ | more)
    return Rollup(section, Fields(paths(section)))


def _event(seconds: float, kind: str = "click", **data: Any) -> CleanEvent:
    time = (EPOCH + timedelta(seconds=seconds)).isoformat()
    return CleanEvent("i", kind, "s", time, msgspec.Raw(msgspec.json.encode(data)))


def _data(rollup: Rollup, events: list[CleanEvent]) -> list[Any]:
    return Fields(paths(rollup.section)).decode([event.data for event in events])


def _deltas(rollup: Rollup, events: list[CleanEvent]) -> list[RollupRow]:
    return rollup.deltas([rollup.count(events, _data(rollup, events))])


def _check(rollup: Rollup, event: CleanEvent) -> None:
    rollup.count([event], _data(rollup, [event]))


def test_windows_are_aligned_to_the_epoch() -> None:
    found = _deltas(_rollup(), [_event(second, zone="a", m=True) for second in (0, 4.999999, 5, -0.000001, -5)])
    assert found == [
        RollupRow(EPOCH - timedelta(seconds=5), ("a",), (2, 2)),
        RollupRow(EPOCH, ("a",), (2, 2)),
        RollupRow(EPOCH + timedelta(seconds=5), ("a",), (1, 1)),
    ]


def test_missing_values_count_as_nothing() -> None:
    found = _deltas(_rollup(), [_event(0), _event(1, zone=None, m=None), _event(2, zone=7, m=False)])
    assert [(row.keys, row.deltas) for row in found] == [(("",), (0, 2)), (("7",), (0, 1))]


def test_sums_of_floats_do_not_depend_on_their_order() -> None:
    values = [0.1, 0.2, 0.3, 1e15, -1e15]
    for order in (values, values[::-1]):
        (row,) = _deltas(_rollup(), [_event(0, m=value) for value in order])
        assert row.deltas == (Decimal("0.6"), 5)


@pytest.mark.parametrize("value", ["7", [], {}, "x"])
def test_what_cannot_be_summed_is_refused_before_it_is_loaded(value: object) -> None:
    _check(_rollup(event_types=["view"]), _event(0, m=value))
    with pytest.raises(InvalidEvent, match="is no number") as caught:
        _check(_rollup(), _event(0, m=value))
    assert caught.value.reason == "bad_row"


def test_only_the_types_of_the_rollup_count() -> None:
    events = [_event(0, "click", m=1), _event(0, "view", m=10)]
    assert [row.deltas for row in _deltas(_rollup(event_types=["view"]), events)] == [(10, 1)]


def test_a_window_that_begins_before_the_calendar_is_refused() -> None:
    early = CleanEvent("i", "click", "s", "0001-01-01T00:00:01Z", msgspec.Raw(b'{"zone":"a"}'))
    with pytest.raises(InvalidEvent, match="window"):
        _check(_rollup("9d"), early)
    _check(_rollup("1s"), early)
    assert _deltas(_rollup("1s"), [early])[0].window_start == datetime(1, 1, 1, 0, 0, 1, tzinfo=UTC)


@given(st.lists(st.tuples(st.integers(-10_000, 10_000), st.sampled_from("abc"), st.integers(-5, 5)), max_size=50))
def test_rows_equal_a_recount_and_are_sorted(given_: list[tuple[int, str, int]]) -> None:
    found = _deltas(_rollup("1m"), [_event(second, zone=zone, m=value) for second, zone, value in given_])
    keys = [(row.window_start, row.keys) for row in found]
    assert keys == sorted(set(keys))
    for row in found:
        mine = [
            value
            for second, zone, value in given_
            if (zone,) == row.keys and 0 <= second - (row.window_start - EPOCH).total_seconds() < 60
        ]
        assert row.deltas == (sum(mine), len(mine))
    assert sum(row.deltas[1] or 0 for row in found) == len(given_)


def test_extremes_and_averages_leave_out_what_is_absent() -> None:
    aggregates = {"a": "avg(m)", "low": "min(m)", "high": "max(m)", "events": "count"}
    events = [_event(0, zone="a", m=value) for value in (2, 0.5, None, -1, 2)]
    rollup = _rollup(aggregates=aggregates)
    assert [row.deltas for row in _deltas(rollup, events)] == [(Decimal("3.5"), 4, -1, 2, 5)]
    (nothing,) = _deltas(rollup, [_event(0, zone="a")])
    assert nothing.deltas == (0, 0, None, None, 1)
