"""The C part of ingest: where it says that lines are objects, Python makes the same of them."""

import random
from datetime import UTC, datetime

import pytest

from shared.attributes import Attributes
from shared.pipeline import IngestSection
from tests.damage import damaged
from workers.ingest import lines
from workers.ingest.files import Checkpoint
from workers.ingest.lines import Batch, EventMaker, Limits, LineSplitter, Made

pytestmark = pytest.mark.skipif(lines.are_objects is None, reason="there was no C compiler")
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
    assert lines.are_objects is not None
    return lines.are_objects(content, len(content.removesuffix(b"\n").split(b"\n")))


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
    assert lines.are_objects is not None
    assert not lines.are_objects(GOOD, 2)
    assert not lines.are_objects(GOOD, 4)
    assert not lines.are_objects(GOOD, 0)


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
