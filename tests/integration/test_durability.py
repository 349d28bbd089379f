"""INGEST_DURABILITY: what counts as accepted survives, and what the server cannot do is refused or waited for."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from bargeline.embedded.throwaway import start_valkey, stop
from shared.errors import ConfigurationError
from shared.settings import load_settings
from tests.integration.stored import Start, Stored, starting
from tests.wait import until
from tests.workers import Worker

Server = tuple[subprocess.Popen[bytes], str]


@contextmanager
def _server(folder: Path, *arguments: str) -> Iterator[Server]:
    process, url = start_valkey(folder, *arguments)
    try:
        yield process, url
    finally:
        process.send_signal(signal.SIGCONT)
        stop(process)


@contextmanager
def _start(url: str, folder: Path) -> Iterator[Start]:
    with starting(url, folder, "durable") as begin:
        yield begin


@contextmanager
def _replica(folder: Path, primary: str) -> Iterator[Server]:
    with (
        _server(folder, "--replicaof", f"127.0.0.1 {urlsplit(primary).port}") as server,
        redis.Redis.from_url(server[1]) as client,
    ):
        until(lambda: client.info("replication")["master_link_status"] == "up", what="the replica to be in step")
        yield server


def _lines(path: Path, count: int, padding: int = 0) -> None:
    path.write_text("".join(f'{{"n":{n},"x":"{"x" * padding}"}}\n' for n in range(count)))


def _accepted(worker: Worker) -> int:
    lines = worker.get("/metrics")[1].splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if 'outcome="accepted"' in line))


def _until_holding(worker: Worker, text: str) -> None:
    def holds() -> bool:
        started = worker.records(action="start")
        status, reason = worker.get("/readyz") if started else (0, "")
        return status == 503 and text in reason

    until(holds, what=f"/readyz to say {text!r}")


def test_aof_waits_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    _lines(path, 10)
    with _server(tmp_path / "v", "--appendfsync", "always") as (_, url), redis.Redis.from_url(url) as client:
        with _start(url, tmp_path / "p") as start:
            worker = start(path, INGEST_DURABILITY="aof", INGEST_WATCH="true")
            until(lambda: worker.records(event="read to the end"), what="the file to be read")
            assert _accepted(worker) == 10
            # From here on nothing gets to the disk.
            client.config_set("appendfsync", "no")
            with path.open("a") as file:
                file.write('{"n":10}\n')
            _until_holding(worker, "not yet on its disk (INGEST_DURABILITY=aof)")
            assert _accepted(worker) == 10
            client.config_set("appendfsync", "always")
            until(lambda: _accepted(worker) == 11, what="the line to be accepted")
            assert worker.get("/readyz")[0] == 200
            assert worker.stop() == 0
        stored = Stored(client, "durable")
        assert stored.numbers() == list(range(11))
        assert stored.counter("accepted") == 11


def test_what_replicas_confirmed_survives_the_primary(tmp_path: Path) -> None:
    """A frozen replica holds ingest until it wakes; what it has not confirmed is not accepted, and not lost."""
    small, big = tmp_path / "a.log", tmp_path / "b.log"
    count = 2_000
    given: dict[str, Any] = {"INGEST_WATCH": "true", "CONSUMER_NAME": "ingest"}
    with (
        _server(tmp_path / "one") as (primary, url),
        _replica(tmp_path / "two", url) as (replica, replica_url),
        redis.Redis.from_url(url) as before,
        redis.Redis.from_url(replica_url) as after,
    ):
        stored = Stored(after, "durable")
        with _start(url, tmp_path / "p1") as start:
            replica.send_signal(signal.SIGSTOP)
            _lines(small, 10)
            worker = start(tmp_path / "*.log", INGEST_DURABILITY="replicas:1", **given)
            _until_holding(worker, "0 of 1 replicas have the batch (INGEST_DURABILITY=replicas:1)")
            added = Stored(before, "durable").counter("accepted")
            assert (added, _accepted(worker)) == (10, 0), "it is added once, and not accepted yet"
            replica.send_signal(signal.SIGCONT)
            until(lambda: _accepted(worker) == 10, what="ingest to go on")
            assert stored.counter("accepted") == 10
            replica.send_signal(signal.SIGSTOP)
            # More than the sockets and the server's buffers between the two can take.
            _lines(big, count, padding=10_000)
            _until_holding(worker, "0 of 1 replicas")
            accepted = _accepted(worker)
            assert accepted < count, "it has to be in the middle for this test to say anything"
            primary.kill()
            primary.wait()
        replica.send_signal(signal.SIGCONT)
        after.execute_command("REPLICAOF", "NO", "ONE")
        assert accepted <= stored.counter("accepted") == len(stored.events())
        with _start(replica_url, tmp_path / "p2") as start:
            worker = start(tmp_path / "*.log", **given)
            until(lambda: stored.counter("accepted") == count + 10, what="the rest to be read")
            assert worker.stop() == 0
        assert stored.numbers() == sorted([*range(10), *range(count)])
        assert len(stored.ids()) == count + 10


def test_unconfirmed_batches_that_the_server_lost_are_added_again(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    _lines(path, 10)
    one = tmp_path / "one"
    with _server(one, "--appendonly", "no") as (primary, url), _start(url, tmp_path / "p") as start:
        worker = start(path, INGEST_DURABILITY="replicas:1", INGEST_BATCH_EVENTS=2)
        _until_holding(worker, "0 of 1 replicas")
        assert worker.records(action="durability", level="warning", now=0)
        primary.kill()
        primary.wait()
        with (
            _server(one, "--appendonly", "no") as (_, again),
            redis.Redis.from_url(again) as client,
            _replica(tmp_path / "two", again),
        ):
            assert worker.wait() == 0
            assert again == url
            assert Stored(client, "durable").numbers() == list(range(10))
            assert "not confirmed yet" in worker.log_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--appendonly", "no"], "keeps no append-only file. Set `appendonly yes` there, or INGEST_DURABILITY=memory."),
        (["--appendfsync", "no"], "Set `appendfsync always` there, or INGEST_DURABILITY=memory."),
        # The embedded version has the defect.
        (["--appendfsync", "everysec"], "answers WAITAOF before it has written to the disk"),
        # Stands for a server that is older.
        (["--rename-command", "WAITAOF", ""], "has no WAITAOF; Redis 7.2 or Valkey 7.2 is needed"),
    ],
)
def test_aof_is_refused_where_it_means_nothing(tmp_path: Path, arguments: list[str], text: str) -> None:
    with _server(tmp_path / "v", *arguments) as (_, url), _start(url, tmp_path / "p") as start:
        worker = start(tmp_path, INGEST_DURABILITY="aof")
        assert worker.wait() == 2
        assert text in worker.log_text()


@pytest.mark.parametrize("value", ["replicas:0", "replicas:-1", "replicas:", "replicas", "disk", "AOF 1"])
def test_nonsense_is_a_settings_error(value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"INGEST_DURABILITY='{value}'"):
        load_settings({"INGEST_DURABILITY": value})
