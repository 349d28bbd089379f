"""Windowed aggregates of rows that were really inserted: pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from shared.errors import InvalidEvent
from shared.pipeline import RollupSection
from workers.loader.clean import CleanEvent, moment
from workers.loader.fields import Fields

_FIRST_SECOND = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
_SUMMED = {int, Decimal, bool, type(None)}
#: Window, keys and amounts of events → how many there are.
Counts = Counter[tuple[Any, ...]]
_decode_rows = msgspec.json.Decoder(list[list[Any]], float_hook=Decimal).decode


@dataclass(frozen=True)
class RollupRow:
    """A window's key and what to add to its aggregates."""

    window_start: datetime
    keys: tuple[str, ...]
    deltas: tuple[int | Decimal | None, ...]


def paths(section: RollupSection) -> list[str]:
    """Everything that a rollup reads of an event's data."""
    return [*section.by, *_amount_paths(section)]


def _amount_paths(section: RollupSection) -> list[str]:
    return list(dict.fromkeys(kept.path for kept in section.kept if kept.path is not None))


class Rollup:
    """A rollup, and how its keys and amounts are read.

    Its methods take events and, in a list of the same length, their decoded data.
    """

    def __init__(self, section: RollupSection, fields: Fields) -> None:
        self.section = section
        self._keys = [fields.getter(path) for path in section.by]
        found = _amount_paths(section)
        self._amounts = [(path, fields.getter(path)) for path in found]
        #: For each column that is kept: how it is added to, and the place of its amount, if it has one.
        self._kept = [(kept.function, None if kept.path is None else found.index(kept.path)) for kept in section.kept]

    def count(self, events: Sequence[CleanEvent], data: Sequence[Any]) -> Counts:
        """How many events have the same window, keys and amounts: mostly few combinations, so summing them is cheap.

        Raises InvalidEvent if it cannot take a time or an amount: before they are loaded, not after.
        """
        events, data = self._taken(events, data)
        values = [list(map(get, data)) for get in (*self._keys, *(get for _, get in self._amounts))]
        return Counter(self._combinations([event.time for event in events], values))

    def count_written(self, written: Mapping[bytes, int]) -> Counts:
        """The same of the JSON of times and of values at ``paths``, with commas between them → how many: at least one.

        Raises msgspec's errors too.
        """
        times, *values = map(list, zip(*_decode_rows(b"[[" + b"],[".join(written) + b"]]"), strict=True))
        counts: Counts = Counter()
        for combination, count in zip(self._combinations(times, values), written.values(), strict=True):
            counts[combination] += count
        return counts

    def _combinations(self, times: Sequence[str], values: Sequence[list[Any]]) -> Iterator[tuple[Any, ...]]:
        windows = {text: self._window(text) for text in set(times)}
        keys = len(self._keys)
        amounts = [_summable(path, some) for (path, _), some in zip(self._amounts, values[keys:], strict=True)]
        return zip(map(windows.__getitem__, times), *map(_texts, values[:keys]), *amounts, strict=True)

    def deltas(self, counted: Iterable[Counts]) -> list[RollupRow]:
        """What to add, one row for each window and key, sorted: unsorted upserts deadlock.

        Windows are tumbling, aligned to the epoch, on event time. A key that is absent is an empty text.
        """
        total: Counts = Counter()
        for counts in counted:
            total.update(counts)
        keys = len(self._keys)
        windows: dict[tuple[int, tuple[str, ...]], list[int | Decimal | None]] = {}
        for (window, *rest), count in total.items():
            row = windows.setdefault((window, tuple(rest[:keys])), list(self._nothing))
            self._add(row, list(map(_number, rest[keys:])), count)
        return [
            RollupRow(datetime.fromtimestamp(window, UTC), key, tuple(row))
            for (window, key), row in sorted(windows.items())
        ]

    @property
    def _nothing(self) -> list[int | None]:
        """What is kept of no events; an extreme of nothing is NULL."""
        return [None if function in {"min", "max"} else 0 for function, _ in self._kept]

    def _add(self, row: list[int | Decimal | None], amounts: Sequence[int | Decimal | None], count: int) -> None:
        for index, (function, place) in enumerate(self._kept):
            present = row[index]
            if place is None:
                row[index] = (present or 0) + count
            elif (amount := amounts[place]) is None:
                continue  # An absent value is in no aggregate.
            elif function == "sum":
                row[index] = (present or 0) + count * amount
            elif function == "count":
                row[index] = (present or 0) + count
            else:
                row[index] = amount if present is None else (min if function == "min" else max)(present, amount)

    def takes(self, kind: str) -> bool:
        """Whether it counts events of a type."""
        return self.section.event_types is None or kind in self.section.event_types

    @property
    def paths(self) -> list[str]:
        """Everything that it reads of an event's data: keys, then amounts."""
        return paths(self.section)

    def _taken(self, events: Sequence[CleanEvent], data: Sequence[Any]) -> tuple[Sequence[CleanEvent], Sequence[Any]]:
        if self.section.event_types is None:
            return events, data
        places = [index for index, event in enumerate(events) if self.takes(event.type)]
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
        raise InvalidEvent(f"{path} is {value!r}, which is no number", "bad_row")
    return values


def _texts(values: list[Any]) -> list[str]:
    if set(map(type, values)) == {str}:
        return values
    return [value if isinstance(value, str) else "" if value is None else str(value) for value in values]


def _number(value: Any) -> int | Decimal | None:
    return int(value) if isinstance(value, bool) else value
