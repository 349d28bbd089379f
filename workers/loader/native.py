"""Entries of the usual kind straight from their JSON into rows of COPY's binary format, by ``c/rows.c``.

A third of the time that ``rows.py`` takes, and for a click PostgreSQL itself takes 6.3 µs instead of 9.6: it looks for
no tabs and parses no times. Columns of other types and upserts are not for it. Anything unusual in an entry, and every
entry where there was no C compiler, goes the way of ``rows.py``.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

import msgspec

from shared.errors import InvalidEvent
from shared.events import parse_time
from shared.pipeline import ATTRIBUTES, TableSection
from shared.text import is_utf8
from workers.loader.clean import moment
from workers.loader.columns import copy_order
from workers.loader.nodes import Group, Node, nodes_of
from workers.loader.rollups import Counts, Rollup

try:
    from workers.loader import _rows
except ImportError:
    AVAILABLE = False
else:
    # One that was compiled for another version of this file is none.
    AVAILABLE = _rows.VERSION == 1

#: What C is told: nodes; groups of them; for each column the node that fills it and how it is written; for each rollup
#: the nodes that it counts by.
Told = tuple[tuple[Node, ...], tuple[Group, ...], tuple[tuple[int, int], ...], tuple[tuple[int, ...], ...]]
#: How cells are written, as in c/cells.h.
_TEXT, _UUID, _JSON, _JSONB, _MOMENT, _NUMERIC = 0, 1, 7, 8, 9, 10
_VALUES = {
    "text": _TEXT,
    "character varying": _TEXT,
    "bpchar": _TEXT,
    "uuid": _UUID,
    "boolean": 2,
    "smallint": 3,
    "integer": 4,
    "bigint": 5,
    "double precision": 6,
    "jsonb": _JSONB,
    "timestamp with time zone": _MOMENT,
    # Of a path; an event's own time would be that of the clock where it was taken.
    "timestamp without time zone": _MOMENT,
    "numeric": _NUMERIC,
}
_TEXTS = {kind: _VALUES[kind] for kind in ("text", "character varying", "uuid")}
_TYPES = {
    "$time": {"timestamp with time zone": _MOMENT},
    "$data": {"json": _JSON, "jsonb": _JSONB},
    **dict.fromkeys(("$id", "$type", "$source", "$key"), _TEXTS),
}
_MOST_COLUMNS = 256
_BEFORE_TYPE = b'"type":"'
_decode = msgspec.json.Decoder().decode
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Found(NamedTuple):
    """The table of an entry's events, their rows, and what each rollup counts of them."""

    table: str
    rows: bytes
    counts: list[Counts]


class _Plan(NamedTuple):
    """What becomes of events of a type (None: of any): their table, and of the rollups those that count them."""

    kind: bytes | None
    table: str
    told: Told
    counted: list[Rollup | None]


class Native:
    """Finds the table of an entry and makes its rows, where all of it is as usual."""

    def __init__(
        self, tables: Sequence[TableSection], types: Mapping[str, Mapping[str, str]], rollups: Sequence[Rollup]
    ) -> None:
        self._plans: dict[bytes | None, _Plan] = {}
        for section in tables if AVAILABLE else ():
            for kind in section.event_types:
                counted = [one if one.takes(kind) else None for one in rollups]
                told = _told(section, types[section.name], [one for one in counted if one is not None])
                every = kind == "*" and len(tables) == len(section.event_types) == 1 and None not in counted
                if told is not None and (kind != "*" or every):
                    named = None if every else kind.encode()
                    self._plans[named] = _Plan(named, section.name, told, counted)
        #: Names of the tables that it makes rows for.
        self.tables = frozenset(plan.table for plan in self._plans.values())

    def rows(self, body: bytes, count: int) -> Found | None:
        """Rows of an entry's events, which are NDJSON; None where anything in it is unusual."""
        plan = self._plans.get(None) or self._plans.get(_type_of(body))
        if plan is None or not is_utf8(body):
            return None
        made = _rows.rows(body, count, plan.kind, plan.told, _moment_of)
        if made is None:
            return None
        rows, written = made
        combinations = iter(written)
        try:
            counts = [Counts() if one is None else one.count_written(next(combinations)) for one in plan.counted]
        except (InvalidEvent, msgspec.MsgspecError, RecursionError):
            return None
        return Found(plan.table, rows, counts)


def _told(section: TableSection, types: Mapping[str, str], counted: Sequence[Rollup]) -> Told | None:
    """None where a column or a rollup is not for C."""
    columns = [(section.columns[name], types[name]) for name in copy_order(section)]
    paths = [source for source, _ in columns if source not in ATTRIBUTES]
    tree = nodes_of([*paths, *(path for rollup in counted for path in rollup.paths)])
    codes = [code for source, kind in columns if (code := _TYPES.get(source, _VALUES).get(kind)) is not None]
    if tree is None or section.mode == "upsert" or not len(columns) == len(codes) <= _MOST_COLUMNS:
        return None
    written = tuple((tree.places[source], code) for (source, _), code in zip(columns, codes, strict=True))
    by = tuple(tuple(tree.places[path] for path in ("$time", *rollup.paths)) for rollup in counted)
    return tree.nodes, tree.groups, written, by


def _type_of(body: bytes) -> bytes:
    """What stands for the type of the first event, as our transform writes events; C looks at all of them."""
    begin = body.find(_BEFORE_TYPE) + len(_BEFORE_TYPE)
    return body[begin : body.find(b'"', begin)]


@lru_cache(maxsize=4096)
def _moment_of(time: bytes, is_of_event: int) -> int | None:
    """Microseconds since 2000 of the JSON of a time, an event's own or one of its data; None if it is none."""
    try:
        value = _decode(time)
        return ((moment(value) if is_of_event else parse_time(value)) - _EPOCH) // _MICROSECOND
    except (InvalidEvent, msgspec.MsgspecError):
        return None
