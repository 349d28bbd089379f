"""The C part of ingest: where it makes events of lines, Python makes the same."""

import random
from datetime import UTC, datetime

import pytest

from shared.attributes import Attributes
from shared.pipeline import IngestSection
from tests.damage import damaged
from workers.ingest import lines
from workers.ingest.files import Checkpoint
from workers.ingest.lines import Batch, EventMaker, Limits, LineSplitter, Made

pytestmark = pytest.mark.skipif(lines.envelopes is None, reason="there was no C compiler")
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
LIMITS = Limits(events=10, bytes=10_000, line_bytes=900)
GOOD = b'{"a":"\xc3\xa9\\n","b":[1,-2.5e-9,{"c":null}]}\n{"n":18446744073709551616,"t":true}\n{}\n'


def _made(content: bytes, *, with_c: bool = True) -> list[Made]:
    maker = EventMaker("s", Attributes(IngestSection(), "p"), "me", with_c=with_c)
    return [maker.make(batch, NOW) for batch in _batches(content)]


def _batches(content: bytes) -> list[Batch]:
    splitter = LineSplitter(Checkpoint(), LIMITS, lambda _: None)
    return [*splitter.feed(content), *splitter.finish()]


def _is_taken(content: bytes) -> bool:
    return _envelopes(content, len(content.removesuffix(b"\n").split(b"\n"))) is not None


def _envelopes(content: bytes, count: int) -> bytes | None:
    assert lines.envelopes is not None
    return lines.envelopes(content, [7] * count, 1, 2, b'","data":')


def _compare(content: bytes) -> None:
    made, expected = _made(content), _made(content, with_c=False)
    # Moments of failure and tracebacks aside.
    assert [(one.events, one.body, len(one.dead)) for one in made] == [
        (one.events, one.body, len(one.dead)) for one in expected
    ]


@pytest.mark.parametrize("content", [GOOD, GOOD.removesuffix(b"\n"), b'{"a" : 1 ,\t"b":[ ] }', b'{"a":1e99}\n'])
def test_lines_as_usual_are_taken(content: bytes) -> None:
    assert _is_taken(content)
    _compare(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"[]\n",
        b"1\n",
        b'"a"\n',
        b"{} \n",
        b" {}\n",
        b"{}\r\n",
        b"{}{}\n",
        b"{}\n\n{}\n",
        b'{"a":\n1}\n',
        b'{"a":1}\0\n',
        b'{"a":"\t"}\n',
        b'{"a":"\\x"}\n',
        b'{"a":"\\ud800"}\n',
        b'{"a":01}\n',
        b'{"a":1.}\n',
        b'{"a":+1}\n',
        b'{"a":.5}\n',
        b'{"a":NaN}\n',
        b'{"a":1e}\n',
        b'{"a":1e400}\n',
        b'{"a":1e-400}\n',
        b'{"a":1%s}\n' % (b"0" * 400),
        b'{"a":1,}\n',
        b"{'a':1}\n",
        b'{"a":tru}\n',
        b'{"a":%s%s}\n' % (b"[" * 70, b"]" * 70),
        b'\xef\xbb\xbf{"a":1}\n',
    ],
)
def test_what_is_unusual_is_left_to_python(content: bytes) -> None:
    assert not _is_taken(content)
    _compare(content)


def test_other_counts_than_that_of_the_lines_are_not_taken() -> None:
    assert _envelopes(GOOD, 3) is not None
    assert [_envelopes(GOOD, count) for count in (0, 2, 4)] == [None] * 3


@pytest.mark.parametrize("offset", [0, 63, 64, (1 << 20) - 90, (1 << 34) - 1, (1 << 48) - 200])
def test_ids_are_those_of_python_at_every_position(offset: int) -> None:
    parts = [b'{"n":%d}' % number for number in range(12)]
    for source in ("s", "file:ä.ndjson", "%s", 'quoted "name"'):
        batch = Batch(parts, b"\n".join(parts) + b"\n", offset, 1, 900)
        made, expected = (
            EventMaker(source, Attributes(IngestSection(), "p"), "me", with_c=with_c).make(batch, NOW)
            for with_c in (True, False)
        )
        assert made == expected
        assert made.events == 12


def test_text_that_is_no_utf_8_is_a_dead_letter() -> None:
    (made,) = _made(GOOD + b'{"a":"\xff"}\n')
    assert made.events == 3
    assert len(made.dead) == 1


def test_damaged_lines_become_what_python_makes_of_them() -> None:
    seeded, taken = random.Random(2026), 0
    for _ in range(20_000):
        content = damaged(GOOD, seeded)
        if _is_taken(content):
            taken += 1
            _compare(content)
    assert taken > 1_000
