"""The columns of a table for the fields that were seen, and what of them is the event's time or id: pure."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bargeline.init import types
from bargeline.init.fields import Field
from bargeline.init.names import column_name

#: Columns that are made of fields; the rest stays in the payload.
MOST_COLUMNS = 60
#: Names of fields that hold the time of an event, the best first.
_TIME_NAMES = (
    *("time", "timestamp", "event_time", "event_timestamp", "occurred_at", "occurred", "datetime", "date_time", "ts"),
    *("created_at", "created", "creation_time", "logged_at", "received_at", "date", "at", "t"),
)
_FIRST_SECOND, _LAST_SECOND = 946_684_800, 4_102_444_800  # 2000 and 2100
_SIMPLE_KEY = re.compile(r"[^./$~][^.]*")


@dataclass(frozen=True)
class Column:
    """A column: what fills it (`$id`, or a path), its type, how many events had it, and how many of them null."""

    name: str
    source: str
    type: str
    present: int = 0
    nulls: int = 0
    note: str = ""
    not_null: bool = False

    @property
    def is_own(self) -> bool:
        """Whether it holds an attribute of the event, not one of its fields."""
        return self.source.startswith("$")


@dataclass(frozen=True)
class Columns:
    """All columns, fields that became none (as paths), and paths that may be the event's time or id."""

    all: tuple[Column, ...]
    left_out: tuple[str, ...]
    time: str | None
    other_times: tuple[str, ...]
    ids: tuple[str, ...]


def choose(root: Field, time: str | None, most: int = MOST_COLUMNS) -> Columns:
    """Decide for a table; ``time`` is the path of the event's time where the user names it."""
    leaves = [leaf for child in root.children.values() for leaf in child.leaves()]
    fullest = sorted(leaves, key=lambda leaf: -(leaf.present - leaf.nulls))[:most]
    kept = {id(leaf) for leaf in fullest}
    top = set(root.children)
    found, others = _times(leaves, root.present)
    paths = [path_of(leaf.keys, top) for leaf in (found, *others) if leaf]
    own = _own_columns({column_name(leaf.keys) for leaf in fullest})
    columns: dict[str, Column] = {column.name: column for column in own}
    for leaf in (leaf for leaf in leaves if id(leaf) in kept):
        column = _column(leaf, top, columns)
        columns[column.name] = column
    payload = columns.pop(own[-1].name)
    return Columns(
        all=(*columns.values(), payload),
        left_out=tuple(path_of(leaf.keys, top) for leaf in leaves if id(leaf) not in kept),
        time=(chosen := time or (path_of(found.keys, top) if found else None)),
        other_times=tuple(path for path in paths if path != chosen),
        ids=tuple(path_of(leaf.keys, top) for leaf in leaves if leaf.unique and leaf.present == root.present),
    )


def path_of(keys: Sequence[str], top: Collection[str] = ()) -> str:
    """What leads to these keys in a pipeline file: joined by dots where that is unambiguous, else a JSON Pointer."""
    plain = ".".join(keys)
    if all(map(_SIMPLE_KEY.fullmatch, keys)) and (len(keys) == 1 or plain not in top):
        return plain
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)


def _own_columns(taken: Collection[str]) -> list[Column]:
    """Those of the event itself; where a field is called so they make way."""

    def name(usual: str, otherwise: str) -> str:
        return column_name([otherwise], taken) if usual in taken else usual

    return [
        Column(name("event_id", "bargeline_id"), "$id", "uuid", note="made of the line's file, place and bytes"),
        Column(name("occurred_at", "bargeline_time"), "$time", "timestamptz", not_null=True),
        Column(name("payload", "bargeline_payload"), "$data", "jsonb", note="the whole line", not_null=True),
    ]


def _column(leaf: Field, top: Collection[str], taken: Collection[str]) -> Column:
    name = column_name(leaf.keys, taken)
    note = ""
    kinds = set(leaf.kinds) - {types.NULL}
    if not kinds:
        note = "always null"
    elif leaf.type == "text" and types.EMPTY in kinds and types.type_of(kinds - {types.EMPTY}) not in ("text", "jsonb"):
        note = f"{types.type_of(kinds - {types.EMPTY})}, but for {leaf.kinds[types.EMPTY]:,} empty texts"
    elif leaf.type == "text" and kinds <= {types.TEXT, types.EMPTY} and leaf.numbers_as_text:
        note = "numbers, written as text"
    elif len(kinds) > 1 and leaf.type in ("text", "jsonb"):
        note = f"mixed: {', '.join(sorted(kinds))}"
    return Column(name, path_of(leaf.keys, top), leaf.type, leaf.present, leaf.nulls, note)


def _times(leaves: Sequence[Field], events: int) -> tuple[Field | None, list[Field]]:
    """The field that is the time of an event, and others that might be: times that all of them have.

    It is one that is called like that, or the only one that there is.
    """
    found = sorted((leaf for leaf in leaves if leaf.present == events and _is_time(leaf)), key=_rank)
    clear = bool(found) and (_rank(found[0])[0] < len(_TIME_NAMES) or len(found) == 1)
    return (found[0], found[1:]) if clear else (None, found)


def _rank(leaf: Field) -> tuple[int, int]:
    """Places in a list of names that times have, the best first; then how deep it lies."""
    name = column_name(leaf.keys[-1:]).rstrip("_")
    return (_TIME_NAMES.index(name) if name in _TIME_NAMES else len(_TIME_NAMES)), len(leaf.keys)


def _is_time(leaf: Field) -> bool:
    if leaf.nulls:
        return False
    if leaf.type.startswith("timestamp"):
        return True
    if leaf.type not in ("bigint", "double precision"):
        return False
    named = _rank(leaf)[0] < len(_TIME_NAMES)
    units = (1, 1000)  # of seconds, and of milliseconds
    return named and any(leaf.lowest >= _FIRST_SECOND * unit and leaf.highest <= _LAST_SECOND * unit for unit in units)
