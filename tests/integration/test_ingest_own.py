"""A source of one's own: what it yields arrives once and at once, whatever ends or interrupts it."""

import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stored import Start, Stored, starting
from tests.wait import until
from tests.workers import ROOT

COUNTING = """
def read(position):
    for n in range(0 if position is None else position + 1, 10_000):
        yield n, {"n": n}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pipeline"


@pytest.fixture
def start(redis_url: str, pipeline_name: str, folder: Path) -> Iterator[Start]:
    with starting(redis_url, folder, pipeline_name) as begin:
        yield begin


def _write(folder: Path, code: str) -> dict[str, Any]:
    (folder / "feed.py").write_text(code)
    return {"INGEST_SOURCE": "feed:read"}


def test_killed_in_the_middle_each_event_is_there_once_and_read_again_it_has_the_same_ids(
    folder: Path, stored: Stored, start: Start
) -> None:
    given = _write(folder, COUNTING)
    stored.leave_room(8_000)
    for share in (0.2, 0.6):
        worker = start(**given, INGEST_BATCH_EVENTS=2, CONSUMER_NAME="ingest")
        until(lambda share=share: stored.counter("accepted") > share * 10_000, what="a part to be read")  # type: ignore[misc]
        worker.kill(signal.SIGKILL)
        worker.wait()
    assert 2_000 < stored.counter("accepted") < 10_000, (
        "it has to be killed in the middle for this test to say anything"
    )
    stored.make_room()
    assert start(**given, CONSUMER_NAME="ingest").wait() == 0
    found = stored.events()
    assert [event["data"]["n"] for event in found] == list(range(10_000))
    assert [event["id"] for event in found] == sorted({event["id"] for event in found})
    assert {event["source"] for event in found} == {"feed:read"}
    assert stored.checkpoint("feed:read") == {"position": 9_999, "lines": 10_000, "done": True}
    ids, entries = stored.ids(), len(stored.entries())
    stored.client.hdel(stored.key("checkpoint"), "feed:read")
    assert start(**given).wait() == 0
    assert stored.counter("accepted") == 20_000
    assert stored.ids() == ids
    assert len(stored.entries()) - entries < 200, "what comes fast travels in large batches"


def test_what_was_yielded_goes_at_once_and_again_if_redis_loses_it(folder: Path, stored: Stored, start: Start) -> None:
    given = _write(
        folder,
        f"""
import pathlib, time
def read(position):
    yield 1, {{"n": 1}}
    while not pathlib.Path({str(folder / "go-on")!r}).exists():
        time.sleep(0.01)
    yield 2, {{"n": 2}}
""",
    )
    worker = start(**given).until_started()
    until(lambda: stored.numbers() == [1], what="the first event")
    before = stored.ids()
    stored.client.hdel(stored.key("checkpoint"), "feed:read")
    until(lambda: "Redis lost the checkpoint" in worker.log_text(), what="the loss to be noticed, though nothing comes")
    (folder / "go-on").touch()
    assert worker.wait() == 0
    assert stored.numbers() == [1, 1, 2]
    assert before < stored.ids()
    assert len(stored.ids()) == 2


def test_sigterm_sends_what_was_yielded_and_closes_the_generator(folder: Path, stored: Stored, start: Start) -> None:
    given = _write(
        folder,
        f"""
import itertools, pathlib
def read(position):
    try:
        for n in itertools.count(position or 0):
            yield n, {{"n": n}}
    finally:
        pathlib.Path({str(folder / "closed")!r}).write_text(str(n))
""",
    )
    worker = start(**given)
    until(lambda: stored.counter("accepted") > 1_000, what="some events")
    assert worker.stop() == 0
    reached = stored.checkpoint("feed:read")
    assert stored.numbers() == list(range(reached["lines"]))
    # At most what it offered when it was closed is left for the next time.
    assert int((folder / "closed").read_text()) - reached["position"] in (0, 1)


def test_a_source_that_breaks_is_called_again_from_where_it_was(folder: Path, stored: Stored, start: Start) -> None:
    given = _write(
        folder,
        f"""
import pathlib
from bargeline import TransientError
calls = pathlib.Path({str(folder / "calls")!r})
def read(position):
    with calls.open("a") as file:
        file.write(f"{{position}}\\n")
    match len(calls.read_text().splitlines()):
        case 1:
            raise ConnectionRefusedError("nobody there")
        case 2:
            yield 1, {{"n": 1}}
            yield 2, {{"n": 2}}
            raise TransientError("in maintenance")
        case 3:
            raise TimeoutError("too slow")
        case 4:
            yield 3, {{"n": 3}}
""",
    )
    worker = start(**given)
    assert worker.wait() == 0
    assert (folder / "calls").read_text().split() == ["None", "None", "2", "2"]
    assert stored.numbers() == [1, 2, 3]
    reasons = [record["reason"] for record in worker.records(action="hold", event="waiting")]
    assert reasons[0] == "INGEST_SOURCE=feed:read: ConnectionRefusedError: nobody there"
    assert "in maintenance" in reasons
    assert not worker.records(action="hold", event="holding what is in hand")


def test_dicts_events_and_text_are_taken_and_what_is_none_is_a_dead_letter(
    folder: Path, stored: Stored, start: Start
) -> None:
    given = _write(
        folder,
        """
from datetime import datetime
from bargeline import Event
def read(position):
    yield "a", {"n": 1}
    yield ["b", 2], '{"n":\\n2}\\n'
    yield "c", Event(id="order-7", type="order", source="", time=datetime(2026, 11, 21, 10), data={"n": 3}, key="k")
    yield "d", "not JSON"
    yield "e", {"n": object}
    yield "f", Event(id="", type=None, source="", time="2026-11-21T10:00:00Z", data={})
    yield "g", b'{"n": 4, "x": "' + b"x" * 2000 + b'"}'
    yield {"page": 9}, {"n": 5}
""",
    )
    assert start(**given, INGEST_MAX_EVENT_BYTES=1_500).wait() == 0
    found = stored.events()
    assert [event["data"]["n"] for event in found] == [1, 2, 3, 5]
    assert len(stored.ids()) == 4
    assert found[2] | {"id": ""} == {
        "id": "", "type": "order", "source": "feed:read", "time": "2026-11-21T10:00:00Z", "data": {"n": 3}, "key": "k"
    }  # fmt: skip
    assert [(one["reason"], one["origin"]["place"]) for one in stored.dead()] == [
        (b"not_json", {"position": "d"}),
        (b"unencodable", {"position": "e"}),
        (b"invalid", {"position": "f"}),
        (b"too_long", {"position": "g"}),
    ]
    assert stored.dead()[0]["bytes"] == b"not JSON"
    assert stored.checkpoint("feed:read")["position"] == {"page": 9}


def test_the_example_of_the_documentation(folder: Path, stored: Stored, start: Start) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/sources.md").read_text(), re.MULTILINE | re.DOTALL)
    (folder / "till.py").write_text(code)
    with closing(sqlite3.connect(folder / "till.db", isolation_level=None)) as till:
        till.execute("CREATE TABLE sales (id INTEGER PRIMARY KEY, sale TEXT)")
        till.execute("BEGIN")
        till.executemany("INSERT INTO sales (sale) VALUES (?)", [(f'{{"n":{n}}}',) for n in range(1_500)])
        till.execute("COMMIT")
        worker = start(INGEST_SOURCE="till:read", CONSUMER_NAME="till")
        until(lambda: stored.counter("accepted") == 1_500, what="what is there")
        till.execute("INSERT INTO sales (sale) VALUES ('{\"n\":1500}')")
        until(lambda: stored.counter("accepted") == 1_501, what="what is added")
        worker.kill()
        worker.wait()
        till.execute("INSERT INTO sales (sale) VALUES ('{\"n\":1501}')")
        worker = start(INGEST_SOURCE="till:read", CONSUMER_NAME="till")
        until(lambda: stored.counter("accepted") == 1_502, what="what was added meanwhile")
        assert worker.stop() == 0
    assert stored.numbers() == list(range(1_502))


def test_without_positions_equal_events_are_different_ones(folder: Path, stored: Stored, start: Start) -> None:
    given = _write(folder, 'def read(position):\n    for _ in range(3): yield None, {"n": 1}')
    assert start(**given).wait() == 0
    assert stored.numbers() == [1, 1, 1]
    assert len(stored.ids()) == 3


def test_what_is_no_source_ends_it_with_2_and_a_sentence(folder: Path, stored: Stored, start: Start) -> None:
    worker = start(**_write(folder, 'def read(position):\n    yield 1, {"n": 1}\n    yield {"n": 2}'))
    assert worker.wait() == 2
    last = worker.log_text().splitlines()[-1]
    assert last == "error: INGEST_SOURCE=feed:read: it yielded dict {'n': 2}. Yield (position, event)."
    assert "Traceback" not in worker.log_text()
    assert stored.numbers() == [1]


def test_another_exception_ends_the_process_after_what_came_before_it(
    folder: Path, stored: Stored, start: Start
) -> None:
    worker = start(**_write(folder, "def read(position):\n    yield 1, {'n': 1}\n    yield 2, {'n': 1 / 0}"))
    assert worker.wait() == 1
    assert "feed.py" in worker.log_text()
    assert "ZeroDivisionError" in worker.log_text()
    assert stored.numbers() == [1]
    assert stored.checkpoint("feed:read")["position"] == 1


def test_of_two_processes_one_stands_by_and_takes_over(folder: Path, stored: Stored, start: Start) -> None:
    given = _write(
        folder, COUNTING.replace("10_000", "1_000").replace('{"n": n}', '{"n": n}; import time; time.sleep(0.001)')
    )
    both = [start(**given, INGEST_BATCH_EVENTS=5) for _ in range(2)]
    until(lambda: any(worker.records(event="another process reads this source; standing by") for worker in both))
    leading = next(one for one in both if not one.records(event="another process reads this source; standing by"))
    leading.kill(signal.SIGKILL)
    (other,) = (one for one in both if one is not leading)
    assert other.wait() == 0
    assert [event["data"]["n"] for event in stored.events()] == list(range(1_000))
