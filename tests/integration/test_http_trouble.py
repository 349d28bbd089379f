"""The source http in trouble: pressure, outages, lost replies, a stop in the middle; nobody waits for long."""

import itertools
import json
import resource
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import redis

from bargeline.embedded.throwaway import start_valkey, stop
from tests import workers
from tests.proxy import Proxy, through
from tests.receiving import Receiver, receiving
from tests.wait import until


@contextmanager
def _server(folder: Path, *arguments: str) -> Iterator[tuple[Any, str]]:
    process, url = start_valkey(folder, *arguments)
    try:
        yield process, url
    finally:
        process.send_signal(signal.SIGCONT)
        stop(process)


def _busy(response: httpx.Response, detail: str) -> None:
    assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
    assert int(response.headers["retry-after"]) >= 1
    assert detail in response.json()["detail"]


def test_a_full_stage_refuses_and_takes_again(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    edits = {"[ingest]": "high_water_events = 5\n[ingest]"}
    with receiving(redis_url, tmp_path / "p", pipeline_name, edits=edits) as receiver:
        assert receiver.post("/events", "[{},{},{},{},{},{}]").status_code == 202
        _busy(receiver.post("/events", "{}"), "nothing was added")
        assert len(receiver.worker.records(action="pressure", level="warning")) == 1
        receiver.stored.client.hincrby(receiver.stored.key("ledger"), "raw.settled", 6)
        assert receiver.post("/events", "{}").status_code == 202
        assert receiver.stored.counter("accepted") == 7
        assert receiver.counted("events", outcome="accepted") == 7


def test_the_memory_gate_refuses(tmp_path: Path) -> None:
    with (
        _server(tmp_path / "v", "--maxmemory", "100mb", "--maxmemory-policy", "noeviction") as (_, url),
        receiving(url, tmp_path / "p", "memory", INGEST_MEMORY_RATIO="0.0001") as receiver,
    ):
        _busy(receiver.post("/events", "{}"), "nothing was added")
        assert receiver.stored.counter("accepted") == 0


def test_the_rate_limit(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    with receiving(redis_url, tmp_path / "p", pipeline_name, INGEST_HTTP_RATE_EVENTS="0.01") as receiver:
        assert receiver.post("/events", "[{},{}]").status_code == 202
        response = receiver.post("/events", "{}")
        assert (response.status_code, response.json()["status"]) == (429, 429)
        assert 200 < int(response.headers["retry-after"]) <= 300


def test_tokens(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    with receiving(redis_url, tmp_path / "p", pipeline_name, INGEST_HTTP_TOKENS="first\nsecond\n") as receiver:
        statuses = [
            receiver.post("/events", "{}", headers={"Authorization": f"Bearer {token}"}).status_code
            for token in ("first", "second", "third", "first\tsecond")
        ]
        assert statuses == [202, 202, 401, 401]
        response = receiver.post("/events", "{}")
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        assert receiver.http.get("/openapi.json").json()["paths"]["/events"]["post"]["security"] == [{"token": []}]


def test_a_body_that_does_not_come_is_not_waited_for(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    with receiving(redis_url, tmp_path / "p", pipeline_name, INGEST_HTTP_REQUEST_SECONDS="0.2") as receiver:
        host, port = receiver.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{")
            answered = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answered.startswith(b"HTTP/1.1 408 ")


def test_more_connections_than_there_are_files_for(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (250, hard))
    with ExitStack() as stack:
        try:
            receiver = stack.enter_context(receiving(redis_url, tmp_path / "p", pipeline_name))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        host, port = receiver.address.split(":")
        opened = [stack.enter_context(socket.create_connection((host, int(port)), timeout=20)) for _ in range(100)]
        assert opened[-1].recv(100).startswith(b"HTTP/1.1 503 ")
        opened[0].sendall(b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert opened[0].recv(100).startswith(b"HTTP/1.1 202 ")
        for one in opened:
            one.close()
        until(lambda: _taken(receiver), what="room for another")


def test_redis_is_killed_and_comes_back(tmp_path: Path) -> None:
    # With everysec the server answers before it has written anything, while a sync takes long.
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with (
        _server(tmp_path / "v", *durable) as (process, url),
        receiving(url, tmp_path / "p", "away") as receiver,
    ):
        ids = receiver.post("/events", "{}").json()["ids"]
        process.kill()
        process.wait()
        _busy(receiver.post("/events", "{}"), "may be in")
        status, reason = receiver.worker.get("/readyz")
        assert (status, "Redis at" in reason) == (503, True)
        assert receiver.worker.get("/healthz")[0] == 200
        _busy(receiver.post("/events", "{}"), "nothing was added")
        with _server(tmp_path / "v", *durable):
            back = until(lambda: _taken(receiver), what="requests to be taken again")
            assert [event["id"] for event in receiver.stored.events()] == ids + back
            assert receiver.worker.get("/readyz")[0] == 200
            assert receiver.worker.stop() == 0


def _taken(receiver: Receiver) -> list[str] | None:
    response = receiver.post("/events", "{}")
    return response.json()["ids"] if response.status_code == 202 else None


def test_a_frozen_redis_lets_nobody_hang(tmp_path: Path) -> None:
    with _server(tmp_path / "v") as (process, url), receiving(url, tmp_path / "p", "frozen") as receiver:
        assert _taken(receiver)
        process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: receiver.post("/events", "{}"), range(8)))
        for answer in answers:
            _busy(answer, "")
        process.send_signal(signal.SIGCONT)
        until(lambda: _taken(receiver), what="requests to be taken again")


def test_a_batch_whose_reply_is_lost_is_in_once(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    parts = urlsplit(redis_url)
    with (
        Proxy(parts.hostname or "", parts.port or 0) as proxy,
        receiving(through(redis_url, proxy), tmp_path / "p", pipeline_name) as receiver,
        ThreadPoolExecutor(1) as client,
    ):
        with redis.Redis.from_url(redis_url) as direct:
            assert _taken(receiver)
            proxy.mute()
            reply = client.submit(receiver.post, "/events", '{"lost":true}')
            until(lambda: direct.xlen(receiver.stored.key("raw")) == 2, what="the batch to be in")
            proxy.reset()
            proxy.heal()
        assert reply.result(30).status_code == 202
        assert receiver.stored.counter("accepted") == len(receiver.stored.events()) == 2


def test_after_a_flush_it_goes_on(tmp_path: Path) -> None:
    with _server(tmp_path / "v") as (_, url), receiving(url, tmp_path / "p", "flushed") as receiver:
        assert _taken(receiver)
        receiver.stored.client.flushall()
        assert _taken(receiver)
        assert receiver.counted("incidents", kind="checkpoint_lost") == 1
        assert len(receiver.stored.events()) == 1


def test_a_key_of_another_program_ends_the_process(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    with receiving(redis_url, tmp_path / "p", pipeline_name) as receiver:
        receiver.stored.client.set(receiver.stored.key("raw"), "something else")
        assert receiver.post("/events", "{}").status_code == 503
        assert receiver.worker.wait() == 2
        assert "Another program uses the same name" in receiver.worker.log_text()


def test_replicas_that_are_missing_refuse_and_the_disk_accepts(tmp_path: Path) -> None:
    with _server(tmp_path / "v", "--appendonly", "yes", "--appendfsync", "always") as (_, url):
        with receiving(url, tmp_path / "p1", "replicas", INGEST_DURABILITY="replicas:1") as receiver:
            _busy(receiver.post("/events", "{}"), "may be in")
            _busy(receiver.post("/events", "{}"), "nothing was added")
            assert "0 of 1 replicas" in receiver.worker.get("/readyz")[1]
        with receiving(url, tmp_path / "p2", "disk", INGEST_DURABILITY="aof") as receiver:
            assert len(receiver.added(receiver.post("/events", "[{},{}]"))) == 2


def test_a_stop_finishes_what_has_begun(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    with receiving(redis_url, tmp_path / "p", pipeline_name) as receiver:
        host, port = receiver.address.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n"
            connection.sendall(head)
            assert connection.recv(100).startswith(b"HTTP/1.1 100 "), "the request has begun"
            receiver.worker.kill(signal.SIGTERM)
            # Not only at first: long enough that nothing but this request keeps the process.
            looks = itertools.count()
            until(lambda: not _connects(host, int(port)) and next(looks) > 12, what="the port to be closed")
            connection.sendall(b'{"a": 1}')
            answered = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answered.startswith(b"HTTP/1.1 202 ")
        assert b"connection: close" in answered.lower()
        ids = json.loads(answered.partition(b"\r\n\r\n")[2])["ids"]
        assert [event["id"] for event in receiver.stored.events()] == ids
        assert receiver.worker.wait() == 0
        assert receiver.stored.checkpoints() == {}, "its checkpoint is of no use to anybody"


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_port_that_somebody_else_has(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        worker = workers.start("ingest", redis_url, "", folder, INGEST_SOURCE="http", INGEST_HTTP_PORT=port)
        try:
            assert worker.wait() == 2
            assert f"INGEST_HTTP_PORT={port}: cannot listen there (Address already in use)" in worker.log_text()
        finally:
            workers.end(worker)
