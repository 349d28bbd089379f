"""The ASGI application by itself: what no sender can bring about, and what a stop leaves of a request."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from shared.metrics import Metrics
from shared.pipeline import load_pipeline
from shared.run import Runtime
from shared.settings import load_settings
from workers.ingest.http.application import Application
from workers.ingest.http.committing import Committer
from workers.ingest.http.problems import Problem
from workers.ingest.http.request import Room

Add = Callable[[list[bytes]], Awaitable[Problem | None]]


def _application(add: Add) -> tuple[Application, Metrics]:
    metrics = Metrics("p", "ingest")
    runtime = SimpleNamespace(settings=load_settings({}), pipeline=load_pipeline("clickstream"), metrics=metrics)
    return Application(cast("Runtime", runtime), cast("Committer", SimpleNamespace(add=add))), metrics


async def _post(application: Application, *pieces: bytes) -> tuple[int, dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    given: Iterator[bytes] = iter(pieces)
    scope = {"type": "http", "method": "POST", "path": "/events", "headers": [], "state": {}}

    async def receive() -> dict[str, Any]:
        piece = next(given, None)
        if piece is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": piece, "more_body": len(pieces) > 1}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    task = asyncio.create_task(application(scope, receive, send))
    while not task.done() and len(pieces) > 1:
        await asyncio.sleep(0)
        task.cancel()
    await task
    return sent[0]["status"], json.loads(sent[1]["body"])


def _count(metrics: Metrics, status: int) -> float | None:
    labels = {"pipeline": "p", "path": "/events", "status": str(status)}
    return metrics.registry.get_sample_value("bargeline_http_requests_total", labels)


def test_a_bug_is_logged_and_answered_without_its_text() -> None:
    async def add(_lines: list[bytes]) -> Problem | None:
        raise RuntimeError("a secret of ours")

    application, metrics = _application(add)
    with capture_logs() as logs:
        status, body = asyncio.run(_post(application, b"{}"))
    assert (status, body["status"]) == (500, 500)
    assert "secret" not in json.dumps(body)
    assert [(one["log_level"], one["path"]) for one in logs] == [("error", "/events")]
    assert _count(metrics, 500) == 1


def test_a_request_that_is_cut_short_by_the_end_of_the_process_is_told_to_come_again() -> None:
    async def add(_lines: list[bytes]) -> Problem | None:
        raise AssertionError("its body was not complete")

    application, metrics = _application(add)
    status, body = asyncio.run(_post(application, b"{", b""))
    assert (status, body["detail"]) == (503, "this process ends")
    assert _count(metrics, 503) == 1


def test_all_bodies_together_have_a_limit() -> None:
    room = Room(100)
    room.held_bytes = 400
    room.check(100)
    room.held_bytes = 401
    with pytest.raises(Problem, match="at the same time") as caught:
        room.check(1)
    assert caught.value.status == 503


def test_the_room_of_a_body_is_given_back() -> None:
    taken: list[bytes] = []

    async def add(lines: list[bytes]) -> Problem | None:
        taken.extend(lines)
        return None

    application, _ = _application(add)
    for body in (b'{"n":1}', b"no JSON", b"[5]"):
        asyncio.run(_post(application, body))
    assert len(taken) == 1
    assert application._room.held_bytes == 0
