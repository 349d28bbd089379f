"""Lines: cut from blocks of any size, made into events or dead letters with their place."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events
from shared.attributes import Attributes
from shared.pipeline import IngestSection
from workers.ingest.files import Checkpoint
from workers.ingest.lines import Batch, EventMaker, Limits, Line, LineSplitter, Made

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
SOURCE = '/data/ä "quoted".ndjson'


def _split(content: bytes, sizes: list[int], limits: Limits, start: Checkpoint | None = None) -> list[Batch]:
    """Batches of a content that comes in blocks of these sizes, over and over."""
    consumed = bytearray()
    splitter = LineSplitter(start or Checkpoint(), limits, consumed.extend)
    batches = []
    place = turn = 0
    while place < len(content):
        block = content[place : place + sizes[turn % len(sizes)]]
        for batch in splitter.feed(block):
            consumed += batch.raw
            batches.append(batch)
        place, turn = place + len(block), turn + 1
    for batch in splitter.finish():
        consumed += batch.raw
        batches.append(batch)
    assert bytes(consumed) == content
    return batches


def _lines(batches: list[Batch]) -> list[Line]:
    return [line for batch in batches for line in batch.lines]


SMALL = Limits(events=3, bytes=40, line_bytes=30)
LINES = st.lists(st.binary(max_size=60) | st.sampled_from([b"", b"{}", b" {} \r", b"\r", b"x" * 31]), max_size=20)


@given(LINES, st.lists(st.integers(1, 70), min_size=1, max_size=5))
def test_blocks_of_any_size_give_the_same_lines(parts: list[bytes], sizes: list[int]) -> None:
    content = b"\n".join(parts)
    batches = _split(content, sizes, SMALL)
    expected = []
    offset = 0
    for number, part in enumerate(content.split(b"\n"), start=1):
        if len(part) > SMALL.line_bytes:
            expected.append((offset, number, True))
        elif part.strip():
            expected.append((offset, number, False))
        offset += len(part) + 1
    found = _lines(batches)
    assert [(line.offset, line.number, line.too_long) for line in found] == expected
    for line in found:
        assert content[line.offset :].lstrip().startswith(line.content) or line.too_long
        assert len(line.content) >= SMALL.line_bytes or not line.too_long
    for batch in batches:
        assert len(batch.lines) <= SMALL.events
        # One that is too long becomes a dead letter, which is no part of the batch's body.
        assert (
            len(batch.lines) <= 1 or sum(len(line.content) for line in batch.lines if not line.too_long) <= SMALL.bytes
        )
    assert [one.end_offset for one in batches] == sorted(one.end_offset for one in batches)
    if batches:
        assert batches[-1].end_offset == len(content)


@given(LINES, st.integers(1, 70), st.data())
def test_reading_goes_on_after_any_batch(parts: list[bytes], size: int, data: st.DataObject) -> None:
    content = b"\n".join(parts)
    batches = _split(content, [size], SMALL)
    if not batches:
        return
    done = data.draw(st.integers(0, len(batches) - 1))
    last = batches[done]
    start = Checkpoint(last.end_offset, last.end_line)
    rest = _lines(_split(content[last.end_offset :], [size], SMALL, start))
    assert _lines(batches[: done + 1]) + rest == _lines(batches)


def _maker(**section: Any) -> EventMaker:
    return EventMaker(SOURCE, Attributes(IngestSection.model_validate(section), "p"), "in-1")


def _make(content: bytes, maker: EventMaker | None = None, line_bytes: int = 1_000_000) -> Made:
    content += b"" if content.endswith(b"\n") else b"\n"
    (batch,) = _split(content, [len(content)], Limits(500, 10_000_000, line_bytes))
    return (maker or _maker(type="click")).make(batch, NOW)


def _events(made: Made) -> list[events.AnyEvent]:
    return [events.decode_any(line) for line in made.body.splitlines()]


def _letter(fields: list[Any]) -> dict[str, Any]:
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    return found | {name: msgspec.json.decode(found[name]) for name in ("error", "origin")}


def test_events_carry_the_bytes_as_they_came() -> None:
    made = _make(b'{"a": 1,\t"a":2}\r\n\n  {"b":"\\u00e4"}\n{"c":null}')
    assert made.events == 3
    assert not made.dead
    first = made.body.split(b"\n")[0]
    assert first.endswith(b'"data":{"a": 1,\t"a":2}}')
    found = _events(made)
    assert [event.data for event in found] == [{"a": 2}, {"b": "ä"}, {"c": None}]
    assert {(event.type, event.source, event.time) for event in found} == {("click", SOURCE, NOW)}
    assert [UUID(event.id).version for event in found] == [8, 8, 8]
    assert all(one.id < other.id for one, other in pairwise(found))


def test_the_id_says_where_the_line_was() -> None:
    ids = events.SourceIds(SOURCE)
    assert [event.id for event in _events(_make(b'{"a":1}\n{"a":1}\n'))] == [
        ids.id(0, b'{"a":1}'),
        ids.id(8, b'{"a":1}'),
    ]


HOSTILE = [
    (b"", None),
    (b"not json", "not_json"),
    (b"[1]", "not_json"),
    (b'"text"', "not_json"),
    (b"null", "not_json"),
    (b"{", "not_json"),
    (b'{"a":1}{"b":2}', "not_json"),
    (b'{"a":1} trailing', "not_json"),
    (b"\xef\xbb\xbf{}", "not_json"),
    (b"\x00\x01\xfe\xff\x1f\x8b", "not_json"),
    (b'{"a":"\xff"}', "not_json"),
    (b'{"a":"\xed\xa0\x80"}', "not_json"),
    (b'{"a":"\x00"}', "not_json"),
    (b'{"a":NaN}', "not_json"),
    (b'{"a":Infinity}', "not_json"),
    (b'{"a":1e400}', "not_json"),
    (b'{"a":"\\ud800"}', "not_json"),
    (b'{"a":"\\ud800x"}', "not_json"),
    (b'{"a":' + b"9" * 5_000 + b"}", "not_json"),
    (b'{"a":' + b"[" * 450_000 + b"]" * 450_000 + b"}", "not_json"),
    (b'{"a":"' + b"x" * 1_000_001 + b'"}', "too_long"),
    (b'{"a":1,"a":2}', "event"),
    (b'{"a":"\\u0000"}', "event"),
    (b'{"a":"\\ud83d\\ude00"}', "event"),
    (b'{"a":' + b"9" * 300 + b"}", "event"),
    (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "event"),
    (b"{}", "event"),
]


@pytest.mark.parametrize(("line", "outcome"), HOSTILE, ids=[repr(line[:30]) for line, _ in HOSTILE])
def test_every_line_has_one_outcome_and_its_neighbours_go_on(line: bytes, outcome: str | None) -> None:
    made = _make(b'{"before":1}\n' + line + b'\n{"after":1}\n')
    found = [event.data for event in _events(made)]
    assert (found[0], found[-1]) == ({"before": 1}, {"after": 1})
    assert made.events == len(found) == (3 if outcome == "event" else 2)
    letters = [_letter(fields) for fields in made.dead]
    assert [letter["reason"] for letter in letters] == ([] if outcome in (None, "event") else [outcome])
    for letter in letters:
        assert letter["bytes"] == line[:1_000_000]
        assert letter["origin"]["place"] == {"offset": 13, "line": 2}
        assert letter["origin"]["source"] == SOURCE
        assert letter["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
PIECES = st.lists(st.sampled_from([b"{}", b"{", b"}", b'{"a":"', b'"}', b",", b'"a":1', b" ", b'{"a":{}']), max_size=5)


@given(st.lists(JSON.map(msgspec.json.encode) | PIECES.map(b"".join), min_size=1, max_size=8))
def test_decoding_all_at_once_gives_what_decoding_one_by_one_does(parts: list[bytes]) -> None:
    content = b"\n".join(parts)
    if not content.strip():
        return
    made = _make(content)
    good, bad = [], 0
    for part in filter(None, map(bytes.strip, parts)):
        try:
            good.append(msgspec.json.decode(part, type=dict[str, Any]))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            bad += 1
    assert [event.data for event in _events(made)] == good
    assert (made.events, len(made.dead)) == (len(good), bad)


FRAGMENTS = st.sampled_from(
    [b'"', b"\\", b"\\u", b"\\ud800", b"\\udc00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\x1f", b"\t", b" ",
     b"[", b"]", b"{", b"}", b":", b",", b"-", b"+", b"e", b"E", b".", b"0", b"1", b"400", b"e308", b"e309", b"E+400",
     b"1e400", b"-1e0400", b"9" * 210, b"9" * 310, b"9" * 4_301, b"NaN", b"true", b"nul", b"\xc3\xa4"]
)  # fmt: skip
VALUES = st.lists(FRAGMENTS, max_size=4).map(b"".join) | JSON.map(msgspec.json.encode)


@given(VALUES, st.sampled_from([b'{"a":%b}', b'{"a":[%b ]}', b'{"%b":1}', b'{"a":"%b"}', b'{"a":{"b":1,"c":%b\t}}']))
def test_skipping_values_refuses_what_decoding_them_does(value: bytes, around: bytes) -> None:
    line = around % value
    try:
        msgspec.json.decode(line, type=dict[str, Any])
        good = True
    except (msgspec.MsgspecError, UnicodeDecodeError):
        good = False
    made = _make(b'{"before":1}\n' + line + b'\n{"after":1}\n')
    assert (made.events, len(made.dead)) == ((3, 0) if good else (2, 1))
    assert all(fields[3] == "not_json" for fields in made.dead)


def test_attributes_from_the_data() -> None:
    maker = _maker(type={"path": "kind"}, time={"path": "at"}, id={"path": "order"}, key={"path": "user"})
    content = b'{"kind":"view","at":1795255201,"order":"o-1","user":7}\n{"kind":"click"}\n{"at":"infinity"}\n{"x":[]}'
    made = _make(content, maker)
    first, second, third = _events(made)
    assert (first.type, first.time.second, first.key) == ("view", 1, "7")
    assert first.id == events.id_from_value("p", "o-1")
    assert (second.type, second.time, second.key) == ("click", NOW, None)
    assert third.id == events.SourceIds(SOURCE).id(content.index(b'{"x"'), b'{"x":[]}')
    (letter,) = map(_letter, made.dead)
    assert (letter["reason"], letter["bytes"]) == ("bad_time", b'{"at":"infinity"}')
    assert letter["origin"]["place"]["line"] == 3
    assert made.events + len(made.dead) == 4


def test_a_line_at_the_limit_is_no_dead_letter() -> None:
    line = b'{"a":"%s"}' % (b"x" * 92)
    assert len(line) == 100
    assert _make(line, line_bytes=100).events == 1
    assert _make(line + b" ", line_bytes=100).events == 0


def test_a_byte_order_mark_belongs_to_no_line() -> None:
    mark = b"\xef\xbb\xbf"
    content = mark + b'{"a":1}\r\n' + mark + b"{}\n"
    lines = _lines(_split(content, [2], Limits(500, 1_000, 1_000)))
    assert [(line.offset, line.content) for line in lines] == [(0, b'{"a":1}'), (12, mark + b"{}")]
