"""Rows: events into lines of COPY; what cannot be one is dead with a reason, its neighbours go on."""

import sys
from typing import Any

import msgspec
import pytest

from shared.attributes import Attributes
from shared.entries import Entry, batch_fields
from shared.pipeline import PipelineFile
from workers.loader.columns import copy_text
from workers.loader.rows import Prepared, Router

TYPES = {
    "t": {
        "id": "uuid",
        "at": "timestamp with time zone",
        "n": "bigint",
        "day": "date",
        "due": "timestamp",
        "deep": "text",
    },
    "log": {"payload": "jsonb", "kind": "text", "part": "jsonb"},
}
FILE = {
    "pipeline": {"name": "p"},
    "table": [
        {
            "name": "t",
            "event_types": ["click"],
            "columns": {"id": "$id", "at": "$time", "n": "n", "day": "day", "due": "due", "deep": "a.b"},
        },
        {"name": "log", "event_types": ["log"], "mode": "append", "columns": {"payload": "$data", "kind": "$type"}},
    ],
    "rollup": [
        {"table": "r", "window": "5s", "aggregates": {"s": "sum(n)"}, "event_types": ["click"]},
    ],
}


def _router(**more: Any) -> Router:
    file = PipelineFile.model_validate(FILE | more)
    return Router(file, TYPES, "{p}:clean", Attributes(file.ingest, "p"))


def _line(data: Any, kind: str = "click", number: int = 1, time: str = "2026-11-21T10:00:00Z") -> bytes:
    event_id = f"00000000-0000-8000-8000-{number:012d}"
    return msgspec.json.encode({"id": event_id, "type": kind, "source": "s", "time": time, "data": data})


def _entry(*lines: bytes) -> Entry:
    fields = batch_fields(b"".join(line + b"\n" for line in lines), len(lines), 5)
    raw = [value if isinstance(value, bytes) else str(value).encode() for value in fields]
    return Entry("7-1", dict(zip(raw[::2], raw[1::2], strict=True)))


def _prepare(*lines: bytes, **more: Any) -> Prepared:
    prepared = _router(**more).prepare(_entry(*lines))
    assert sum(map(len, prepared.rows.values())) + prepared.unrouted + len(prepared.dead) == len(lines)
    return prepared


def _cells(prepared: Prepared, table: str = "t") -> list[list[str]]:
    return [row.line.decode().removesuffix("\n").split("\t") for row in prepared.rows[table]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\\N"),
        ("", ""),
        ("\\N", "\\\\N"),
        ("a\tb\nc\rd\\e", "a\\tb\\nc\\rd\\\\e"),
        (True, "true"),
        (False, "false"),
        (2**70, str(2**70)),
        (1.5, "1.5"),
        ({"a": ["x\ny"]}, '{"a":["x\\\\ny"]}'),
    ],
)
def test_values_in_the_format_of_copy(value: object, text: str) -> None:
    assert copy_text(value) == text


def test_cells_come_from_attributes_and_paths() -> None:
    data = {"n": 3, "day": "2026-11-21", "due": "2026-11-21T12:00:00+02:00", "a": {"b": "x\ty"}}
    ((event_id, at, n, day, due, deep),) = _cells(_prepare(_line(data)))
    assert event_id == "00000000-0000-8000-8000-000000000001"
    assert (at, n, day) == ("2026-11-21T10:00:00+00:00", "3", "2026-11-21")
    assert (due, deep) == ("2026-11-21T10:00:00+00:00", "x\\ty")
    assert _cells(_prepare(_line({})))[0][2:] == ["\\N"] * 4


def test_an_event_of_no_table_is_dead_or_unrouted_or_falls_to_the_catch_all() -> None:
    lines = [_line({}), _line({}, "view"), _line({}, "log")]
    prepared = _prepare(*lines)
    assert [(one.index, one.reason) for one in prepared.dead] == [(1, "no_table")]
    assert {name: [row.place for row in rows] for name, rows in prepared.rows.items()} == {"t": [0], "log": [2]}
    filtered = _prepare(*lines, loader={"unmatched": "filter"})
    assert (filtered.unrouted, filtered.dead) == (1, [])
    tables: Any = FILE["table"]
    catch_all = [tables[0], tables[1] | {"event_types": ["*"]}]
    assert [row.place for row in _prepare(*lines, table=catch_all).rows["log"]] == [1, 2]


@pytest.mark.parametrize(
    ("line", "reason", "text"),
    [
        (_line({"due": "now"}), "bad_row", "due: 'now' is no time"),
        (_line({"due": "infinity"}), "bad_row", "due: 'infinity' is no time"),
        (_line({"due": [1]}), "bad_row", "due: "),
        (_line({"day": "today"}), "bad_row", "day: 'today'"),
        (_line({"day": "tomorrow!!"[:10]}), "bad_row", "day: "),
        (_line({"n": "three"}), "bad_row", "n is 'three', which is no number"),
        (_line({"n": [1]}), "bad_row", "is no number"),
        (_line([1]), "malformed", "data is no JSON object"),
        (_line(None), "malformed", "data is no JSON object"),
        (_line({}, time="now"), "malformed", "no event"),
        (b"{}", "malformed", "no event"),
        (b"\xff\x00", "malformed", "no event"),
        (b'{"id":' * 10_000, "malformed", "no event"),
    ],
)
def test_what_cannot_be_a_row_is_dead_and_its_neighbours_go_on(line: bytes, reason: str, text: str) -> None:
    prepared = _prepare(_line({"n": 1}, number=1), line, _line({"n": 2}, number=2))
    ((dead),) = prepared.dead
    assert (dead.index, dead.reason) == (1, reason)
    assert text in dead.message
    assert [row.place for row in prepared.rows["t"]] == [0, 2]


@pytest.mark.parametrize("value", ["x", [1], {"c": 1}, 7, None, True, 1.5])
def test_a_path_never_reaches_into_python(value: object) -> None:
    """A text has no `title`, a list no `count`, a number no `real`."""
    for path in ("a.title", "a.count", "a.real", "a.__class__", "a.c.d"):
        table: Any = {"name": "log", "event_types": ["click"], "mode": "append", "columns": {"kind": path}}
        prepared = _prepare(_line({"a": value}), table=[table], rollup=[])
        assert _cells(prepared, "log") == [["\\N"]]


def test_no_depth_of_nesting_ends_the_loader() -> None:
    deepest = 0
    for depth in range(1, sys.getrecursionlimit() + 50):
        line = _line({}).replace(b'"data":{}', b'"data":{"a":{"b":' + b"[" * depth + b"]" * depth + b"}}")
        prepared = _prepare(line)
        deepest = depth if prepared.rows else deepest
    assert deepest > 500


def test_white_space_in_json_text_stays_one_cell() -> None:
    line = _line({}, "log").replace(b'"data":{}', b'"data":{"a":\t1,\r"b":"\\n\\\\"}')
    ((kind, payload),) = _cells(_prepare(line), "log")
    assert payload == '{"a":\\t1,\\r"b":"\\\\n\\\\\\\\"}'
    assert kind == "log"


def test_an_object_that_reaches_over_the_end_of_its_line_is_no_row() -> None:
    """As nobody of ours writes it: COPY would take the second line for another row."""
    line = _line({}, "log").replace(b'"data":{}', b'"data":{"a":\n1}')
    prepared = _router().prepare(_entry(line))
    assert ([one.reason for one in prepared.dead], prepared.rows) == (["malformed"], {})
    assert _router().lines(_entry(line)) == [line + b"\n"]


def test_an_entry_that_cannot_be_taken_apart_is_dead_whole() -> None:
    entry = Entry("7-1", {b"v": b"1", b"n": b"3", b"c": b"zstd", b"d": b"no zstd"})
    prepared = _router().prepare(entry)
    assert [(one.index, one.reason) for one in prepared.dead] == [(0, "malformed"), (1, "malformed"), (2, "malformed")]
    assert _router().lines(entry) == [b"no zstd", b"", b""]


def test_a_time_without_a_zone_is_utc() -> None:
    prepared = _prepare(_line({}, time="2026-11-21T10:00:00"))
    assert _cells(prepared)[0][1] == "2026-11-21T10:00:00+00:00"


@pytest.mark.parametrize(
    ("value", "cell"),
    [("plain", '"plain"'), ('q"\\', '"q\\\\"\\\\\\\\"'), ({"a": [1]}, '{"a":[1]}'), (True, "true"), (None, "\\N")],
)
def test_a_path_into_a_json_column_becomes_json(value: Any, cell: str) -> None:
    table = {"name": "log", "event_types": ["log"], "mode": "append", "columns": {"part": "part"}}
    prepared = _prepare(_line({"part": value}, kind="log"), table=[table], rollup=[])
    assert _cells(prepared, "log") == [[cell]]
