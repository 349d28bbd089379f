"""Windowed aggregates of rows that were really inserted: pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from shared.errors import InvalidEvent
from shared.pipeline import RollupSection
from workers.loader.clean import CleanEvent, moment
from workers.loader.fields import Fields

_FIRST_SECOND = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
_SUMMED = {int, float, bool, type(None)}
#: Window, keys and amounts of events → how many there are.
Counts = Counter[tuple[Any, ...]]


@dataclass(frozen=True)
class RollupRow:
    """A window's key and what to add to its aggregates."""

    window_start: datetime
    keys: tuple[str, ...]
    deltas: tuple[int | Decimal, ...]


def paths(section: RollupSection) -> list[str]:
    """Everything that a rollup reads of an event's data."""
    return [*section.by, *(path for path in section.aggregate_paths if path is not None)]


class Rollup:
    """A rollup, and how its keys and amounts are read.

    Its methods take events and, in a list of the same length, their decoded data.
    """

    def __init__(self, section: RollupSection, fields: Fields) -> None:
        self.section = section
        self._keys = [fields.getter(path) for path in section.by]
        self._amounts = [(path, fields.getter(path)) for path in section.aggregate_paths if path is not None]

    def count(self, events: Sequence[CleanEvent], data: Sequence[Any]) -> Counts:
        """How many events have the same window, keys and amounts: mostly few combinations, so summing them is cheap.

        Raises InvalidEvent if it cannot take a time or an amount: before they are loaded, not after.
        """
        events, data = self._taken(events, data)
        times = [event.time for event in events]
        windows = {text: self._window(text) for text in set(times)}
        columns = [
            map(windows.__getitem__, times),
            *(_texts(list(map(get, data))) for get in self._keys),
            *(_summable(path, list(map(get, data))) for path, get in self._amounts),
        ]
        return Counter(zip(*columns, strict=True))

    def deltas(self, counted: Iterable[Counts]) -> list[RollupRow]:
        """What to add, one row for each window and key, sorted: unsorted upserts deadlock.

        Windows are tumbling, aligned to the epoch, on event time. A key that is absent is an empty text.
        """
        total: Counts = Counter()
        for counts in counted:
            total.update(counts)
        keys = len(self._keys)
        sums: dict[tuple[int, tuple[str, ...]], list[int | Decimal]] = {}
        for (window, *rest), count in total.items():
            row = sums.setdefault((window, tuple(rest[:keys])), [0] * len(self.section.aggregates))
            self._add(row, rest[keys:], count)
        return [
            RollupRow(datetime.fromtimestamp(window, UTC), key, tuple(row))
            for (window, key), row in sorted(sums.items())
        ]

    def _add(self, row: list[int | Decimal], amounts: Sequence[Any], count: int) -> None:
        left = iter(amounts)
        for index, path in enumerate(self.section.aggregate_paths):
            row[index] += count if path is None else count * _number(next(left))

    def _taken(self, events: Sequence[CleanEvent], data: Sequence[Any]) -> tuple[Sequence[CleanEvent], Sequence[Any]]:
        kinds = self.section.event_types
        if kinds is None:
            return events, data
        places = [index for index, event in enumerate(events) if event.type in kinds]
        return [events[index] for index in places], [data[index] for index in places]

    def _window(self, text: str) -> int:
        width = self.section.window_seconds
        window = int(moment(text).timestamp() // width * width)
        if window < _FIRST_SECOND:
            raise InvalidEvent(f"{text} lies in a window that begins before the year 1", "bad_time")
        return window


def _summable(path: str, values: list[Any]) -> list[Any]:
    """The values, if each can be summed."""
    if not set(map(type, values)) <= _SUMMED:
        value = next(value for value in values if type(value) not in _SUMMED)
        raise InvalidEvent(f"{path} is {value!r}, which cannot be summed", "bad_row")
    return values


def _texts(values: list[Any]) -> list[str]:
    if set(map(type, values)) == {str}:
        return values
    return [value if isinstance(value, str) else "" if value is None else str(value) for value in values]


def _number(value: Any) -> int | Decimal:
    """Sums of floats depend on their order; numerics do not."""
    return 0 if value is None else Decimal(repr(value)) if isinstance(value, float) else int(value)
