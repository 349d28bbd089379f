"""Types of columns out of the values of a field: pure.

A type is chosen that takes every value seen, as the loader writes it. Text of JSON stays text, unless every value
is a UUID, a date or a time: `"007"` is no number.
"""

import re
from collections.abc import Collection
from datetime import date, datetime
from typing import Any

from shared.errors import InvalidEvent
from shared.events import parse_time

#: What a value is. An integer is exact as a double up to 2⁵³, fits a bigint up to 2⁶³.
NULL, BOOLEAN, INTEGER, LONG, HUGE, FLOAT = "null", "boolean", "integer", "long", "huge", "float"
TEXT, EMPTY, UUID, DATE, LOCAL_TIME, TIME = "text", "empty", "uuid", "date", "local time", "time"
ARRAY, OBJECT = "array", "object"

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,30})(\.\d{1,30})?", re.ASCII)
_LONGEST = 40

#: Kinds that occur together → the type that takes them all; the first set that holds every kind counts.
_TYPES = (
    ({BOOLEAN}, "boolean"),
    ({INTEGER, LONG}, "bigint"),
    ({INTEGER, FLOAT}, "double precision"),
    ({INTEGER, LONG, HUGE, FLOAT}, "numeric"),
    ({UUID}, "uuid"),
    ({DATE}, "date"),
    ({LOCAL_TIME}, "timestamp"),
    ({LOCAL_TIME, TIME}, "timestamptz"),
    ({BOOLEAN, INTEGER, LONG, HUGE, FLOAT, TEXT, EMPTY, UUID, DATE, LOCAL_TIME, TIME}, "text"),
)
_SCALARS = {bool: BOOLEAN, float: FLOAT, list: ARRAY, dict: OBJECT, type(None): NULL}


def kind_of(value: Any) -> str:
    """What a JSON value is."""
    if isinstance(value, str):
        return _kind_of_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return INTEGER if -(1 << 53) <= value <= 1 << 53 else LONG if -(1 << 63) <= value < 1 << 63 else HUGE
    return _SCALARS[type(value)]


def type_of(kinds: Collection[str]) -> str:
    """Type of a column that takes values of all these kinds."""
    present = set(kinds) - {NULL}
    if not present:
        return "text"
    return next((name for accepted, name in _TYPES if present <= accepted), "jsonb")


def is_number(text: str) -> bool:
    """Whether a text could be read as a number without losing anything: no leading zero, no exponent."""
    return _NUMBER.fullmatch(text) is not None


def _kind_of_text(text: str) -> str:
    if not text:
        return EMPTY
    if len(text) > _LONGEST or not (text[0].isdigit() or len(text) == 36):
        return TEXT
    if _UUID.fullmatch(text):
        return UUID
    if _DATE.fullmatch(text):
        return DATE if _is_date(text) else TEXT
    match = _TIME.fullmatch(text)
    if match is None or not _is_time(text):
        return TEXT
    return TIME if match[3] else LOCAL_TIME


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    try:
        parse_time(text)
        datetime.fromisoformat(text)
    except (InvalidEvent, ValueError):
        return False
    return True
