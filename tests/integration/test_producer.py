"""A producer on a real server: what it emits is accepted as ingest's is, under pressure and through outages."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
import pydantic
import pytest
import redis

from bargeline import AsyncProducer, BackpressureError, Event, InvalidEvent, NotAccepted, Producer
from bargeline.embedded.throwaway import start_valkey, stop
from shared import events
from shared.entries import MOST_BYTES
from shared.errors import ConfigurationError
from shared.streams import Client, Outcome
from tests import workers
from tests.integration.protocol import assert_law, partition, read, settle_raw
from tests.integration.stored import Stored
from tests.proxy import Proxy, through
from tests.wait import until

T = TypeVar("T")
CLICK: dict[str, Any] = {
    "click_id": "c-1",
    "os": "Linux",
    "os_name": "Linux",
    "os_timezone": "Europe/Paris",
    "device_type": "Computer",
    "device_is_mobile": False,
    "user_custom_id": "ada",
    "user_domain_id": "d",
}
HIGH_WATER = 10


class Click(pydantic.BaseModel):
    click_id: str
    operating_system: str = pydantic.Field(default="Linux", alias="os")
    os_name: str = "Linux"
    os_timezone: str = "Europe/Paris"
    device_type: str = "Computer"
    device_is_mobile: bool = True
    user_custom_id: str = "bob"
    user_domain_id: str = "d"


@pytest.fixture
def folder(tmp_path: Path, pipeline_name: str) -> Path:
    """A pipeline that takes no more from ten events on."""
    edits = {"[ingest]": f"high_water_events = {HIGH_WATER}\n[ingest]"}
    return workers.make_pipeline(tmp_path / "pipeline", pipeline_name, edits=edits)


@pytest.fixture
def stage(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with partition(redis_url, pipeline_name) as client:
        yield client


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    parts = urlsplit(redis_url)
    with Proxy(parts.hostname or "", parts.port or 6379) as found:
        yield found


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that have to wait."""
    with ThreadPoolExecutor(8) as found:
        yield found


def _drain(stage: Client) -> None:
    """Settle all that waits, as a transform would."""
    settle_raw(stage, *(Outcome(entry, filtered=entry.events) for entry in read(stage)))


def test_a_call_is_one_entry_and_is_accounted_for(redis_url: str, folder: Path, stage: Client, stored: Stored) -> None:
    with Producer(redis_url, folder, source="shop") as producer:
        one = producer.emit(CLICK)
        many = producer.emit_many({"n": n} for n in range(3))
        assert producer.emit_many([]) == []
    assert [entry.events for entry in stored.entries()] == [1, 3]
    assert [event["id"] for event in stored.events()] == [one, *many]
    assert {(event["type"], event["source"]) for event in stored.events()} == {("click", "shop")}
    found = assert_law(stage)
    assert (found.accepted, found.in_flight) == (4, 4)
    assert stored.checkpoints() == {}


def test_a_large_call_is_as_few_entries_as_it_takes(redis_url: str, given: dict[str, Any], stored: Stored) -> None:
    with Producer(redis_url, given["pipeline_folder"]) as producer:
        ids = producer.emit_many({"n": n} for n in range(1_200))
        large = producer.emit_many({"x": "x" * (MOST_BYTES // 2)} for _ in range(3))
    assert [entry.events for entry in stored.entries()] == [500, 500, 200, 1, 1, 1]
    assert [event["id"] for event in stored.events()] == [*ids, *large]


def test_none_of_a_call_is_sent_if_one_event_is_invalid(redis_url: str, folder: Path, stored: Stored) -> None:
    with Producer(redis_url, folder) as producer, pytest.raises(InvalidEvent, match="event 1:"):
        producer.emit_many([{"n": 1}, "text"])  # type: ignore[list-item]
    assert stored.entries() == []


def test_a_full_pipeline_raises_and_takes_nothing(redis_url: str, folder: Path, stage: Client, stored: Stored) -> None:
    with Producer(redis_url, folder) as producer:
        producer.emit_many([{}] * HIGH_WATER)
        with pytest.raises(BackpressureError, match=rf"is full: {HIGH_WATER} events wait.*high_water_events") as raised:
            producer.emit({})
        assert raised.value.accepted == 0
        assert stored.counter("accepted") == HIGH_WATER
        _drain(stage)
        with pytest.raises(BackpressureError) as raised:
            producer.emit_many([{}] * 1_200)
        assert raised.value.accepted == 500, "what came before the mark was reached is in, and said to be"
        assert stored.counter("accepted") == HIGH_WATER + 500


def test_a_full_pipeline_is_waited_for(
    redis_url: str, folder: Path, stage: Client, stored: Stored, pool: ThreadPoolExecutor
) -> None:
    with Producer(redis_url, folder, on_full="wait", timeout_seconds=None) as producer:
        producer.emit_many([{}] * HIGH_WATER)
        waiting = pool.submit(producer.emit, {"n": 1})
        _until_refused(stage)
        assert not waiting.done()
        _drain(stage)
        assert waiting.result(30) == stored.events()[-1]["id"]
    with Producer(redis_url, folder, on_full="wait", timeout_seconds=0.2) as producer:
        producer.emit_many([{}] * HIGH_WATER)
        with pytest.raises(BackpressureError):
            producer.emit({})


def test_closing_ends_the_wait(redis_url: str, folder: Path, stage: Client, pool: ThreadPoolExecutor) -> None:
    producer = Producer(redis_url, folder, on_full="wait", timeout_seconds=None)
    producer.emit_many([{}] * HIGH_WATER)
    waiting = pool.submit(producer.emit, {})
    _until_refused(stage)
    producer.close()
    with pytest.raises(BackpressureError):
        waiting.result(30)


def _until_refused(stage: Client) -> None:
    """Wait until somebody has asked a few times more to add what does not fit."""

    def calls() -> int:
        found: bytes = stage.call("INFO", "commandstats")
        line = next(line for line in found.decode().splitlines() if line.startswith("cmdstat_evalsha:"))
        return int(line.partition("calls=")[2].partition(",")[0])

    before = calls()
    until(lambda: calls() >= before + 3, what="further attempts")


def test_memory_that_is_nearly_full_is_pressure(tmp_path: Path, folder: Path) -> None:
    process, url = start_valkey(tmp_path / "valkey", "--maxmemory-policy", "noeviction")
    try:
        with redis.Redis.from_url(url) as client, Producer(url, folder) as producer:
            used = int(client.info("memory")["used_memory"])
            client.config_set("maxmemory", used + used // 20)
            with pytest.raises(BackpressureError, match=r"of its memory.*INGEST_MEMORY_RATIO"):
                producer.emit({})
            client.config_set("maxmemory", 10 * used)
            producer.emit({})
    finally:
        stop(process)


def test_an_outage_is_bridged(
    redis_url: str, folder: Path, proxy: Proxy, pool: ThreadPoolExecutor, stored: Stored
) -> None:
    with Producer(through(redis_url, proxy), folder, timeout_seconds=None) as producer:
        first = producer.emit({})
        proxy.refuse()
        calls = [pool.submit(producer.emit, {"n": n}) for n in range(3)]
        with Producer(through(redis_url, proxy), folder, timeout_seconds=0.2) as other:
            with pytest.raises(NotAccepted, match="not known whether the events were accepted") as raised:
                other.emit({})
            assert not isinstance(raised.value, BackpressureError)
        assert not any(call.done() for call in calls)
        proxy.heal()
        assert {first, *(call.result(30) for call in calls)} == stored.ids()


def test_a_lost_reply_repeats_the_ids(
    redis_url: str, folder: Path, proxy: Proxy, stage: Client, stored: Stored
) -> None:
    with Producer(through(redis_url, proxy), folder) as producer:
        producer.emit({"n": 0})
        _lose_a_reply(proxy, stored, lambda: producer.emit_many([{"n": 1}, {"n": 2}]))
    assert stored.numbers() == [0, 1, 1, 2, 2]
    assert len(stored.ids()) == 3
    assert assert_law(stage).accepted == 5


def _lose_a_reply(proxy: Proxy, stored: Stored, call: Callable[[], T]) -> T:
    """What the call returns although its first reply did not come; its connection has to be there."""
    before = len(stored.entries())
    proxy.mute()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(call)
        until(lambda: len(stored.entries()) > before, what="the events to arrive")
        assert not waiting.done()
        proxy.reset()
        proxy.heal()
        return waiting.result(30)


def test_full_after_a_lost_reply_is_not_called_refused(
    redis_url: str, folder: Path, proxy: Proxy, stored: Stored
) -> None:
    with Producer(through(redis_url, proxy), folder) as producer:
        producer.emit({})
        with pytest.raises(NotAccepted) as raised:
            _lose_a_reply(proxy, stored, lambda: producer.emit_many([{}] * HIGH_WATER))
    assert type(raised.value) is NotAccepted
    assert stored.counter("accepted") == 1 + HIGH_WATER


def test_a_wrong_password_is_configuration(redis_url: str, folder: Path) -> None:
    parts = urlsplit(redis_url)
    url = f"redis://nobody:wrong@{parts.hostname}:{parts.port}/0"
    with Producer(url, folder) as producer, pytest.raises(ConfigurationError, match="refuses the user or password"):
        producer.emit({})


def test_a_producer_needs_the_rights_that_its_page_names(
    redis_url: str, given: dict[str, Any], stored: Stored, redis_client: redis.Redis, pipeline_name: str
) -> None:
    page = (workers.ROOT / "docs" / "producer.md").read_text()
    (line,) = re.findall("^ACL SETUSER shop on >password ~{clickstream}:(.*)$", page, re.MULTILINE)
    rights = f"on >password ~{{{pipeline_name}}}:{line}".split()
    redis_client.execute_command("ACL", "SETUSER", pipeline_name, *rights)  # type: ignore[no-untyped-call]
    try:
        redis_client.script_flush()
        parts = urlsplit(redis_url)
        url = f"redis://{pipeline_name}:password@{parts.hostname}:{parts.port}/0"
        with Producer(url, given["pipeline_folder"]) as producer:
            assert {producer.emit({"n": 1})} == stored.ids()
    finally:
        redis_client.execute_command("ACL", "DELUSER", pipeline_name)  # type: ignore[no-untyped-call]


def test_threads_share_a_producer(
    redis_url: str, given: dict[str, Any], stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGEST_CODEC", "zstd")
    together = threading.Barrier(8)
    with Producer(redis_url, given["pipeline_folder"]) as producer, ThreadPoolExecutor(8) as threads:

        def work(thread: int) -> list[str]:
            together.wait()
            return [producer.emit({"n": 100 * thread + n}) for n in range(100)]

        ids = [one for found in threads.map(work, range(8)) for one in found]
    assert stored.numbers() == list(range(800))
    assert stored.ids() == set(ids)


FORKING = """
import os, sys
import redis
from bargeline import Producer

def connections():
    return [one["id"] for one in server.client_list() if one["name"] == "bargeline-producer"]

server = redis.Redis.from_url(sys.argv[1])
producer = Producer(sys.argv[1], sys.argv[2])
producer.emit({"n": 0})
before = connections()
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    producer.emit({"n": 1})
    os.read(reading, 1)
    producer.emit({"n": 2})
    os._exit(0)
while len(connections()) == len(before):
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended"
producer.emit({"n": 3})
assert len(connections()) == len(before) + 1, "the parent keeps its own"
os.close(writing)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
producer.emit({"n": 4})
sys.exit(code)
"""


def test_both_sides_of_a_fork_have_their_own_connection(redis_url: str, folder: Path, stored: Stored) -> None:
    command = [sys.executable, "-c", FORKING, redis_url, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert stored.numbers() == [0, 1, 2, 3, 4]


def test_concurrent_emits_share_entries(redis_url: str, given: dict[str, Any], stage: Client, stored: Stored) -> None:
    async def emit() -> list[str]:
        async with AsyncProducer(redis_url, given["pipeline_folder"]) as producer:
            return await asyncio.gather(*(producer.emit({"n": n}) for n in range(100)))

    ids = asyncio.run(emit())
    assert [event["id"] for event in stored.events()] == ids
    assert len(stored.entries()) == 1
    assert assert_law(stage).accepted == 100


def test_concurrent_calls_stay_whole(redis_url: str, given: dict[str, Any], stored: Stored) -> None:
    async def emit() -> list[list[str]]:
        async with AsyncProducer(redis_url, given["pipeline_folder"]) as producer:
            calls = (producer.emit_many({"n": n} for _ in range(n)) for n in (0, 300, 200, 1, 700, 3))
            return await asyncio.gather(*calls)

    assert [len(ids) for ids in asyncio.run(emit())] == [0, 300, 200, 1, 700, 3]
    assert [entry.events for entry in stored.entries()] == [500, 1, 500, 200, 3]


def test_async_pressure_reaches_every_call(redis_url: str, folder: Path, stage: Client, stored: Stored) -> None:
    async def emit() -> None:
        async with AsyncProducer(redis_url, folder) as producer:
            await producer.emit_many([{}] * HIGH_WATER)
            failed = await asyncio.gather(*(producer.emit({}) for _ in range(3)), return_exceptions=True)
            assert [type(one) for one in failed] == [BackpressureError] * 3
            assert len(set(map(id, failed))) == 3, "each task raises its own"
            with pytest.raises(InvalidEvent, match="event 0"):
                await producer.emit_many(["text"])  # type: ignore[list-item]
        with pytest.raises(RuntimeError, match="closed"):
            await producer.emit({})
        async with AsyncProducer(redis_url, folder, on_full="wait", timeout_seconds=None) as producer:
            waiting = [asyncio.create_task(producer.emit({"n": n})) for n in range(3)]
            await asyncio.to_thread(_until_refused, stage)
            await asyncio.to_thread(_drain, stage)
            assert set(await asyncio.gather(*waiting)) == {one["id"] for one in stored.events()[HIGH_WATER:]}

    asyncio.run(emit())


def test_what_is_cancelled_while_it_waits_is_not_sent(
    redis_url: str, folder: Path, proxy: Proxy, stored: Stored
) -> None:
    async def emit() -> None:
        async with AsyncProducer(through(redis_url, proxy), folder, timeout_seconds=None) as producer:
            await producer.emit({"n": 0})
            proxy.mute()
            under_way = asyncio.create_task(producer.emit({"n": 1}))
            await asyncio.to_thread(until, lambda: len(stored.entries()) == 2)
            cancelled, behind = (asyncio.create_task(producer.emit({"n": n})) for n in (2, 3))
            await asyncio.sleep(0)
            cancelled.cancel()
            proxy.heal()
            await asyncio.gather(under_way, behind)
            assert cancelled.cancelled()

    asyncio.run(emit())
    assert stored.numbers() == [0, 1, 3]


def test_an_outage_takes_one_timeout_from_all_who_wait(
    redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls too large to travel together: without that each would wait for the ones before it to give up."""

    async def emit() -> None:
        async with AsyncProducer(redis_url, folder, timeout_seconds=0) as producer:
            attempts = 0

            def count(*_: object) -> None:
                nonlocal attempts
                attempts += 1
                raise NotAccepted("away")

            monkeypatch.setattr(producer._link, "send", count)
            calls = [producer.emit_many([{}] * 400) for _ in range(5)]
            failed = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(one) for one in failed] == [NotAccepted] * 5
            assert attempts == 1

    asyncio.run(emit())


def test_what_waits_when_an_event_loop_ends_can_be_closed(redis_url: str, folder: Path) -> None:
    producer = AsyncProducer(redis_url, folder, on_full="wait", timeout_seconds=None)

    async def leave() -> asyncio.Task[str]:
        await producer.emit_many([{}] * HIGH_WATER)
        task = asyncio.create_task(producer.emit({}))
        await asyncio.sleep(0)
        return task

    assert asyncio.run(leave()).cancelled()
    asyncio.run(producer.close())


def test_what_was_emitted_is_in_the_table_once(
    given: dict[str, Any], proxy: Proxy, client: Client, stored: Stored
) -> None:
    url = through(given["redis_url"], proxy)
    with ExitStack() as stack:
        stack.enter_context(workers.running("transform", "loader", **given))
        producer = stack.enter_context(Producer(url, given["pipeline_folder"]))
        ids = [producer.emit(CLICK), producer.emit(Click(click_id="c-2")), producer.emit(CLICK, id="c-3")]
        ids += producer.emit_many([Click(click_id="c-4"), Event("c-5", "click", "app", events.now(), CLICK)])
        ids.append(_lose_a_reply(proxy, stored, lambda: producer.emit(Click(click_id="c-6"))))
        producer.emit(CLICK, id="c-3")
        until(lambda: assert_law(client).in_flight == 0, what="everything to be loaded")
    with psycopg.connect(given["database_url"]) as connection:
        rows = connection.execute("SELECT event_id::text FROM clicks").fetchall()
    assert sorted(rows) == sorted((one,) for one in ids)
    found = assert_law(client)
    assert (found.accepted, found.loaded, found.duplicates, found.dead) == (8, 6, 2, 0)
