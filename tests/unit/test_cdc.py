"""What changes of a database become, and how far they were read, without a server."""

import struct
from datetime import UTC, datetime

import msgspec
import pytest

from bargeline.commands.fleet import _source
from bargeline.doctor import source as doctor
from bargeline.doctor.source import RETAINED_BYTES_HIGH, CdcSource, SourceFacts
from shared.database.replication import Change, lsn_number, lsn_text
from shared.database.replication_slots import PublishedTable, ServerFacts, SlotFacts, check_can_decode, check_slot
from shared.errors import ConfigurationError
from shared.settings import load_settings
from workers.ingest.cdc.changes import Changes, Transaction, columns_of, key_text, row_values
from workers.ingest.cdc.lag import Behind, Progress
from workers.ingest.cdc.pgoutput import Begin, Column, Insert, Relation
from workers.ingest.cdc.place import Place, Snapshot, decode_place
from workers.ingest.cdc.source import refuse_own

SERVER = ServerFacts("7", "shop", "logical", "reader", True, 10, 1)
SLOT = SlotFacts("s", "pgoutput", "shop", 42, "reserved", 100, 1_000, None)
TABLE = PublishedTable("public", "items", 1, "r", "d", None, ["id"], [23], ["id"])


@pytest.mark.parametrize(
    ("type_oid", "text", "expected"),
    [
        (16, "t", "true"),
        (16, "f", "false"),
        (20, "9223372036854775807", "9223372036854775807"),
        (21, "-3", "-3"),
        (701, "1e+300", "1e+300"),
        (701, "-0", "-0"),
        (700, "NaN", '"NaN"'),
        (701, "-Infinity", '"-Infinity"'),
        (1700, "1.10", '"1.10"'),
        (25, "null", '"null"'),
        (3802, '{"a": 1.50}', '{"a": 1.50}'),
        (114, "[1,\r\n 2]", "[1,   2]"),
        (114, '"\\ud800"', '"\\"\\\\ud800\\""'),
        (1082, "infinity", '"infinity"'),
        (23, None, "null"),
    ],
)
def test_a_value_as_json(type_oid: int, text: str | None, expected: str) -> None:
    columns = tuple(columns_of([("a", type_oid)]))
    assert msgspec.json.encode(row_values(columns, [text])).decode() == f'{{"a":{expected}}}'


def test_places_in_the_wal_as_text() -> None:
    assert lsn_text(0x16_B374D848) == "16/B374D848"
    assert lsn_number("16/B374D848") == 0x16_B374D848
    assert lsn_text(lsn_number("0/0")) == "0/0"


def test_changes_of_one_record_have_places_of_their_own() -> None:
    transaction = Transaction(Begin(1_000, 0, 7))
    assert [transaction.next_place(lsn) for lsn in (8, 8, 8, 40, 8)] == [8, 9, 10, 40, 8]
    assert transaction.index == 5


def test_the_same_change_has_the_same_id_whatever_was_read_before() -> None:
    def read(*numbers: int) -> dict[str, str]:
        changes = Changes("s", lambda _: [])
        changes.learn(Relation(1, "public", "items", "d", (Column("id", 23, True),)))
        transaction, made = Transaction(Begin(1_000, 0, 7)), {}
        for number in numbers:
            message = Change(number * 8, struct.pack(">I", number))
            (found,) = changes.events(transaction, Insert(1, (str(number),)), message)
            made[str(found[1].key)] = found[1].id
        return made

    assert read(1, 2, 3)["3"] == read(3)["3"]
    assert len(set(read(1, 2, 3).values())) == 3


@pytest.mark.parametrize(
    ("columns", "rows", "expected"),
    [
        (["id"], [{"id": msgspec.Raw(b"7")}], "7"),
        (["id"], [{"id": "a b"}], "a b"),
        (["a", "b"], [{"a": msgspec.Raw(b"1"), "b": 'x"'}], '["1","x\\""]'),
        # A large key that an update did not touch is in the old row alone.
        (["id"], [{"n": 1}, {"id": "x"}], "x"),
        (["id"], [{"id": None}], None),
        ([], [{"id": "x"}], None),
    ],
)
def test_a_key_as_text(columns: list[str], rows: list[dict[str, object]], expected: str | None) -> None:
    assert key_text(columns, *rows) == expected


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    place = Place("7", 5, later={"items": 9}, snapshot=Snapshot(9, moment, "a", table="items", done=("a",), rows=3))
    assert decode_place(place.encode()) == place
    assert decode_place("") is None
    assert decode_place(Place("7", 5).encode()) == Place("7", 5)


def test_a_tables_own_beginning_is_forgotten_when_it_was_passed() -> None:
    place = Place("7", 5, commit=6, index=3, later={"items": 9, "orders": 20})
    assert place.reach(10) == Place("7", 10, later={"orders": 20})


def test_how_far_behind_a_reader_is() -> None:
    behind, progress = Behind(), Progress()
    assert behind.seconds(100, 50, progress) is None
    progress.lsn = 50
    assert behind.seconds(102, 50, progress) == 0
    assert behind.seconds(104, 70, progress) == 0
    assert behind.seconds(106, 70, progress) == 2
    progress.lsn = 60
    assert behind.seconds(109, 90, progress) == 5
    progress.lsn = 70
    assert behind.seconds(110, 90, progress) == 1
    # A large transaction that was committed before this process looked at the WAL.
    progress.commit_time = 50.0
    assert behind.seconds(111, 90, progress) == 61
    progress.lsn = 90
    assert behind.seconds(112, 90, progress) == 0


def test_a_slots_name_is_one_that_postgresql_takes() -> None:
    assert load_settings({}).cdc_slot("My-shop.eu") == "bargeline_my_shop_eu"
    assert len(load_settings({}).cdc_slot("x" * 99)) == 63
    given = load_settings({"INGEST_CDC_SLOT": "mine"})
    assert (given.cdc_slot("shop"), given.cdc_publication("shop")) == ("mine", "mine")
    assert load_settings({"INGEST_CDC_PUBLICATION": "p"}).cdc_publication("shop") == "p"


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"wal_level": "replica"}, "wal_level is replica"),
        ({"may_replicate": False}, "ALTER ROLE reader REPLICATION"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(facts: dict[str, object], text: str) -> None:
    check_can_decode(SERVER)
    with pytest.raises(ConfigurationError, match=text):
        check_can_decode(msgspec.structs.replace(SERVER, **facts))


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"plugin": "test_decoding"}, "for test_decoding in database shop"),
        ({"database": "other"}, "in database other"),
        ({"wal_status": "lost"}, "has removed changes"),
    ],
)
def test_a_slot_that_cannot_be_read_is_refused(facts: dict[str, object], text: str) -> None:
    check_slot(SLOT, SERVER)
    with pytest.raises(ConfigurationError, match=text):
        check_slot(msgspec.structs.replace(SLOT, **facts), SERVER)


def test_a_publication_of_our_own_tables_is_refused() -> None:
    """Each batch that is loaded would make more events."""
    ours = [msgspec.structs.replace(TABLE, name=name) for name in ("load_ledger", "bargeline_migrations", "orders")]
    refuse_own([msgspec.structs.replace(TABLE, name="load_ledger")], "p")
    refuse_own([msgspec.structs.replace(ours[0], schema="a"), msgspec.structs.replace(ours[1], schema="b")], "p")
    with pytest.raises(ConfigurationError, match="INGEST_CDC_PUBLICATION=p: it holds Bargeline's own tables"):
        refuse_own(ours, "p")


@pytest.mark.parametrize(
    ("given", "text"),
    [({}, "INGEST_CDC_URL is not set"), ({"INGEST_CDC_SLOT": "Upper"}, "INGEST_CDC_SLOT='Upper'")],
)
def test_settings_that_are_missing_or_wrong(given: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        load_settings(given).require_cdc_url()


def test_status_shows_how_far_a_database_was_read() -> None:
    place = msgspec.json.decode(Place("7", 0x16_B374D848).encode())
    assert _source("postgres:shop/s", place) == {
        "SOURCE": "postgres:shop/s",
        "LINES": "-",
        "OFFSET": "16/B374D848",
        "DONE": "-",
    }
    snapshot = Snapshot(9, datetime(2026, 11, 21, tzinfo=UTC), "a", rows=1_500)
    place = msgspec.json.decode(Place("7", 5, snapshot=snapshot).encode())
    assert _source("s", place)["LINES"] == "1,500 so far"


def _facts(**changed: object) -> SourceFacts:
    given = {"server": SERVER, "slot": SLOT, "tables": [TABLE], **changed}
    return SourceFacts(CdcSource("postgresql://h/shop", "s", "p"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "codes"),
    [
        ({}, []),
        ({"slot": None}, ["cdc_no_slot"]),
        ({"active_pid": None}, ["cdc_slot_inactive"]),
        ({"wal_status": "lost", "active_pid": None}, ["cdc_slot_lost"]),
        ({"wal_status": "unreserved"}, ["cdc_slot_unreserved"]),
        ({"wal_status": "extended"}, []),
        ({"retained_bytes": RETAINED_BYTES_HIGH}, ["cdc_slot_growth"]),
        ({"retained_bytes": RETAINED_BYTES_HIGH, "active_pid": None}, ["cdc_slot_inactive", "cdc_slot_growth"]),
    ],
)
def test_doctor_judges_a_slot(changed: dict[str, object], codes: list[str]) -> None:
    facts = _facts(slot=None if "slot" in changed else msgspec.structs.replace(SLOT, **changed))
    assert [one.code for one in doctor.slot(facts).findings] == codes


@pytest.mark.parametrize(
    ("tables", "codes"),
    [
        (None, ["cdc_no_publication"]),
        ([TABLE], []),
        ([msgspec.structs.replace(TABLE, key=[])], ["cdc_no_identity"]),
        ([msgspec.structs.replace(TABLE, key=[], identity="f")], []),
        ([msgspec.structs.replace(TABLE, identity="n")], ["cdc_no_identity"]),
    ],
)
def test_doctor_judges_a_publication(tables: list[PublishedTable] | None, codes: list[str]) -> None:
    assert [one.code for one in doctor.publication(_facts(tables=tables)).findings] == codes


def test_doctor_judges_the_server() -> None:
    assert doctor.decoding(_facts()).findings == []
    server = msgspec.structs.replace(SERVER, wal_level="replica", may_replicate=False)
    assert [one.code for one in doctor.decoding(_facts(server=server)).findings] == ["cdc_wal_level", "cdc_no_right"]
