"""Redis' measured memory is a second gate: ingest waits at it, and goes on once there is room."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from bargeline.embedded.throwaway import start_valkey, stop
from shared.streams import Client
from shared.topology import Topology
from tests.integration.protocol import assert_law
from tests.integration.stored import Start, Stored, starting
from tests.wait import until

COUNT = 2_000
MEGABYTE = 1 << 20


@contextmanager
def _limited(folder: Path, megabytes: int) -> Iterator[tuple[Any, str]]:
    """A server that may use some megabytes more than it does."""
    process, url = start_valkey(folder / "valkey", "--maxmemory-policy", "noeviction")
    try:
        with redis.Redis.from_url(url) as client:
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + megabytes * MEGABYTE)
            yield client, url
    finally:
        stop(process)


@contextmanager
def _start(url: str, folder: Path) -> Iterator[Start]:
    with starting(url, folder / "pipeline", "limited") as begin:
        yield begin


def _lines(path: Path) -> None:
    """20 MB that do not compress."""
    path.write_text("".join(f'{{"n":{n},"x":"{"x" * 10_000}"}}\n' for n in range(COUNT)))


def _assert_all_there(client: Any, url: str) -> None:
    assert Stored(client, "limited").numbers() == list(range(COUNT))
    stage = Client(url, Topology("limited"))
    assert assert_law(stage).accepted == COUNT
    stage.close()


def test_ingest_waits_at_the_gate_while_memory_is_short(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    _lines(path)
    with _limited(tmp_path, 0) as (client, url), _start(url, tmp_path) as start:
        client.config_set("maxmemory", 0)
        client.set("something else", b"x" * 95 * MEGABYTE)
        client.config_set("maxmemory", 110 * MEGABYTE)
        worker = start(path, INGEST_MEMORY_RATIO=0.8)
        until(lambda: worker.records(action="pressure", level="warning"), what="the gate to close")
        stored = Stored(client, "limited")
        assert stored.counter("accepted") == 0
        assert worker.alive
        client.delete("something else")
        assert worker.wait() == 0
        assert len(worker.records(action="pressure")) == 2, "it says so once, and once that it is over"
        _assert_all_there(client, url)


def test_a_full_server_holds_ingest_until_it_has_room(tmp_path: Path) -> None:
    """Within a second of a measurement the limit can be reached: then the server refuses the batch."""
    path = tmp_path / "a.log"
    _lines(path)
    with _limited(tmp_path, 5) as (client, url), _start(url, tmp_path) as start:
        worker = start(path, INGEST_MEMORY_RATIO=1)
        until(
            lambda: [one for one in worker.records(action="hold") if "used memory > 'maxmemory'" in one["reason"]],
            what="a refusal",
        )
        assert 0 < Stored(client, "limited").counter("accepted") < COUNT
        assert worker.alive
        client.config_set("maxmemory", 200 * MEGABYTE)
        assert worker.wait() == 0
        _assert_all_there(client, url)


def test_without_a_limit_there_is_no_gate(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    _lines(path)
    with _limited(tmp_path, 0) as (client, url), _start(url, tmp_path) as start:
        client.config_set("maxmemory", 0)
        assert start(path, INGEST_MEMORY_RATIO=0.01).wait() == 0
        _assert_all_there(client, url)
