"""After Redis lost its checkpoints, running workers read their files again, to the same ids."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from bargeline.embedded.throwaway import start_valkey, stop
from tests.integration.stored import Start, Stored, starting
from tests.wait import until
from tests.workers import Worker

WAYS: dict[str, dict[str, Any]] = {
    "watch": {"INGEST_WATCH": "true", "INGEST_WATCH_SECONDS": 0.05},
    "follow": {"INGEST_FOLLOW": "true", "INGEST_WATCH_SECONDS": 0.05, "INGEST_ROTATE_SECONDS": 0.1},
}


@pytest.fixture(scope="module")
def own_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that may be flushed."""
    process, url = start_valkey(tmp_path_factory.mktemp("flushed"))
    yield url
    stop(process)


@pytest.fixture
def stored(own_url: str) -> Iterator[Stored]:
    with redis.Redis.from_url(own_url) as client:
        yield Stored(client, "flushed")
        client.flushall()


@pytest.fixture
def start(own_url: str, tmp_path: Path) -> Iterator[Start]:
    with starting(own_url, tmp_path / "pipeline", "flushed") as begin:
        yield begin


def _lines(first: int, end: int) -> str:
    return "".join(f'{{"n":{n}}}\n' for n in range(first, end))


def _until_read(stored: Stored, count: int) -> None:
    until(lambda: stored.counter("accepted") >= count, what=f"{count} lines to be read")


def _incidents(worker: Worker) -> float:
    lines = worker.get("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if 'kind="checkpoint_lost"' in line)


@pytest.mark.parametrize("way", WAYS)
def test_finished_files_are_read_again_after_a_flush(tmp_path: Path, stored: Stored, start: Start, way: str) -> None:
    files = [tmp_path / f"{n}.log" for n in range(3)]
    for n, path in enumerate(files):
        path.write_text(_lines(n * 10, n * 10 + 10))
        os.utime(path, (1_000_000_000, 1_000_000_000))
    worker = start(tmp_path / "*.log", **WAYS[way]).until_started()
    _until_read(stored, 30)
    before = stored.ids()
    assert len(before) == 30
    stored.client.flushall()
    _until_read(stored, 30)
    assert stored.ids() == before
    assert stored.numbers() == list(range(30))
    assert _incidents(worker) == 3
    assert {one["level"] for one in worker.records(action="source") if "lost the checkpoint" in one["event"]} == {
        "warning"
    }
    (lost,) = [name for name in stored.checkpoints() if name.startswith(str(files[1]))]
    stored.client.hdel(stored.key("checkpoint"), lost)  # an operator's hand
    _until_read(stored, 40)
    assert stored.ids() == before
    with files[0].open("a") as file:
        file.write(_lines(30, 31))
    _until_read(stored, 41)
    assert worker.stop() == 0
    assert len(stored.events()) == 41


@pytest.mark.parametrize("way", WAYS)
def test_a_flush_in_the_middle_of_a_file(tmp_path: Path, stored: Stored, start: Start, way: str) -> None:
    path = tmp_path / "a.log"
    path.write_text(_lines(0, 20_000))
    stored.leave_room(15_000)
    worker = start(path, INGEST_BATCH_EVENTS=5, **WAYS[way])
    _until_read(stored, 1_000)
    before = stored.ids()
    assert len(before) < 20_000, "it has to be in the middle for this test to say anything"
    stored.client.flushall()
    _until_read(stored, 20_000)
    assert stored.numbers() == list(range(20_000))
    assert before < stored.ids()
    assert len(stored.ids()) == 20_000
    assert worker.alive


def test_generations_are_found_again_after_a_flush(tmp_path: Path, stored: Stored, start: Start) -> None:
    """A rotated file and a truncated one keep their ids, also for a process that has never seen them."""
    truncated, rotated = tmp_path / "a.log", tmp_path / "b.log"
    truncated.write_text(_lines(0, 10))
    rotated.write_text(_lines(10, 20))
    worker = start(tmp_path / "*.log", **WAYS["follow"]).until_started()
    _until_read(stored, 20)
    truncated.write_text(_lines(20, 25))
    rotated.rename(tmp_path / "b.log.1")
    _until_read(stored, 25)
    until(lambda: any(one["done"] for one in stored.checkpoints().values()), what="the rotated file to be finished")
    there = {event["id"] for event in stored.events() if event["data"]["n"] >= 10}
    stored.client.flushall()
    _until_read(stored, 15)
    assert stored.ids() == there
    assert worker.stop() == 0
    stored.client.flushall()
    start(tmp_path / "*.log*", **WAYS["follow"]).until_started()
    _until_read(stored, 15)
    assert stored.ids() == there


def test_what_was_read_of_standard_input_is_not_dropped_at_the_end(
    stored: Stored, start: Start, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        stored.leave_room(0)
        worker = start(input_=pipe, INGEST_SOURCE="stdin").until_started()
        os.write(descriptor, _lines(0, 1_600).encode())
        until(lambda: worker.records(action="pressure"), what="the high-water mark")
        worker.kill(signal.SIGTERM)
        stored.make_room()
        assert worker.wait() == 0
        assert stored.numbers() == list(range(1_600))
    finally:
        os.close(descriptor)


def test_standard_input_goes_on_after_a_flush(tmp_path: Path, stored: Stored, start: Start) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # A reader first: opening it for writing alone would wait for one.
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        worker = start(input_=pipe, INGEST_SOURCE="stdin", INGEST_SOURCE_NAME="orders").until_started()
        os.write(descriptor, _lines(0, 1).encode())
        _until_read(stored, 1)
        stored.client.flushall()
        os.write(descriptor, _lines(1, 2).encode())
        _until_read(stored, 1)
        assert stored.numbers() == [1]
        assert _incidents(worker) == 1
        assert worker.stop() == 0
    finally:
        os.close(descriptor)
