"""Events: identities that say where an event came from, and times that PostgreSQL can hold."""

import time as clock
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import RFC_4122, UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events
from shared.errors import InvalidEvent
from shared.events import Event, SourceIds

POSITIONS = st.integers(0, 2**48 - 1)


@given(POSITIONS, st.binary(max_size=50))
def test_same_bytes_at_the_same_place_have_the_same_id(position: int, content: bytes) -> None:
    found = SourceIds("/data/a.ndjson").id(position, content)
    assert found == SourceIds("/data/a.ndjson").id(position, content)
    assert UUID(found).version == 8
    assert UUID(found).variant == RFC_4122
    assert str(UUID(found)) == found


def test_ids_stay_what_they_were() -> None:
    """A file that is read again, by a later version too, gives the same ids."""
    assert SourceIds("/data/a.ndjson").id(0, b"{}") == "f340ef2d-0000-8000-8000-034fd1fced28"
    assert SourceIds("/data/a.ndjson").id(2**48 - 1, b'{"a":1}') == "f340ef2d-ffff-8fff-bfff-fe7deb29c8e0"
    places = [0, 1, 63, 64, 2**20 - 1, 2**20, 2**20 + 1, 5, 2**48 - 1]
    ids = SourceIds("s")
    assert [one.decode() for one in ids.ids(places, [b"x"] * 9)] == [SourceIds("s").id(place, b"x") for place in places]


@given(POSITIONS, st.binary(max_size=50), st.binary(max_size=50))
def test_other_bytes_another_place_or_source_make_another_id(position: int, one: bytes, other: bytes) -> None:
    ids = SourceIds("a")
    if one != other:
        assert ids.id(position, one) != ids.id(position, other)
    assert ids.id(position, one) != ids.id((position + 1) % 2**48, one)
    assert ids.id(position, one) != SourceIds("b").id(position, one)


@given(st.lists(POSITIONS, min_size=2, unique=True), st.lists(st.binary(max_size=9), min_size=1))
def test_ids_rise_with_the_position_in_a_source(positions: list[int], contents: list[bytes]) -> None:
    ids = SourceIds("/data/a.ndjson")
    made = [ids.id(place, contents[index % len(contents)]) for index, place in enumerate(sorted(positions))]
    assert made == sorted(made)
    assert [UUID(one).int for one in made] == sorted(UUID(one).int for one in made)


def test_a_million_places_have_a_million_ids() -> None:
    ids = SourceIds("a")
    assert len({ids.id(position, b"{}") for position in range(100_000)}) == 100_000


def test_uuid7_is_one_and_rises_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (1_795_000_000_000, 1_795_000_000_001, 1_795_000_999_999):
        monkeypatch.setattr(clock, "time_ns", lambda now=milliseconds: now * 1_000_000)
        made.append(events.uuid7())
        assert UUID(made[-1]).int >> 80 == milliseconds
    assert made == sorted(made)
    assert {(UUID(one).version, UUID(one).variant) for one in made} == {(7, RFC_4122)}
    assert events.uuid7() != events.uuid7()


@pytest.mark.parametrize(
    "parent", [SourceIds("a").id(7, b"{}"), events.uuid7(), str(uuid4())], ids=["place", "time", "random"]
)
def test_derived_ids_stand_beside_their_parent(parent: str) -> None:
    derived = [events.derived_id(parent, index) for index in range(1_000)]
    assert len({parent, *derived}) == 1_001
    assert derived == [events.derived_id(parent, index) for index in range(1_000)]
    for one in derived:
        assert UUID(one).int >> 42 == UUID(parent).int >> 42
        assert (UUID(one).version, UUID(one).variant) == (UUID(parent).version, UUID(parent).variant)
    assert events.derived_id(derived[0], 0) not in derived


@given(st.lists(st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 4_095)), min_size=2, unique=True))
def test_ids_of_foreign_entries_rise_with_their_entry_ids(places: list[tuple[int, int]]) -> None:
    made = [events.foreign_id("{p}:raw", f"{ms}-{seq}", b"x") for ms, seq in sorted(places)]
    assert made == sorted(made)
    assert {(UUID(one).version, UUID(one).variant) for one in made} == {(8, RFC_4122)}


def test_ids_of_foreign_entries_differ_by_stream_place_and_content() -> None:
    one = events.foreign_id("{p.0}:raw", "1-1", b"x")
    others = {
        events.foreign_id("{p.1}:raw", "1-1", b"x"),
        events.foreign_id("{p.0}:raw", "1-2", b"x"),
        events.foreign_id("{p.0}:raw", "2-1", b"x"),
        events.foreign_id("{p.0}:raw", "1-1", b"y"),
    }
    assert len({one, *others}) == 5
    assert one == events.foreign_id("{p.0}:raw", "1-1", b"x")


def test_an_id_that_the_source_names() -> None:
    given_id = uuid4()
    assert events.id_from_value("p", str(given_id).upper()) == str(given_id)
    order = events.id_from_value("p", "order-1")
    assert (UUID(order).version, UUID(order).variant) == (8, RFC_4122)
    assert order == events.id_from_value("p", "order-1")
    others = {events.id_from_value("p", "order-2"), events.id_from_value("q", "order-1"), events.id_from_value("p", 1)}
    assert len({order, *others}) == 4
    assert events.id_from_value("p", {"a": [1]}) != events.id_from_value("p", {"a": [2]})


MOMENT = datetime(2026, 11, 21, 10, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-21T10:00:00Z", MOMENT),
        ("2026-11-21T10:00:00", MOMENT),
        ("2026-11-21 10:00", MOMENT),
        ("2026-11-21T12:30:00+02:30", MOMENT),
        ("2026-11-21", MOMENT.replace(hour=0)),
        (1_795_255_200, MOMENT),
        (1_795_255_200_000, MOMENT),
        (1_795_255_200.5, MOMENT + timedelta(microseconds=500_000)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_times_that_are_understood(value: object, expected: datetime) -> None:
    found = events.parse_time(value)
    assert found == expected
    assert found.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "value",
    [
        "now", "infinity", "-infinity", "today", "epoch", "allballs", "", " ", "2026-13-01", "2026-02-30T00:00:00Z",
        "10000-01-01", "0000-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00",
        float("nan"), float("inf"), 1e300, 10**400, 253_402_300_800_000, True, None, [], {}, b"2026-11-21",
    ],
)  # fmt: skip
def test_what_is_no_time_is_an_invalid_event(value: object) -> None:
    with pytest.raises(InvalidEvent, match="is no time") as caught:
        events.parse_time(value)
    assert caught.value.reason == "bad_time"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.b.c", 1), ("a.b", {"c": 1}), ("x.y", 2), ("x", None), ("a.b.c.d", None), ("a.none.c", None), ("", None)],
)
def test_paths_into_an_object(path: str, expected: Any) -> None:
    assert events.find({"a": {"b": {"c": 1}, "none": None}, "x.y": 2}, path) == expected


def test_no_path_leads_into_what_is_no_object() -> None:
    assert events.find([1], "a") is None
    assert events.find({"a": "text"}, "a.upper") is None


def test_events_are_written_as_their_json() -> None:
    zone = timezone(timedelta(hours=2))
    event = Event("i", "t", "s", MOMENT.astimezone(zone), {"n": Decimal("1.10")})
    decoded = msgspec.json.decode(events.encode(event))
    assert decoded["data"] == {"n": 1.10}
    assert "key" not in decoded
    assert events.decode_any(events.encode(event)).time == MOMENT
    assert events.rfc3339(event.time) == "2026-11-21T10:00:00.000000Z"
    assert events.source_of(events.encode(event)) == "s"
    assert events.source_of(b"{") is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a.b", 1),
        ("/c/d.e", 2),
        ("/~1f/~0g", 3),
        ("/", 4),
        ("/list/1/x", 5),
        ("/list/2", None),
        ("/list/-1", None),
        ("/list/01", None),
        ("/list/x", None),
        ("list.1", None),
        ("/a.b/c", None),
        ("/$id", 6),
    ],
)
def test_a_pointer_reaches_every_key_and_the_items_of_arrays(path: str, expected: int | None) -> None:
    data = {"a.b": 1, "c": {"d.e": 2}, "/f": {"~g": 3}, "": 4, "list": [0, {"x": 5}], "$id": 6}
    assert events.find(data, path) == expected
