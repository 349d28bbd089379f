"""The ingest worker as a real process: files and standard input into the raw stream, each line once."""

import gzip
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.generate import write_clicks
from tests.integration.stored import Start, Stored, starting
from tests.wait import until


@pytest.fixture
def start(redis_url: str, pipeline_name: str, tmp_path: Path) -> Iterator[Start]:
    with starting(redis_url, tmp_path / "pipeline", pipeline_name) as begin:
        yield begin


def _lines(path: Path, count: int, text: str = "n") -> None:
    path.write_bytes(b"".join(b'{"%s":%d}\n' % (text.encode(), n) for n in range(count)))


def test_a_file_is_read_once_and_goes_on_where_it_was(tmp_path: Path, stored: Stored, start: Start) -> None:
    path = tmp_path / "a.ndjson"
    _lines(path, 1_200)
    assert start(path).wait() == 0
    first = stored.events()
    assert [event["data"]["n"] for event in first] == list(range(1_200))
    assert [event["id"] for event in first] == sorted({event["id"] for event in first})
    assert {event["source"] for event in first} == {str(path)}
    checkpoint = stored.checkpoint(path)
    assert (checkpoint["lines"], checkpoint["offset"], checkpoint["done"]) == (1_200, path.stat().st_size, True)
    assert start(path).wait() == 0
    assert stored.events() == first
    with path.open("a") as file:
        file.write('{"n":1200}\n{"n":1201}')
    assert start(path).wait() == 0
    assert [event["data"]["n"] for event in stored.events()] == list(range(1_202))
    assert stored.counter("accepted") == 1_202


@pytest.mark.parametrize("asked", ["true", "false"])
def test_it_checks_lines_with_c_and_without(tmp_path: Path, stored: Stored, start: Start, asked: str) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'{"n":0}\n{"n":NaN}\n{"n":1}\n' + b'{"n":2}\n' * 500)
    assert start(path, INGEST_NATIVE=asked).wait() == 0
    assert [event["data"]["n"] for event in stored.events()] == [0, 1] + [2] * 500
    assert stored.counter("dead.ingest") == 1


def test_a_replaced_file_of_the_same_name_is_read_whole(tmp_path: Path, stored: Stored, start: Start) -> None:
    path = tmp_path / "a.ndjson"
    _lines(path, 100)
    assert start(path).wait() == 0
    path.unlink()
    _lines(path, 300, "other")
    worker = start(path)
    assert worker.wait() == 0
    assert "not the file that was read before" in worker.log_text()
    found = stored.events()
    assert [event["data"] for event in found[100:]] == [{"other": n} for n in range(300)]
    assert len({event["id"] for event in found}) == 400


@pytest.mark.parametrize("compressed", [False, True])
def test_killed_in_the_middle_it_goes_on_without_loss_or_repeat(
    tmp_path: Path, stored: Stored, start: Start, compressed: bool
) -> None:
    path = tmp_path / "a.ndjson"
    write_clicks(path, seed=1, count=10_000)
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    stored.leave_room(8_000)
    for share in (0.2, 0.6):
        worker = start(path, INGEST_BATCH_EVENTS=2, CONSUMER_NAME="ingest")
        until(lambda share=share: stored.counter("accepted") > share * 10_000, what="a part to be read")  # type: ignore[misc]
        worker.kill(signal.SIGKILL)
        worker.wait()
    assert 2_000 < stored.counter("accepted") < 10_000, (
        "it has to be killed in the middle for this test to say anything"
    )
    stored.make_room()
    assert start(path, CONSUMER_NAME="ingest").wait() == 0
    found = stored.events()
    assert stored.counter("accepted") == len(found) == 10_000
    assert len({event["data"]["click_id"] for event in found}) == len({event["id"] for event in found}) == 10_000


def test_two_processes_on_one_file_read_it_once(tmp_path: Path, stored: Stored, start: Start) -> None:
    path = tmp_path / "a.ndjson"
    write_clicks(path, seed=2, count=10_000)
    both = [start(path, INGEST_BATCH_EVENTS=20) for _ in range(2)]
    assert [worker.wait() for worker in both] == [0, 0]
    found = stored.events()
    assert stored.counter("accepted") == len(found) == len({event["id"] for event in found}) == 10_000


def test_a_full_stream_holds_it_and_sigterm_ends_it(tmp_path: Path, stored: Stored, start: Start) -> None:
    path = tmp_path / "a.ndjson"
    _lines(path, 40_000)
    stored.leave_room(30_000)
    worker = start(path)
    until(lambda: worker.records(action="pressure"), what="the high-water mark")
    assert 30_000 <= stored.counter("accepted") < 30_500
    assert worker.alive
    assert worker.stop() == 0
    assert stored.counter("accepted") == stored.checkpoint(path)["lines"] == len(stored.events())
    assert not stored.client.keys(stored.key("consumer:ingest:*"))


def test_a_watched_folder(tmp_path: Path, stored: Stored, start: Start) -> None:
    worker = start(tmp_path / "*.ndjson", INGEST_WATCH="true", INGEST_WATCH_SECONDS=0.05).until_started()

    def until_read(count: int) -> None:
        until(lambda: stored.counter("accepted") == count, what=f"{count} events")

    one, two = tmp_path / "one.ndjson", tmp_path / "two.ndjson"
    one.write_text('{"n":1}\n')
    until_read(1)
    two.write_text('{"n":2}\n{"n":3}\n')
    until_read(3)
    with one.open("a") as file:
        file.write('{"n":4}\n{"n":')
        file.flush()
        until_read(4)
        file.write("5}\n")
    until_read(5)
    unfinished = tmp_path / "three.ndjson"
    unfinished.write_text('{"n":6}')
    os.utime(unfinished, (1_000_000_000, 1_000_000_000))
    until_read(6)
    assert worker.stop() == 0
    assert sorted(event["data"]["n"] for event in stored.events()) == [1, 2, 3, 4, 5, 6]
    assert not stored.dead()


def test_standard_input_travels_and_ends(tmp_path: Path, stored: Stored, start: Start) -> None:
    path = tmp_path / "input"
    path.write_text('{"n":1}\nbroken\n{"n":2}')
    for _ in range(2):
        worker = start(input_=path, INGEST_SOURCE="stdin", INGEST_SOURCE_NAME="orders")
        worker.wait()
    assert [event["source"] for event in stored.events()[:2]] == ["orders", "orders"]
    assert len({event["id"] for event in stored.events()}) == 2
    assert [letter["reason"] for letter in stored.dead()[:1]] == [b"not_json"]


def test_a_damaged_file_is_named_and_what_came_before_is_in(tmp_path: Path, stored: Stored, start: Start) -> None:
    whole, cut = tmp_path / "a.ndjson", tmp_path / "b.ndjson.gz"
    _lines(whole, 10)
    write_clicks(cut, seed=3, count=2_000)
    cut.write_bytes(gzip.compress(cut.read_bytes())[:-30])
    worker = start(tmp_path / "*.ndjson*")
    assert worker.wait() == 2
    (record,) = worker.records(event="damaged; what came before is in")
    assert record["source"] == str(cut)
    assert "Traceback" not in worker.log_text()
    assert 1_900 < len(stored.events()) < 2_010


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({}, "INGEST_PATH is not set"),
        ({"INGEST_PATH": "/nowhere/*.ndjson"}, "INGEST_PATH=/nowhere/*.ndjson: no file matches"),
        ({"INGEST_PTH": "x"}, "INGEST_PTH is set, but there is no such setting. Did you mean INGEST_PATH?"),
    ],
)
def test_a_wrong_setting_ends_it_with_2_and_says_so(start: Start, env: dict[str, Any], text: str) -> None:
    worker = start(**env)
    assert worker.wait() == 2
    assert worker.log_text().splitlines()[-1].startswith("error: ")
    assert text in worker.log_text()
    assert "Traceback" not in worker.log_text()


def test_hostile_lines_are_dead_letters_with_their_place(tmp_path: Path, stored: Stored, start: Start) -> None:
    path = tmp_path / "a.ndjson"
    long = b'{"a":"%s"}' % (b"x" * 3_000_000)
    lines = [b'{"n":1}', b"\x00\xff\xfe", b"", long, b'{"a":NaN}', b'{"a":"\xff"}', b'{"n":2}\r']
    path.write_bytes(b"\n".join(lines) + b"\n" + b'{"n":3}')
    assert start(path, INGEST_MAX_EVENT_BYTES=1_500_000).wait() == 0
    assert [event["data"]["n"] for event in stored.events()] == [1, 2, 3]
    assert [(one["reason"], one["origin"]["place"]["line"]) for one in stored.dead()] == [
        (b"not_json", 2),
        (b"too_long", 4),
        (b"not_json", 5),
        (b"not_json", 6),
    ]
    for letter in stored.dead():
        place = letter["origin"]["place"]["offset"]
        assert path.read_bytes()[place:].startswith(letter["bytes"])
    assert (stored.counter("accepted"), stored.counter("dead.ingest")) == (7, 4)
