"""Somebody's stream as a source: every entry arrives, once in the table, whoever is killed between the two."""

import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from shared.entries import batch_fields
from shared.errors import ConfigurationError
from shared.generate import clicks
from shared.pipeline import load_pipeline
from shared.run import Runtime
from shared.settings import load_settings
from tests import workers
from tests.integration.stored import Start, Stored, starting
from tests.wait import until
from workers.ingest import stream as source


@pytest.fixture
def key(pipeline_name: str) -> str:
    """A stream that is not ours; deleted with the pipeline's keys."""
    return f"{{{pipeline_name}:elsewhere}}orders_stream"


@pytest.fixture
def start(redis_url: str, pipeline_name: str, key: str, tmp_path: Path) -> Iterator[Start]:
    edits = {"[ingest]": "high_water_events = 1200\n[ingest]"}
    with starting(redis_url, tmp_path / "pipeline", pipeline_name, edits) as begin:
        yield partial(begin, INGEST_SOURCE="stream", INGEST_STREAM=key)


def _add(stored: Stored, key: str, first: int, end: int) -> None:
    pipe = stored.client.pipeline()
    for n in range(first, end):
        pipe.xadd(key, {"payload": f'{{"n":{n}}}'})
    pipe.execute()


def _until_read(stored: Stored, count: int) -> None:
    until(lambda: stored.counter("accepted") >= count, what=f"{count} entries")


def _pending(stored: Stored, key: str) -> int:
    return int(stored.client.xinfo_groups(key)[0]["pending"])


def test_a_payload_or_a_field_for_each_value(stored: Stored, key: str, start: Start) -> None:
    stored.client.xadd(key, {"payload": '{"order": 1, "items": [1, 2]}'}, id="1763720000000-0")
    stored.client.xadd(key, {"sensor_id": "s-1", "temp": "21.5"})
    stored.client.xadd(
        key, {"event_id": "b7", "event_type": "order", "timestamp": "2026-11-21T10:00:00Z", "payload": '{"order": 2}'}
    )
    stored.client.xadd(key, {"payload": "[1]"})
    stored.client.xadd(key, {"blob": b"\xff"})
    worker = start().until_started()
    _until_read(stored, 5)
    first, second, third = stored.events()
    assert first["data"] == {"order": 1, "items": [1, 2]}
    assert (first["time"], first["source"]) == ("2025-11-21T10:13:20Z", f"redis:{key}")
    assert second["data"] == {"sensor_id": "s-1", "temp": "21.5"}
    assert (third["type"], third["time"], third["data"]) == ("order", "2026-11-21T10:00:00Z", {"order": 2})
    assert [(one["reason"], one["origin"]["stream"]) for one in stored.dead()] == [
        (b"not_json", key),
        (b"not_text", key),
    ]
    assert b"[1]" in stored.dead()[0]["bytes"]
    until(lambda: _pending(stored, key) == 0, what="the acknowledgement")
    stored.client.xadd(key, {"payload": '{"order": 3}'})
    _until_read(stored, 6)
    assert worker.stop() == 0
    (group,) = stored.client.xinfo_groups(key)
    assert (group["name"], group["consumers"], group["pending"]) == (f"bargeline:{stored.name}".encode(), 0, 0)


def test_killed_in_the_middle_each_entry_has_one_id(stored: Stored, key: str, start: Start) -> None:
    _add(stored, key, 0, 2_600)
    begin = partial(start, INGEST_BATCH_EVENTS=3, CONSUMER_NAME="ingest")
    # The first has some in hand while the pipeline is full; the second goes on with those, and is killed anywhere.
    worker = begin()
    until(lambda: worker.records(action="pressure"), what="the high-water mark")
    worker.kill(signal.SIGKILL)
    worker.wait()
    assert _pending(stored, key) == 3
    stored.make_room()
    worker = begin()
    _until_read(stored, 1_700)
    worker.kill(signal.SIGKILL)
    worker.wait()
    assert stored.counter("accepted") < 2_600, "it has to be killed in the middle for this test to say anything"
    stored.make_room()
    worker = begin().until_started()
    until(lambda: len(stored.ids()) == 2_600 and _pending(stored, key) == 0, what="all entries")
    found = {(event["id"], event["data"]["n"]) for event in stored.events()}
    assert {n for _, n in found} == set(range(2_600))
    assert len(found) == 2_600
    assert worker.stop() == 0


def test_what_a_dead_consumer_held_is_taken_over_and_its_id_is_the_same(stored: Stored, key: str, start: Start) -> None:
    _add(stored, key, 0, 3)
    group = f"bargeline:{stored.name}"
    stored.client.xgroup_create(key, group, "0")
    # Given to somebody who went away, after it had sent one of them and before it could say so.
    stored.client.xreadgroup(group, "gone", {key: ">"})
    gone = start(INGEST_GROUP="another").until_started()
    _until_read(stored, 3)
    before = stored.ids()
    assert gone.stop() == 0
    worker = start(INGEST_CLAIM_SECONDS=0.1).until_started()
    _until_read(stored, 6)
    assert stored.ids() == before
    assert worker.records(event="took over what a consumer that is gone held")
    until(lambda: _pending(stored, key) == 0, what="the acknowledgement")
    assert worker.stop() == 0


def test_what_a_worker_holds_that_waits_for_room_is_not_taken_from_it(stored: Stored, key: str, start: Start) -> None:
    _add(stored, key, 0, 2_400)
    slow = start(CONSUMER_NAME="slow")
    until(lambda: slow.records(action="pressure"), what="the high-water mark")
    held = _pending(stored, key)
    other = start(CONSUMER_NAME="other", INGEST_CLAIM_SECONDS=0.01).until_started()
    until(lambda: other.records(action="pressure"), what="the other to be held up by new entries")
    stored.make_room()
    until(lambda: _pending(stored, key) == 0, what="the rest")
    assert held > 0
    assert stored.numbers() == list(range(2_400))
    assert [slow.stop(), other.stop()] == [0, 0]


def test_text_reaches_typed_columns_exactly_once(stored: Stored, key: str, given: dict[str, Any]) -> None:
    """Through the whole pipeline, with ingest killed: values of a stream are text, columns are not."""
    sent = list(clicks(4, 700))
    pipe = stored.client.pipeline()
    for click in sent:
        pipe.xadd(key, {**click, "device_is_mobile": "true" if click["device_is_mobile"] else "false"})
    pipe.execute()
    ingest: dict[str, Any] = {
        "INGEST_SOURCE": "stream",
        "INGEST_STREAM": key,
        "INGEST_BATCH_EVENTS": 2,
        "CONSUMER_NAME": "in",
    }
    with workers.running("transform", "loader", **given):
        worker = workers.start("ingest", **given, **ingest)
        _until_read(stored, 300)
        workers.end(worker)
        with workers.running("ingest", **given, **ingest):
            until(lambda: stored.counter("loaded") == 700, what="all clicks to be loaded")
    with psycopg.connect(given["database_url"]) as connection:
        rows = connection.execute("SELECT payload->>'click_id', device_is_mobile FROM clicks").fetchall()
    assert sorted(rows) == sorted((click["click_id"], click["device_is_mobile"]) for click in sent)
    assert stored.counter("dead.transform") == 0


def test_record_batches_of_another_pipeline_are_the_events_they_hold(stored: Stored, key: str, start: Start) -> None:
    lines = [
        msgspec.json.encode({"id": f"018f0000-0000-7000-8000-00000000000{n}", "type": "click", "source": "s",
                             "time": "2026-11-21T10:00:00Z", "data": {"n": n}}) + b"\n"
        for n in range(3)
    ]  # fmt: skip
    names_and_values = batch_fields(b"".join(lines), 3, 0, "zstd")
    stored.client.xadd(key, dict(zip(names_and_values[::2], names_and_values[1::2], strict=True)))
    broken = batch_fields(b'{"id":1}\n', 1, 0)
    stored.client.xadd(key, dict(zip(broken[::2], broken[1::2], strict=True)))
    worker = start().until_started()
    _until_read(stored, 4)
    assert [msgspec.json.encode(event) + b"\n" for event in stored.events()] == lines
    assert [one["reason"] for one in stored.dead()] == [b"malformed"]
    assert worker.stop() == 0


def test_a_group_that_was_destroyed_is_made_again_and_ids_are_the_same(stored: Stored, key: str, start: Start) -> None:
    _add(stored, key, 0, 10)
    worker = start().until_started()
    _until_read(stored, 10)
    before = stored.ids()
    stored.client.xgroup_destroy(key, f"bargeline:{stored.name}")
    _until_read(stored, 20)
    assert stored.ids() == before
    assert 'incidents_total{kind="group_missing"' in worker.get("/metrics")[1]
    assert worker.stop() == 0


def test_an_entry_that_was_deleted_before_it_was_carried_is_counted(stored: Stored, key: str, start: Start) -> None:
    _add(stored, key, 0, 3)
    group = f"bargeline:{stored.name}"
    stored.client.xgroup_create(key, group, "0")
    ((_, given),) = stored.client.xreadgroup(group, "me", {key: ">"})
    stored.client.xdel(key, given[1][0])
    worker = start(CONSUMER_NAME="me").until_started()
    _until_read(stored, 2)
    assert stored.numbers() == [0, 2]
    until(lambda: _pending(stored, key) == 0, what="the acknowledgement")
    assert worker.records(action="lost")[0]["entry"] == given[1][0].decode()
    assert worker.stop() == 0


def test_it_begins_where_it_is_told_to_unless_the_group_knows_better(stored: Stored, key: str, start: Start) -> None:
    stored.client.xadd(key, {"payload": '{"n":0}'}, id="1763720000000-0")
    stored.client.xadd(key, {"payload": '{"n":1}'}, id="1763720001000-0")
    worker = start(INGEST_START="2025-11-21T10:13:21Z").until_started()
    _until_read(stored, 1)
    assert worker.stop() == 0
    _add(stored, key, 2, 3)
    start(INGEST_START="latest")
    _until_read(stored, 2)
    assert stored.numbers() == [1, 2]


def test_the_first_entry_of_a_start() -> None:
    assert [source.first_id(text) for text in ("beginning", "latest", "5-1", "17")] == ["0", "$", "5-1", "17"]
    assert source.first_id("1970-01-01T00:00:01Z") == "999-18446744073709551615"


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (None, "INGEST_STREAM is not set: name the stream"),
        ("{%s}:raw", "INGEST_STREAM={%s}:raw is a stream of this very pipeline."),
        ("%s:text", "%s:text holds something else than a stream. Name another."),
    ],
)
def test_what_cannot_be_read_is_refused(
    redis_url: str, stored: Stored, tmp_path: Path, stream: str | None, text: str
) -> None:
    stored.client.set(f"{stored.name}:text", "x", ex=60)
    given = {"REDIS_URL": redis_url} | ({"INGEST_STREAM": stream % stored.name} if stream else {})
    pipeline = load_pipeline(str(workers.make_pipeline(tmp_path / "p", stored.name)))
    with pytest.raises(ConfigurationError, match=re.escape(text.replace("%s", stored.name))):
        source.start(Runtime("ingest", load_settings(given), pipeline))
