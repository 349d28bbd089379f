"""Rows that C makes, in a real PostgreSQL: the same as Python's, beside Python's, and refused like Python's."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.attributes import Attributes
from shared.database import RowError, connect
from shared.database.tables import check_tables
from shared.entries import Entry, batch_fields
from shared.events import SourceIds
from shared.pipeline import Pipeline, PipelineFile
from workers.loader import native, transaction
from workers.loader.rows import Prepared, Router
from workers.loader.transaction import Loader

pytestmark = pytest.mark.skipif(not native.AVAILABLE, reason="there was no C compiler")
IDS = SourceIds("all")
TABLES = """
CREATE TABLE everything (
    id uuid PRIMARY KEY, at timestamptz NOT NULL, kind text, key text, words text, short varchar(5), code char(3),
    exact numeric, price numeric(8, 2), seen timestamptz, local timestamp, small smallint, whole integer, large bigint,
    real double precision, yes boolean, other uuid,
    part jsonb, payload jsonb, document json
);
CREATE TABLE minutes (window_start timestamptz, code char(3), whole bigint NOT NULL, events bigint NOT NULL,
    PRIMARY KEY (window_start, code));
"""
PATHS = (
    "words",
    "short",
    "code",
    "exact",
    "price",
    "seen",
    "local",
    "small",
    "whole",
    "large",
    "real",
    "yes",
    "other",
    "part",
)
FILE: dict[str, Any] = {
    "table": [
        {
            "name": "everything",
            "event_types": ["e"],
            "columns": {"payload": "$data", "id": "$id", "at": "$time", "kind": "$type", "key": "$key"}
            | {path: path for path in PATHS}
            | {"document": "$data"},
        }
    ],
    "rollup": [
        {"table": "minutes", "window": "1m", "by": ["code"], "aggregates": {"whole": "sum(whole)", "events": "count"}}
    ],
}
#: More than one statement takes.
MANY = 300
_places = itertools.count(1)
#: What becomes of events in PostgreSQL: rows, and windows.
Content = tuple[list[Any], list[Any]]


class Target:
    """A loader, with C or without, on tables of its own."""

    def __init__(self, url: str, name: str, folder: Path, *, with_c: bool) -> None:
        self.connection = connect(url, "test-loader")
        self.connection.execute(b"DROP TABLE IF EXISTS everything, minutes")
        self.connection.execute(TABLES.encode())
        file = PipelineFile.model_validate({"pipeline": {"name": name}} | FILE)
        types = check_tables(url, self.connection, Pipeline(folder=folder, file=file))
        self.router = Router(file, types, name, Attributes(file.ingest, name), with_c=with_c)
        self.loader = Loader(url, name, file, self.router.rollups, types, self.router.binary)
        self.made: list[Prepared] = []

    def prepare(self, entry: Entry, *, binary: bool = False) -> Prepared:
        self.made.append(self.router.prepare(entry, binary=binary))
        return self.made[-1]

    @property
    def forms(self) -> list[str]:
        """How the rows of each entry were written."""
        rows = [rows for one in self.made for rows in one.rows.values()]
        return ["binary" if one.binary else "text" for one in rows]

    def run(self, *entries: Entry, staged: bool = False) -> list[tuple[int, int, int]]:
        found = transaction.run(self.loader, self.connection, entries, self.prepare, staged=staged)
        return [(one.loaded, one.duplicates, len(one.dead)) for one in found]

    def content(self) -> Content:
        rows = self.connection.execute(b"SELECT everything::text FROM everything ORDER BY id").fetchall()
        return rows, self.connection.execute(b"SELECT * FROM minutes ORDER BY 1, 2").fetchall()


@pytest.fixture
def new_target(database_url: str, pipeline_name: str, tmp_path: Path) -> Iterator[Callable[..., Target]]:
    """Makes loaders; what the one before wrote is gone."""
    made: list[Target] = []

    def new(*, with_c: bool = True) -> Target:
        made.append(Target(database_url, f"{pipeline_name}-{len(made)}", tmp_path, with_c=with_c))
        return made[-1]

    yield new
    for target in made:
        target.connection.close()


def _event(number: int, **data: Any) -> bytes:
    time = f"2026-11-21T10:{number % 3:02d}:{number % 60:02d}.{number:06d}+0{number % 9}:30"
    given = {"id": IDS.id(number, b""), "type": "e", "source": "s", "time": time, "data": data, "key": f"k{number}"}
    return msgspec.json.encode(given) + b"\n"


def _entry(*lines: bytes) -> Entry:
    fields = batch_fields(b"".join(lines), len(lines), 5)
    raw = [value if isinstance(value, bytes) else str(value).encode() for value in fields]
    return Entry(f"{next(_places)}-0", dict(zip(raw[::2], raw[1::2], strict=True)))


def _some_data(seeded: random.Random) -> dict[str, Any]:
    text = "".join(seeded.choices("aZ é\u20ac😀\t\n\r\\\"/'\x01\x7f,:{}", k=seeded.randrange(12)))
    uuid = f"{seeded.getrandbits(128):032X}"
    data = {
        "words": text,
        "short": text[:5],
        "code": seeded.choice(["a", "b ", "xyz", "é"]),
        "exact": seeded.choice([0, 10**12, -1, 0.5, 12345.678, f"{seeded.randint(-(10**9), 10**9)}.{len(text)}50"]),
        "price": seeded.choice([0, 1.005, "12.345", 99999.994, "-0.00", "007.10"]),
        "local": seeded.choice(["2026-11-21T10:00:00.5+02:00", "2026-11-21 10:00", 1.7e9]),
        "seen": seeded.choice(["2026-11-21T10:00:00.5+02:00", "2026-11-21 10:00", 1.7e9, 1700000000123, "0001-01-02"]),
        "small": seeded.randint(-(2**15), 2**15 - 1),
        "whole": seeded.choice([-(2**31), 2**31 - 1, 0, 7]),
        "large": seeded.randint(-(10**17), 10**17),
        "real": seeded.choice([0, 0.0, 1, -1.5, 1e300, 5e-324, 0.1, 123456789.987654321, seeded.random()]),
        "yes": seeded.random() < 0.5,
        "other": f"{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}",
        "part": seeded.choice([text, 1.50, [text, {"a": None}], {"b": 2, "a": [1, "x"]}, True]),
        "unused": [text],
    }
    return {key: None if seeded.random() < 0.1 else value for key, value in data.items() if seeded.random() < 0.9}


def _batches(seed: int) -> list[Entry]:
    seeded = random.Random(seed)
    return [
        _entry(*(_event(MANY * part + number, **_some_data(seeded)) for number in range(MANY))) for part in range(4)
    ]


def test_all_values_arrive_as_python_writes_them(new_target: Callable[..., Target]) -> None:
    entries = _batches(2026)
    target = new_target()
    assert target.run(*entries) == [(MANY, 0, 0)] * 4
    assert target.forms == ["binary"] * 4
    by_c = target.content()
    target = new_target(with_c=False)
    assert target.run(*entries) == [(MANY, 0, 0)] * 4
    assert target.forms == ["text"] * 4
    assert by_c == target.content()
    assert len(by_c[0]) == 4 * MANY


def test_unusual_entries_go_as_text_in_the_same_transaction(new_target: Callable[..., Target]) -> None:
    target = new_target()
    usual, other = _batches(1)[:2]
    unusual = _entry(*(_event(10_000 + number, small=str(number), words=number) for number in range(50)))
    assert target.run(usual, unusual, other) == [(MANY, 0, 0), (50, 0, 0), (MANY, 0, 0)]
    assert target.forms == ["binary", "binary", "text"]  # as they were made, by the ids of entries
    assert len(target.content()[0]) == 2 * MANY + 50
    assert sum(row[3] for row in target.content()[1]) == 2 * MANY + 50


def test_duplicates_are_refused_and_then_counted(new_target: Callable[..., Target]) -> None:
    target = new_target()
    first, second = _batches(3)[:2]
    assert target.run(first) == [(MANY, 0, 0)]
    again = _entry(*first.fields[b"d"].splitlines(keepends=True), *second.fields[b"d"].splitlines(keepends=True)[:100])
    with pytest.raises(RowError):
        target.run(again)
    assert target.run(again, staged=True) == [(100, MANY, 0)]
    assert target.forms == ["binary", "binary", "text"]


@pytest.mark.parametrize("bad", [{"short": "too long"}, {"part": "\0"}])
def test_a_row_that_postgresql_refuses_is_found_and_its_neighbours_land(
    new_target: Callable[..., Target], bad: dict[str, Any]
) -> None:
    target = new_target()
    entry = _entry(*(_event(number) for number in range(MANY)), _event(MANY, **bad))
    with pytest.raises(RowError):
        target.run(entry)
    assert target.content() == ([], [])
    assert target.run(entry, staged=True) == [(MANY, 0, 1)]
    assert target.forms == ["binary", "text"]


@pytest.mark.parametrize(
    ("column", "kind"), [("whole", "real"), ("large", "double precision"), ("words", "varchar(99)")]
)
def test_rows_for_columns_that_changed_meanwhile_do_not_land(
    new_target: Callable[..., Target], column: str, kind: str
) -> None:
    """Four bytes of an integer would pass for a real."""
    target = new_target()
    first, second = _batches(4)[:2]
    target.run(first)
    target.connection.execute(f"ALTER TABLE everything ALTER COLUMN {column} TYPE {kind}".encode())
    with pytest.raises(transaction.ColumnsChanged):
        target.run(second)
    assert len(target.content()[0]) == MANY
    assert target.connection.execute(b"SELECT count(*) FROM load_ledger").fetchone() == (1,)
