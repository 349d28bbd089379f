"""Entries: batches of every codec, what others add with plain XADD, dead letters."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
import zstandard

from shared import entries, events
from shared.attributes import Attributes
from shared.codec import compress
from shared.entries import Entry, batch_fields, dead_letter, foreign_event, lines_of
from shared.errors import InvalidEvent
from shared.pipeline import IngestSection

STREAM = "{p}:raw"
ATTRIBUTES = Attributes(IngestSection(type="click"), "p")
MILLISECONDS = 1_795_255_200_000


def _entry(*fields: Any, entry_id: str = f"{MILLISECONDS}-0") -> Entry:
    raw = [value if isinstance(value, bytes) else str(value).encode() for value in fields]
    return Entry(entry_id, dict(zip(raw[::2], raw[1::2], strict=True)))


def _foreign(**fields: str | bytes) -> events.AnyEvent:
    flat: list[Any] = [part for item in fields.items() for part in item]
    return foreign_event(_entry(*flat), STREAM, ATTRIBUTES)


@pytest.mark.parametrize("codec", ["json", "zstd"])
def test_a_batch_comes_back_as_it_went(codec: str) -> None:
    entry = _entry(*batch_fields(b'{"a":1}\n{"b":"\r"}\n', 2, 5, codec))
    assert not entry.foreign
    assert (entry.events, entry.attempt, entry.history, entry.accepted_ms) == (2, 0, [], 5)
    assert lines_of(entry, STREAM, ATTRIBUTES) == [b'{"a":1}', b'{"b":"\r"}']


def test_compressed_pieces_may_be_joined() -> None:
    body = compress(b"{}\n", "zstd") + compress(b'{"a":1}\n', "zstd")
    entry = _entry("v", 1, "n", 2, "c", "zstd", "d", body)
    assert lines_of(entry, STREAM, ATTRIBUTES) == [b"{}", b'{"a":1}']


@pytest.mark.parametrize(
    ("codec", "body"), [("json", b"{}\n"), ("json", b""), ("zstd", b"garbage"), ("zstd", compress(b"{}\n", "zstd"))]
)
def test_a_batch_that_does_not_hold_what_it_says_is_malformed(codec: str, body: bytes) -> None:
    with pytest.raises(InvalidEvent) as caught:
        lines_of(_entry("v", 1, "n", 2, "c", codec, "d", body), STREAM, ATTRIBUTES)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    ("fields", "unreadable"),
    [
        (("v", 2, "n", 1, "d", "{}"), True),
        (("v", 1, "n", 1, "c", "lz9", "d", "{}"), True),
        (("v", 1, "n", 1, "c", "zstd", "d", "{}"), False),
        (("v", 1, "n", 1, "d", "{}"), False),
        (("v", 2, "n", "many", "d", "{}"), False),
    ],
)
def test_a_batch_of_an_unknown_format_is_told_from_a_foreign_entry(fields: tuple[Any, ...], unreadable: bool) -> None:
    assert _entry(*fields).unreadable is unreadable


@pytest.mark.parametrize("field", ["t", "a", "h"])
@pytest.mark.parametrize("text", ["", "x", "{}", "null", "3x", "-1", "[1", "\0", "9" * 40])
def test_what_somebody_else_wrote_into_our_fields_is_not_believed(field: str, text: str) -> None:
    entry = _entry("v", 1, "n", 1, "d", "{}", field, text)
    assert (entry.attempt, entry.history, entry.accepted_ms) == (0, [], int(entry.id.partition("-")[0]))


def test_a_small_body_that_expands_without_end_is_refused() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(b"\n" * (80 << 20))
    with pytest.raises(InvalidEvent, match="expands to more than"):
        lines_of(_entry("v", 1, "n", 1, "c", "zstd", "d", bomb), STREAM, ATTRIBUTES)


def test_flat_fields_become_data() -> None:
    event = _foreign(os_name="iOS", n="3")
    assert event.data == {"os_name": "iOS", "n": "3"}
    assert (event.type, event.source) == ("click", "redis:{p}:raw")
    assert event.time == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert UUID(event.id).version == 8
    assert event.id == _foreign(os_name="iOS", n="3").id
    assert event.id != _foreign(os_name="iOS", n="4").id


def test_boundaries_between_fields_count_in_the_id() -> None:
    assert _foreign(ab="c").id != _foreign(a="bc").id


def test_named_fields_become_attributes() -> None:
    event = _foreign(event_id="o-1", event_type="view", timestamp="2026-11-21T12:00:00+01:00", payload='{"a":[1]}')
    assert event.id == events.id_from_value("redis:{p}:raw", "o-1")
    assert (event.type, event.data) == ("view", {"a": [1]})
    assert event.time == datetime(2026, 11, 21, 11, tzinfo=UTC)


@pytest.mark.parametrize("timestamp", ["1795255200", "1795255200000", "1795255200.0", "2026-11-21T10:00:00Z"])
def test_timestamps_of_every_kind(timestamp: str) -> None:
    assert _foreign(timestamp=timestamp, payload="{}").time == datetime(2026, 11, 21, 10, tzinfo=UTC)


def test_a_payload_beside_other_fields_is_just_a_field() -> None:
    assert _foreign(payload="x", colour="red").data == {"payload": "x", "colour": "red"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"payload": "[1]"}, "not_json"),
        ({"payload": "{"}, "not_json"),
        ({"payload": b"\xff"}, "not_json"),
        ({"payload": b'{"a":"\xff"}'}, "not_json"),
        ({"payload": '{"a":' * 150_000 + "1" + "}" * 150_000}, "not_json"),
        ({"payload": "{}", "timestamp": "now"}, "bad_time"),
        ({"payload": "{}", "timestamp": "9" * 400}, "bad_time"),
        ({"payload": "{}", "event_type": b"\xff"}, "not_text"),
        ({"a": b"\xff\xfe"}, "not_text"),
    ],
)
def test_a_foreign_entry_that_is_no_event(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        _foreign(**fields)
    assert caught.value.reason == reason


def test_an_entry_of_the_far_future_is_no_event() -> None:
    with pytest.raises(InvalidEvent, match="is no time"):
        foreign_event(_entry("a", 1, entry_id="18446744073709551615-1"), STREAM, ATTRIBUTES)


@pytest.mark.parametrize(
    "fields",
    [
        ("v", "3"),
        ("v", "1", "colour", "red"),
        ("v", "1", "n", "many", "d", "{}"),
        ("v", "1", "n", "0", "d", ""),
        ("v", "1", "n", "-1", "d", ""),
        ("v", "new", "n", "1", "d", "{}"),
        ("v", "1", "n", "1"),
        ("v", "1", "n", "1_0", "d", "{}"),
        ("v", b"\xff", "n", "1", "d", "{}"),
    ],
)
def test_a_field_called_v_does_not_make_a_batch(fields: tuple[Any, ...]) -> None:
    entry = _entry(*fields)
    assert entry.foreign
    assert entry.events == 1


def test_a_dead_letter_holds_the_event_or_the_bytes() -> None:
    origin = {"stream": STREAM, "address": "1-0/3", "source": "s"}
    with_event = dead_letter("transform", InvalidEvent("no", "schema"), event=b"{}", origin=origin, consumer="tf-1")
    found = dict(zip(with_event[::2], with_event[1::2], strict=True))
    assert found["event"] == b"{}"
    assert "bytes" not in found
    assert (found["stage"], found["reason"], found["consumer"]) == ("transform", "schema", "tf-1")
    assert msgspec.json.decode(found["origin"]) == origin
    assert msgspec.json.decode(found["error"]) == {"class": "InvalidEvent", "message": "no", "traceback": ""}
    assert datetime.fromisoformat(found["failed_at"]).tzinfo is not None
    with_bytes = dead_letter("ingest", InvalidEvent("no"), raw=b"\xff", origin=origin, consumer="in-1")
    assert dict(zip(with_bytes[::2], with_bytes[1::2], strict=True))["bytes"] == b"\xff"


def test_an_error_is_described_shortly_and_as_text() -> None:
    try:
        raise RuntimeError("\ud800" + "x" * 5_000)
    except RuntimeError as error:
        described = entries.describe(error)
    assert described["class"] == "RuntimeError"
    assert len(described["message"]) == 2_000
    assert "test_an_error_is_described" in described["traceback"]
    msgspec.json.encode(described)


def test_failures_of_one_kind_share_a_fingerprint() -> None:
    def fingerprint(text: str, stage: str = "transform", reason: str = "invalid") -> str:
        return entries.fingerprint(stage, reason, entries.describe(InvalidEvent(text)))

    assert fingerprint("user 'ann' is 17") == fingerprint("user 'bob o' is 3")
    others = {fingerprint("user 'ann' was 17"), fingerprint("user 'ann' is 17", stage="loader")}
    assert len({fingerprint("user 'ann' is 17"), *others, fingerprint("user 'ann' is 17", reason="schema")}) == 4
