"""Windowed aggregates of rows that were really inserted: pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from shared import events
from shared.errors import InvalidEvent
from shared.events import AnyEvent
from shared.pipeline import RollupSection

_FIRST_SECOND = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())


@dataclass(frozen=True)
class RollupRow:
    """A window's key and what to add to its aggregates."""

    window_start: datetime
    keys: tuple[str, ...]
    deltas: tuple[int | Decimal, ...]

    @property
    def values(self) -> tuple[Any, ...]:
        """In the order of the table's columns."""
        return (self.window_start, *self.keys, *self.deltas)


def takes(rollup: RollupSection, event: AnyEvent) -> bool:
    """Whether events of this type count in the rollup."""
    return rollup.event_types is None or event.type in rollup.event_types


def check(rollups: Sequence[RollupSection], event: AnyEvent) -> None:
    """Raise InvalidEvent if a rollup cannot take the event's time or values: before it is loaded, not after."""
    for rollup in rollups:
        if takes(rollup, event):
            if event.time.year < 1970 and _window(rollup, event) < _FIRST_SECOND:
                raise InvalidEvent(f"{event.time} lies in a window that begins before the year 1", "bad_time")
            for path in rollup.aggregate_paths:
                _amount(event, path)


def deltas(rollup: RollupSection, inserted: Iterable[AnyEvent]) -> list[RollupRow]:
    """What to add, one row for each window and key, sorted: unsorted upserts deadlock.

    Windows are tumbling, aligned to the epoch, on event time. A key that is absent is an empty text.
    """
    paths = rollup.aggregate_paths
    sums: dict[tuple[int, tuple[str, ...]], list[int | Decimal]] = {}
    for event in inserted:
        if not takes(rollup, event):
            continue
        key = (_window(rollup, event), tuple([_key(event, path) for path in rollup.by]))
        row = sums.get(key)
        if row is None:
            row = sums[key] = [0] * len(paths)
        for index, path in enumerate(paths):
            row[index] += _amount(event, path)
    return [
        RollupRow(datetime.fromtimestamp(window, UTC), keys, tuple(row)) for (window, keys), row in sorted(sums.items())
    ]


def _window(rollup: RollupSection, event: AnyEvent) -> int:
    return int(event.time.timestamp() // rollup.window_seconds * rollup.window_seconds)


def _key(event: AnyEvent, path: str) -> str:
    value = events.find(event.data, path)
    return value if isinstance(value, str) else "" if value is None else str(value)


def _amount(event: AnyEvent, path: str | None) -> int | Decimal:
    if path is None:
        return 1
    value = events.find(event.data, path)
    if value is None:
        return 0
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        # Sums of floats depend on their order; numerics do not.
        return Decimal(repr(value))
    raise InvalidEvent(f"{path} is {value!r}, which cannot be summed", "bad_row")
