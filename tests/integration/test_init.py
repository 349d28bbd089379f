"""The table that `init` designs takes every line of its sample, by the very code that loads it."""

import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import psycopg.rows
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bargeline.init import columns, fields, folder, names, sampling
from shared.attributes import Attributes
from shared.database.load import column_types, copying
from shared.entries import Entry
from shared.events import find, now
from shared.pipeline import Pipeline, PipelineFile
from shared.text import without_nul
from workers.ingest.files import Checkpoint
from workers.ingest.lines import EventMaker, Limits, LineSplitter
from workers.loader.columns import copy_order
from workers.loader.rows import Router
from workers.transform.deadline import Deadline
from workers.transform.function import load_decoder, load_function
from workers.transform.handler import Handler, handle

LIMITS = Limits(500, 10_000_000, 16_777_216)

NUMBERS = st.one_of(
    st.integers(-(10**40), 10**40),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 1_763_629_200, 1_763_629_200_123]),
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "007", "1.50", "2026-11-21", "2026-02-30", "now", "infinity", "true", "NaN", "\\N", "\0", "a\tb\nc"]
    ),
    st.sampled_from(["2026-11-21T10:00:00Z", "2026-11-21 10:00", "2026-11-21T24:00:00Z", "0001-01-01T00:00:00+14:00"]),
    st.uuids().map(str),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.dates().map(lambda day: day.isoformat()),
)
KEYS = st.one_of(
    st.sampled_from(
        ["id", "ID", "order", "user", "ctid", "time", "event_id", "payload", "occurred_at", "a", "a.b", "b", ""]
    ),
    st.sampled_from(
        ["userName", "user name", "user-name", "%s", "$id", "/a/b", "~", 'qu"ote', "größe", "x" * 80, "7", "\0"]
    ),
    st.text(max_size=5),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(KEYS, VALUES, max_size=6), min_size=1, max_size=6)


@pytest.fixture
def connection(empty_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        yield connection


def _designed(path: Path, home: Path) -> tuple[Pipeline, sampling.Sample]:
    root = fields.Field()
    sample = sampling.read_sample(str(path), 0, 16_777_216, lambda _, data: root.note(data))
    chosen = columns.choose(root, None)
    design = folder.Design("p", names.table_name(names.stem(path.name)), "e", chosen)
    folder.write(home, folder.files(design, sample))
    text = (home / "pipeline.toml").read_text()
    return Pipeline(folder=home, file=PipelineFile.model_validate(tomllib.loads(text))), sample


def _carried(connection: psycopg.Connection[Any], pipeline: Pipeline, content: bytes) -> list[dict[str, Any]]:
    """What is in the table after ingest's, transform's and loader's code; nothing may become a dead letter."""
    attributes = Attributes(pipeline.file.ingest, pipeline.name)
    splitter = LineSplitter(Checkpoint(), LIMITS, lambda _: None)
    maker = EventMaker("sample", attributes, "test")
    handler = Handler(
        decode=load_decoder(pipeline),
        function=load_function(pipeline),
        batch=False,
        deadline=Deadline(30),
        attributes=attributes,
        limits=pipeline.file.pipeline,
        stream="raw",
        consumer="test",
    )
    (migration,) = pipeline.migrations.glob("*.sql")
    connection.execute(migration.read_bytes())
    (table,) = pipeline.file.table
    router = Router(pipeline.file, {table.name: column_types(connection, table.name)}, "clean", attributes)
    for batch in (*splitter.feed(content), *splitter.finish()):
        made = maker.make(batch, now())
        assert made.dead == []
        if not made.events:
            continue
        outcome = handle(handler, _entry(made.events, made.body))
        assert (outcome.dead, outcome.retries, outcome.mapped) == ([], [], made.events)
        for count, body in outcome.segments:
            prepared = router.prepare(_entry(count, body))
            assert prepared.dead == []
            with copying(connection, table.name, copy_order(table)) as write:
                write(prepared.rows[table.name].copy)
    cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
    return cursor.execute(f'SELECT * FROM "{table.name}" ORDER BY 1'.encode()).fetchall()


def _entry(count: int, body: bytes) -> Entry:
    return Entry("1-0", {b"v": b"1", b"n": str(count).encode(), b"c": b"json", b"d": body, b"t": b"1"})


def _lines(objects: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in objects)


@given(objects=OBJECTS)
@example(objects=[{"a": {"b": 1}, "a.b": "x"}, {"a.b": 2}])
@example(objects=[{"\0": "\0"}, {"x": ["\0"]}])
@example(objects=[{"event_id": 1, "payload": 2, "occurred_at": 3, "bargeline_id": 4}])
@example(objects=[{f"{'k' * 70}{number}": number for number in range(80)}])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_of_a_sample_is_loaded(
    connection: psycopg.Connection[Any], tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, Any]]
) -> None:
    home = tmp_path_factory.mktemp("p")
    path = home / "x.ndjson"
    path.write_bytes(_lines(objects))
    pipeline, sample = _designed(path, home / "p")
    with connection.transaction(force_rollback=True):
        rows = _carried(connection, pipeline, path.read_bytes())
    assert len(rows) == len(objects) == sample.events
    filled = pipeline.file.table[0].columns
    (payload,) = (name for name, source in filled.items() if source == "$data")
    assert _comparable(row[payload] for row in rows) == _comparable(map(without_nul, objects))
    for row in rows:
        for name, source in filled.items():
            if not source.startswith("$"):
                value = find(row[payload], source)
                assert (row[name] is None) == (value is None), (name, source)
                if isinstance(value, int | float) and not isinstance(row[name], str):
                    assert float(row[name]) == float(value), (name, source)


def _comparable(objects: Iterable[Any]) -> list[str]:
    """jsonb keeps numbers, not how they were written."""
    return sorted(repr(_plain(one)) for one in objects)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return float(value) + 0.0 if isinstance(value, int | float) and not isinstance(value, bool) else value


def test_no_word_is_missing_that_this_postgresql_reserves(connection: psycopg.Connection[Any]) -> None:
    words = connection.execute("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')").fetchall()
    assert {word for (word,) in words} <= names.RESERVED
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'pg_class'::regclass AND attnum < 0"
    )
    assert {name for (name,) in columns.fetchall()} == names.SYSTEM_COLUMNS


def test_tables_of_the_core_are_known(database_url: str) -> None:
    with psycopg.connect(database_url) as core:
        rows = core.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert {name for (name,) in rows} - {"clicks", "mobile_users_by_timezone"} == names.CORE_TABLES
