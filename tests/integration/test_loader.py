"""The loader's transaction on a real PostgreSQL: every row once, whatever was committed before and whoever races."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, LiteralString

import msgspec
import psycopg
import pytest

from shared.attributes import Attributes
from shared.database import Connection, RowError, UniqueViolation, connect
from shared.database.load import Recorded, prune, recall_id, total_loaded
from shared.database.tables import check_tables
from shared.entries import Entry, batch_fields
from shared.errors import ConfigurationError, TransientError
from shared.events import SourceIds
from shared.pipeline import Pipeline, PipelineFile, load_pipeline
from workers.loader import transaction
from workers.loader.rows import Router
from workers.loader.transaction import Loader

IDS = SourceIds("/data/clicks.ndjson")
RECOUNT = """
SELECT to_timestamp(floor(extract(epoch FROM occurred_at) / 5) * 5), os_timezone,
       count(*) FILTER (WHERE device_is_mobile), count(*)
FROM clicks GROUP BY 1, 2 ORDER BY 1, 2
"""


def _click(number: int, **changes: Any) -> bytes:
    data = {
        "click_id": f"c{number}",
        "os": "iPhone",
        "os_name": "iOS",
        "os_timezone": ("Europe/Paris", "Asia/Tokyo", "America/Lima")[number % 3],
        "device_type": "Mobile",
        "device_is_mobile": number % 2 == 0,
        "user_custom_id": "a@example.com",
        "user_domain_id": "d",
    }
    given = {
        "id": IDS.id(number, b""),
        "type": "click",
        "source": "s",
        "time": f"2026-11-21T10:00:{number % 60:02d}Z",
        "data": data | changes.pop("data", {}),
    }
    return msgspec.json.encode(given | changes)


def _entry(place: int, *lines: bytes) -> Entry:
    fields = batch_fields(b"".join(line + b"\n" for line in lines), len(lines), 5)
    raw = [value if isinstance(value, bytes) else str(value).encode() for value in fields]
    return Entry(f"{place}-0", dict(zip(raw[::2], raw[1::2], strict=True)))


def _clicks(place: int, numbers: Sequence[int]) -> Entry:
    return _entry(place, *map(_click, numbers))


class Target:
    """One loader's connection to the test's own database."""

    def __init__(self, url: str, pipeline: Pipeline) -> None:
        self.url = url
        self.connection: Connection = connect(url, "test-loader")
        stream = f"{{{pipeline.name}}}:clean"
        try:
            types = check_tables(url, self.connection, pipeline)
        except ConfigurationError:
            self.connection.close()
            raise
        self.router = Router(pipeline.file, types, stream, Attributes(pipeline.file.ingest, pipeline.name))
        self.loader = Loader(url, stream, pipeline.file, self.router.rollups, types, self.router.binary)

    def run(self, *entries: Entry, staged: bool = False) -> list[Recorded]:
        figures = transaction.run(self.loader, self.connection, entries, self.router.prepare, staged=staged)
        for entry, one in zip(entries, figures, strict=True):
            assert one.loaded + one.duplicates + one.unrouted + len(one.dead) == entry.events
        return figures

    def rows(self, statement: LiteralString) -> list[Any]:
        with psycopg.connect(self.url, options="-c timezone=UTC") as connection:
            return connection.execute(statement).fetchall()

    def count(self) -> int:
        return int(self.rows("SELECT count(*) FROM clicks")[0][0])

    def check_rollup(self) -> None:
        """The rollup equals a recount of the rows."""
        rollup = self.rows("SELECT * FROM mobile_users_by_timezone ORDER BY 1, 2")
        assert rollup == self.rows(RECOUNT)
        assert sum(row[3] for row in rollup) == self.count()


@pytest.fixture
def new_target(database_url: str, pipeline_name: str) -> Iterator[Callable[..., Target]]:
    """Makes loaders of one pipeline on one database."""
    made = []

    def new(**changes: Any) -> Target:
        shipped = load_pipeline("clickstream")
        section = shipped.file.pipeline.model_copy(update={"name": pipeline_name})
        file = PipelineFile.model_validate(shipped.file.model_dump() | changes | {"pipeline": section.model_dump()})
        made.append(Target(database_url, Pipeline(folder=shipped.folder, file=file)))
        return made[-1]

    yield new
    for target in made:
        target.connection.close()


@pytest.fixture
def target(new_target: Callable[..., Target]) -> Target:
    return new_target()


@pytest.mark.parametrize("staged", [False, True])
def test_rows_land_once_with_their_rollup(target: Target, staged: bool) -> None:
    assert target.run(_clicks(1, range(50)), _clicks(2, range(50, 120)), staged=staged) == [
        Recorded(50, 0, 0, []),
        Recorded(70, 0, 0, []),
    ]
    assert target.count() == 120
    target.check_rollup()
    assert target.rows("SELECT click_id, os_timezone, payload->>'os' FROM clicks WHERE click_id = 'c7'") == [
        ("c7", "Asia/Tokyo", "iPhone")
    ]


TEXTS = ["a\tb", "\\N", "C:\\Nope", "\\", "\\t", "\x01", "a\x01b", "", "a\nb", "\r", '"', "é\u2028", "{}", "NULL", "%s"]


def _refused(*_arguments: object, **_more: object) -> None:
    raise AssertionError("not at once")


def test_a_small_transaction_is_one_statement(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "_run", _refused)
    plain = [_click(0), _click(1, data={"os_name": "C:\\Nope", "extra": 'say \\"no\\"'}), b"broken"]
    (figures,) = target.run(_entry(1, *plain))
    assert (figures.loaded, [dead.index for dead in figures.dead]) == (2, [2])
    assert recall_id(target.connection, target.loader.stream, "1-0") == figures
    target.check_rollup()
    with pytest.raises(AssertionError, match="not at once"):
        target.run(_clicks(2, range(10, 300)))


@pytest.mark.parametrize("together", [True, False])
def test_any_text_arrives_as_it_is(target: Target, together: bool) -> None:
    lines = [_click(place, data={"os_name": text, "note": text}) for place, text in enumerate(TEXTS)]
    if together:
        target.run(_entry(1, *lines))
    else:
        for place, line in enumerate(lines):
            target.run(_entry(place, line))
    found = target.rows("SELECT os_name, payload->>'note' FROM clicks ORDER BY event_id")
    assert found == [(text, text) for text in TEXTS]


def test_the_direct_way_refuses_duplicates_and_leaves_nothing(target: Target) -> None:
    target.run(_clicks(1, range(10)))
    with pytest.raises(UniqueViolation):
        target.run(_clicks(2, range(9, 20)))
    assert target.count() == 10
    assert target.rows("SELECT count(*) FROM load_ledger") == [(1,)]
    target.check_rollup()


def test_the_staged_way_counts_duplicates_and_loads_the_rest(target: Target) -> None:
    target.run(_clicks(1, range(10)))
    assert target.run(_clicks(2, range(5, 15)), _clicks(3, [14, 14, 15]), staged=True) == [
        Recorded(5, 5, 0, []),
        Recorded(1, 2, 0, []),
    ]
    assert target.count() == 16
    target.check_rollup()


def test_an_entry_committed_before_is_skipped_with_its_recorded_figures(target: Target) -> None:
    """The process died between COMMIT and settlement: the redelivery must not count as duplicates."""
    first = target.run(_clicks(1, range(10)))
    mixed = [_entry(2, *map(_click, range(5, 15)), b"broken", _click(99, type="view"))]
    second = target.run(*mixed, staged=True)
    assert (second[0].loaded, second[0].duplicates, [dead.index for dead in second[0].dead]) == (5, 5, [10, 11])
    for staged in (False, True):
        again = target.run(_clicks(3, [50 + staged]), *mixed, _clicks(1, range(10)), staged=staged)
        assert again == [Recorded(1, 0, 0, []), *second, *first]
    assert target.count() == 17
    target.check_rollup()
    assert recall_id(target.connection, target.loader.stream, "2-0") == second[0]
    assert recall_id(target.connection, target.loader.stream, "9-0") is None


def test_an_entry_id_with_other_content_is_another_entry(target: Target) -> None:
    """After a flush Redis may give an id again."""
    target.run(_clicks(1, range(10)))
    assert target.run(_clicks(1, range(10, 30))) == [Recorded(20, 0, 0, [])]
    assert target.count() == 30


def test_entries_of_another_stream_are_other_entries(target: Target) -> None:
    target.run(_clicks(1, range(10)))
    target.loader = replace(target.loader, stream="{other}:clean")
    assert target.run(_clicks(1, range(10)), staged=True) == [Recorded(0, 10, 0, [])]
    target.check_rollup()


BAD = [
    ({"data": {"os_name": "nul \0 here"}}, "22021"),
    ({"data": {"extra": "nul \0 in the payload"}}, "22"),
    ({"data": {"device_is_mobile": None}}, "23502"),
    ({"data": {"device_is_mobile": 7}}, "22P02"),
    ({"data": {"click_id": None}}, "23502"),
    ({"id": "no uuid"}, "22P02"),
    ({"data": {"extra": "x", "os_timezone": None}}, "23502"),
]


@pytest.mark.parametrize(("changes", "sqlstate"), BAD)
@pytest.mark.parametrize("place", [0, 37, 63])
def test_a_bad_row_is_found_and_its_neighbours_land(
    target: Target, changes: dict[str, Any], sqlstate: str, place: int
) -> None:
    lines = [_click(number, **(dict(changes) if number == place else {})) for number in range(64)]
    with pytest.raises(RowError) as caught:
        target.run(_entry(1, *lines))
    assert not isinstance(caught.value, UniqueViolation)
    assert target.count() == 0
    (figures,) = target.run(_entry(1, *lines), staged=True)
    assert (figures.loaded, figures.duplicates) == (63, 0)
    ((dead),) = figures.dead
    assert (dead.index, dead.reason) == (place, "bad_row")
    assert f"(SQLSTATE {sqlstate}" in dead.message
    assert target.count() == 63
    target.check_rollup()


def test_many_bad_rows_and_duplicates_together(target: Target) -> None:
    target.run(_clicks(1, range(0, 200, 4)))
    lines = [_click(n, **({"data": {"os_name": None}} if n % 7 == 0 else {})) for n in range(200)]
    (figures,) = target.run(_entry(2, *lines), staged=True)
    bad = [n for n in range(200) if n % 7 == 0]
    assert sorted(dead.index for dead in figures.dead) == bad
    new = [n for n in range(200) if n % 7 and n % 4]
    assert (figures.loaded, figures.duplicates) == (len(new), 200 - len(new) - len(bad))
    assert target.count() == 50 + len(new)
    target.check_rollup()


@pytest.mark.parametrize("column", ["occurred_at", "click_id"])
@pytest.mark.parametrize("text", ["now", "infinity", "-infinity", "today"])
def test_a_timestamp_that_only_postgresql_understands_is_refused(
    new_target: Callable[..., Target], column: str, text: str
) -> None:
    """PostgreSQL would take it: the event would get another time whenever it is loaded."""
    target = new_target()
    if column == "click_id":
        target.connection.execute("ALTER TABLE clicks ALTER click_id TYPE timestamptz USING now()")
        target = new_target()
        line = _click(1, data={"click_id": text})
    else:
        line = _click(1, time=text)
    good = _click(2, data={"click_id": "2026-11-21T10:00:00Z"})
    (figures,) = target.run(_entry(1, line, good))
    assert [dead.index for dead in figures.dead] == [0]
    assert figures.loaded == target.count() == 1
    target.check_rollup()


ROLLUP_BREAKERS = [
    ("a key too large for its index", {"data": {"os_timezone": "".join(map(chr, range(0x4E00, 0x8E00)))}}),
    ("a sum out of range", {"data": {"user_domain_id": 10**30}}),
    ("a sum out of range of its type", {"data": {"user_domain_id": 1e300}}),
]


@pytest.mark.parametrize(("what", "changes"), ROLLUP_BREAKERS)
@pytest.mark.parametrize("place", [0, 40])
def test_an_event_that_no_rollup_can_take_is_dead_and_its_neighbours_land(
    new_target: Callable[..., Target], what: str, changes: dict[str, Any], place: int
) -> None:
    shipped = load_pipeline("clickstream").file.rollup[0].model_dump()
    aggregates = {"num_mobile_users": "sum(device_is_mobile)", "events": "count"}
    if "sum" in what:
        aggregates["total"] = "sum(user_domain_id)"
    target = new_target(rollup=[shipped | {"aggregates": {"num_mobile_users": "count", "events": "count"}}])
    target.connection.execute("ALTER TABLE mobile_users_by_timezone ADD total bigint")
    target = new_target(rollup=[shipped | {"aggregates": aggregates}])
    given: dict[str, Any] = {"data": {"user_domain_id": 1}}
    lines = [_click(number, **(dict(changes) if number == place else dict(given))) for number in range(64)]
    with pytest.raises(RowError):
        target.run(_entry(1, *lines), _entry(2, _click(100, **dict(given))))
    assert target.count() == 0
    first, second = target.run(_entry(1, *lines), _entry(2, _click(100, **dict(given))), staged=True)
    assert [(dead.index, dead.reason) for dead in first.dead] == [(place, "bad_row")]
    assert "SQLSTATE" in first.dead[0].message
    assert (first.loaded, second.loaded, target.count()) == (63, 1, 64)
    assert target.rows("SELECT sum(events) FROM mobile_users_by_timezone") == [(64,)]


def test_unrouted_events_are_counted(new_target: Callable[..., Target]) -> None:
    target = new_target(loader={"unmatched": "filter"})
    assert target.run(_entry(1, _click(1), _click(2, type="view"))) == [Recorded(1, 0, 1, [])]


def _race(targets: list[Target], entries: list[Entry]) -> list[list[Recorded]]:
    """Every loader runs every entry, staged, in its own thread; each again after a deadlock."""
    barrier = threading.Barrier(len(targets))

    def run(target: Target) -> list[Recorded]:
        barrier.wait()
        found = []
        for first in range(0, len(entries), 4):
            while True:
                try:
                    found += target.run(*entries[first : first + 4], staged=True)
                    break
                except TransientError as error:
                    if "deadlock" not in str(error):
                        raise
        return found

    with ThreadPoolExecutor(len(targets)) as pool:
        return list(pool.map(run, targets))


def test_two_loaders_of_the_same_entries_agree(new_target: Callable[..., Target]) -> None:
    targets = [new_target(), new_target()]
    entries = [_clicks(place, range(place * 20, place * 20 + 20)) for place in range(40)]
    one, other = _race(targets, entries)
    assert one == other == [Recorded(20, 0, 0, [])] * 40
    assert targets[0].count() == 800
    assert total_loaded(targets[0].connection, targets[0].loader.stream) == 800
    targets[0].check_rollup()


def test_two_loaders_of_the_same_ids_load_each_once(new_target: Callable[..., Target]) -> None:
    targets = [new_target(), new_target()]
    mine = [_clicks(place, range(place * 20, place * 20 + 20)) for place in range(40)]
    targets[1].loader = replace(targets[1].loader, stream="{other}:clean")
    one, other = _race(targets, mine)
    assert [a.loaded + b.loaded for a, b in zip(one, other, strict=True)] == [20] * 40
    assert [a.duplicates + b.duplicates for a, b in zip(one, other, strict=True)] == [20] * 40
    assert targets[0].count() == 800
    targets[0].check_rollup()


def test_pruned_entries_stay_in_the_total(target: Target) -> None:
    target.run(*(_clicks(place, range(place * 10, place * 10 + 10)) for place in range(1, 6)))
    stream = target.loader.stream
    for needed, left in [("3-0", 3), ("3-0", 3), ("4-0", 2), ("99-0", 0)]:
        prune(target.connection, stream, needed)
        assert target.rows("SELECT count(*) FROM load_ledger") == [(left,)]
        assert total_loaded(target.connection, stream) == 50
    target.run(_clicks(6, range(60, 70)))
    assert total_loaded(target.connection, stream) == 60


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("DROP TABLE clicks", "clicks"),
        ("ALTER TABLE clicks RENAME click_id TO renamed", "click_id"),
        ("DROP TABLE mobile_users_by_timezone", "mobile_users_by_timezone"),
        ("DROP TABLE load_ledger", "load_ledger"),
    ],
)
@pytest.mark.parametrize("staged", [False, True])
def test_a_table_that_does_not_fit_is_a_configuration_error_and_nothing_is_touched(
    target: Target, statement: LiteralString, text: str, staged: bool
) -> None:
    target.connection.execute(statement)
    with pytest.raises(ConfigurationError, match=text) as caught:
        target.run(_clicks(1, range(3)), staged=staged)
    assert "bargeline migrate" in str(caught.value)
    for table in ("clicks", "load_ledger"):
        if table not in statement:
            assert target.connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]


def test_a_lost_connection_is_transient_and_another_one_goes_on(new_target: Callable[..., Target]) -> None:
    first = new_target()
    pid = first.connection.info.backend_pid
    with psycopg.connect(first.url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
    with pytest.raises(TransientError):
        first.run(_clicks(1, range(10)))
    assert first.connection.closed
    assert new_target().run(_clicks(1, range(10))) == [Recorded(10, 0, 0, [])]
    assert first.count() == 10


@pytest.mark.parametrize(
    ("statements", "text"),
    [
        (
            [
                "ALTER TABLE clicks DROP CONSTRAINT clicks_pkey",
                "ALTER TABLE clicks ADD UNIQUE (event_id) DEFERRABLE INITIALLY DEFERRED",
            ],
            "neither partial nor deferrable",
        ),
        (
            [
                "ALTER TABLE clicks DROP CONSTRAINT clicks_pkey",
                "CREATE UNIQUE INDEX ON clicks (event_id) WHERE device_is_mobile",
            ],
            "neither partial nor deferrable",
        ),
        (["ALTER TABLE clicks DROP CONSTRAINT clicks_pkey"], "no unique constraint on 'event_id'"),
        (["ALTER TABLE clicks DROP os_name"], "Table 'clicks' has no column 'os_name'; it has event_id"),
        (["DROP TABLE clicks"], "no table 'clicks'. Run `bargeline migrate`"),
        (["ALTER TABLE mobile_users_by_timezone DROP events"], "has no column 'events'"),
        (
            ["ALTER TABLE mobile_users_by_timezone DROP CONSTRAINT mobile_users_by_timezone_pkey"],
            r"unique constraint on exactly \(window_start, os_timezone\)",
        ),
    ],
)
def test_tables_that_cannot_take_the_rows_are_refused_at_the_start(
    new_target: Callable[..., Target], statements: list[LiteralString], text: str
) -> None:
    with psycopg.connect(new_target().url) as connection:
        for statement in statements:
            connection.execute(statement)
    with pytest.raises(ConfigurationError, match=text):
        new_target()


@pytest.mark.parametrize(
    ("user", "database", "text"), [("nobody", None, "user|role|password"), (None, "no_such_database", "does not exist")]
)
def test_a_wrong_user_or_database_is_a_configuration_error(
    database_url: str, user: str | None, database: str | None, text: str
) -> None:
    info = psycopg.conninfo.conninfo_to_dict(database_url)
    given = f"postgresql://{user or info['user']}:{info.get('password', '')}@{info['host']}:{info['port']}"
    with pytest.raises(ConfigurationError, match=text):
        connect(f"{given}/{database or info['dbname']}", "test")


def test_a_server_that_is_away_is_transient() -> None:
    with pytest.raises(TransientError, match=r"PostgreSQL at postgresql://u:\*\*\*@127\.0\.0\.1:1/d"):
        connect("postgresql://u:p@127.0.0.1:1/d", "test")
