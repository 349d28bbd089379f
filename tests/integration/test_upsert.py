"""Tables in which the newest event wins, and rollups of averages and extremes, on a real PostgreSQL."""

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest

from shared.attributes import Attributes
from shared.database import connect
from shared.database.load import Recorded
from shared.database.tables import check_tables
from shared.entries import Entry, batch_fields
from shared.errors import ConfigurationError
from shared.events import SourceIds
from shared.pipeline import Pipeline, PipelineFile
from workers.loader import transaction
from workers.loader.rows import Router
from workers.loader.transaction import Loader

IDS = SourceIds("orders")
TABLES = """
CREATE TABLE orders (shop text, number integer, state text NOT NULL, at timestamptz NOT NULL, event uuid NOT NULL,
                     PRIMARY KEY (shop, number));
CREATE TABLE readings (event uuid PRIMARY KEY, sensor char(3), temp numeric);
CREATE TABLE minutes (window_start timestamptz, sensor char(3), events bigint NOT NULL, temp numeric,
                      temp_sum numeric NOT NULL, temp_count bigint NOT NULL, low numeric, "hi%" double precision,
                      PRIMARY KEY (window_start, sensor));
"""
FILE: dict[str, Any] = {
    "table": [
        {
            "name": "orders",
            "event_types": ["order"],
            "mode": "upsert",
            "key": ["shop", "number"],
            "columns": {"shop": "shop", "number": "number", "state": "state", "at": "$time", "event": "$id"},
        },
        {
            "name": "readings",
            "event_types": ["reading"],
            "columns": {"event": "$id", "sensor": "sensor", "temp": "temp"},
        },
    ],
    "rollup": [
        {
            "table": "minutes",
            "window": "1m",
            "by": ["sensor"],
            "event_types": ["reading"],
            "aggregates": {"events": "count", "temp": "avg(temp)", "low": "min(temp)", "hi%": "max(temp)"},
        }
    ],
}
places = itertools.count(1)


def _event(place: int, kind: str, time: str = "2026-11-21T10:00:00Z", **data: Any) -> bytes:
    given = {"id": IDS.id(place, b""), "type": kind, "source": "s", "time": time, "data": data}
    return msgspec.json.encode(given) + b"\n"


def _order(number: int, minute: int, state: str, *, shop: str = "a", order: Any = 1) -> bytes:
    return _event(number, "order", f"2026-11-21T10:{minute:02d}:00Z", shop=shop, number=order, state=state)


def _entry(*lines: bytes) -> Entry:
    raw = [
        value if isinstance(value, bytes) else str(value).encode()
        for value in batch_fields(b"".join(lines), len(lines), 5)
    ]
    return Entry(f"{next(places)}-0", dict(zip(raw[::2], raw[1::2], strict=True)))


class Target:
    """A loader's connection to the test's own database."""

    def __init__(self, url: str, pipeline: Pipeline) -> None:
        self.url = url
        self.connection = connect(url, "test-loader")
        try:
            types = check_tables(url, self.connection, pipeline)
        except ConfigurationError:
            self.connection.close()
            raise
        self.router = Router(pipeline.file, types, "clean", Attributes(pipeline.file.ingest, pipeline.name))
        self.loader = Loader(url, "clean", pipeline.file, self.router.rollups, types)

    def run(self, *entries: Entry, staged: bool = False) -> list[tuple[int, int, int]]:
        figures: list[Recorded] = transaction.run(
            self.loader, self.connection, entries, self.router.prepare, staged=staged
        )
        return [(one.loaded, one.duplicates, len(one.dead)) for one in figures]

    def rows(self, statement: str) -> list[Any]:
        return self.connection.execute(statement.encode()).fetchall()

    def states(self) -> list[Any]:
        return self.rows("SELECT shop, number, state FROM orders ORDER BY 1, 2")


def _pipeline(name: str, tmp_path: Any, **changes: Any) -> Pipeline:
    return Pipeline(folder=tmp_path, file=PipelineFile.model_validate({"pipeline": {"name": name}} | FILE | changes))


@pytest.fixture
def target(database_url: str, pipeline_name: str, tmp_path: Any) -> Iterator[Target]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS orders, readings, minutes")
        connection.execute(TABLES)
    made = Target(database_url, _pipeline(pipeline_name, tmp_path))
    yield made
    made.connection.close()


@pytest.mark.parametrize("staged", [False, True])
def test_the_newest_wins_whatever_the_order(target: Target, staged: bool) -> None:
    assert target.run(_entry(_order(1, 5, "paid")), staged=staged) == [(1, 0, 0)]
    assert target.run(_entry(_order(2, 3, "new")), staged=staged) == [(0, 1, 0)]
    assert target.states() == [("a", 1, "paid")]
    assert target.run(_entry(_order(3, 7, "shipped")), staged=staged) == [(1, 0, 0)]
    assert target.states() == [("a", 1, "shipped")]


@pytest.mark.parametrize("staged", [False, True])
def test_one_key_many_times_in_one_transaction(target: Target, staged: bool) -> None:
    first = _entry(_order(1, 1, "new"), _order(2, 9, "cancelled"), _order(3, 5, "paid"))
    second = _entry(_order(4, 8, "shipped"), _order(5, 2, "new", order=2), _order(6, 2, "new", shop="b"))
    assert target.run(first, second, staged=staged) == [(1, 2, 0), (2, 1, 0)]
    assert target.states() == [("a", 1, "cancelled"), ("a", 2, "new"), ("b", 1, "new")]


def test_at_equal_times_the_higher_id_wins_in_either_order(target: Target) -> None:
    target.run(_entry(_order(1, 5, "first"), _order(2, 5, "second")))
    target.run(_entry(_order(2, 5, "second", order=2)), _entry(_order(1, 5, "first", order=2)))
    assert target.states() == [("a", 1, "second"), ("a", 2, "second")]


def test_the_same_again_changes_nothing(target: Target) -> None:
    target.run(_entry(_order(1, 5, "paid")))
    assert target.run(_entry(_order(1, 5, "paid"))) == [(0, 1, 0)]


def test_a_row_without_its_key_or_that_does_not_fit_is_dead_and_its_neighbours_land(target: Target) -> None:
    lines = [_order(1, 1, "new"), _order(2, 1, "new", order=None), _order(3, 1, "new", order="x"), _order(4, 2, "paid")]
    with pytest.raises(Exception, match="number"):
        target.run(_entry(*lines))
    assert target.run(_entry(*lines), staged=True) == [(2, 0, 2)]
    assert target.states() == [("a", 1, "paid")]


def test_tables_of_both_modes_in_one_transaction(target: Target) -> None:
    entry = _entry(_order(1, 1, "new"), _event(2, "reading", sensor="x", temp=1), _order(3, 2, "paid"))
    assert target.run(entry) == [(2, 1, 0)]
    assert target.states() == [("a", 1, "paid")]
    assert target.rows("SELECT count(*) FROM readings") == [(1,)]


def test_loaders_that_race_for_the_same_keys_agree(target: Target, pipeline_name: str, tmp_path: Any) -> None:
    chance = random.Random(7)
    events = [(number, number % 60, f"state-{number}", number % 5) for number in range(400)]
    chance.shuffle(events)
    made = [Target(target.url, _pipeline(pipeline_name, tmp_path)) for _ in range(3)]

    def load(index: int) -> None:
        for begin in range(index * 10, len(events), 30):
            part = events[begin : begin + 10]
            made[index].run(_entry(*(_order(number, at, state, order=order) for number, at, state, order in part)))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(load, range(3)))
    for one in made:
        one.connection.close()
    newest = {order: max((at, number) for number, at, _, mine in events if mine == order) for order in range(5)}
    assert target.states() == [("a", order, f"state-{number}") for order, (_, number) in sorted(newest.items())]


@pytest.mark.parametrize("way", ["at once", "direct", "staged"])
def test_averages_and_extremes_add_up_over_transactions(
    target: Target, pipeline_name: str, tmp_path: Any, way: str
) -> None:
    if way == "at once":
        target.connection.close()
        target = Target(target.url, _pipeline(pipeline_name, tmp_path, table=FILE["table"][1:]))
    assert (target.loader.at_once is None) == (way != "at once")
    temps = [21.5, -3, None, 100, 0.25, 21.5]
    for begin in range(0, len(temps), 2):
        lines = [
            _event(begin + place, "reading", sensor="ab", temp=temp)
            for place, temp in enumerate(temps[begin : begin + 2])
        ]
        target.run(_entry(*lines), staged=way == "staged")
    (row,) = target.rows('SELECT sensor, events, temp, temp_sum, temp_count, low, "hi%" FROM minutes')
    known = [temp for temp in temps if temp is not None]
    assert row[:2] == ("ab ", 6)
    assert [float(value) for value in row[2:]] == [sum(known) / 5, sum(known), 5, -3, 100]
    (check,) = target.rows("SELECT round(avg(temp), 10) = round((SELECT temp FROM minutes), 10) FROM readings")
    assert check == (True,)
    target.connection.close()


def test_fractions_keep_all_their_digits(target: Target) -> None:
    digits = "12345678901234567.89"
    lines = [
        _event(place, "reading", sensor="a", temp=0).replace(b'"temp":0', b'"temp":' + text.encode())
        for place, text in enumerate((digits, "1e-20", "0.1"))
    ]
    target.run(_entry(*lines))
    total = Decimal(digits) + Decimal("1e-20") + Decimal("0.1")
    assert target.rows("SELECT temp FROM readings ORDER BY temp DESC LIMIT 1") == [(Decimal(digits),)]
    assert target.rows("SELECT temp_sum, low FROM minutes") == [(total, Decimal("1e-20"))]


def test_an_aggregate_of_nothing_is_null(target: Target) -> None:
    target.run(_entry(_event(1, "reading", sensor="a")))
    assert target.rows('SELECT events, temp, low, "hi%" FROM minutes') == [(1, None, None, None)]
    target.run(_entry(_event(2, "reading", sensor="a", temp=4)))
    assert target.rows('SELECT events, temp, low, "hi%" FROM minutes') == [(2, 4, 4, 4.0)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE orders DROP CONSTRAINT orders_pkey", "no primary key or unique constraint on exactly"),
        (
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ALTER number DROP NOT NULL, ADD UNIQUE (shop, number)",
            "part of the key and may be NULL",
        ),
        ("ALTER TABLE minutes DROP temp_sum", "no column 'temp_sum'"),
    ],
)
def test_a_table_that_cannot_take_them_is_refused_at_the_start(
    target: Target, pipeline_name: str, tmp_path: Any, change: str, said: str
) -> None:
    target.connection.execute(change.encode())
    with pytest.raises(ConfigurationError, match=said):
        Target(target.url, _pipeline(pipeline_name, tmp_path))
