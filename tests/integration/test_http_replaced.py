"""The source http is replaced under load: what was answered 202 is in the table, once."""

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from shared.generate import clicks
from tests import workers
from tests.receiving import Receiver, receiving, started
from tests.wait import until

CLIENTS = 64
(CLICK,) = clicks(seed=6, count=1)


class _Clients:
    """Posts clicks over as many connections as there are clients until told to stop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._accepted: list[tuple[str, str]] = []

    def _post(self, client: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        number = 0
        while not self._stop.is_set():
            number += 1
            name = f"{client}-{number}"
            try:
                connection.request(
                    "POST", "/events", json.dumps(CLICK | {"click_id": name}), {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException):
                # Nobody answered, so nothing was promised.
                connection.close()
                continue
            assert response.status == 202, body
            self._accepted.append((json.loads(body)["ids"][0], name))
        connection.close()

    @contextmanager
    def posting(self) -> Iterator[list[tuple[str, str]]]:
        with ThreadPoolExecutor(CLIENTS) as threads:
            posts = [threads.submit(self._post, client) for client in range(CLIENTS)]
            try:
                yield self._accepted
            finally:
                self._stop.set()
            for post in posts:
                post.result(120)


def _in_raw(receiver: Receiver) -> Counter[tuple[str, str]]:
    return Counter((event["id"], event["data"]["click_id"]) for event in receiver.stored.events())


def _loaded(database_url: str) -> Counter[tuple[str, str]]:
    with psycopg.connect(database_url) as connection:
        return Counter((str(one), click) for one, click in connection.execute("SELECT event_id, click_id FROM clicks"))


def test_what_64_clients_were_answered_is_loaded_once(
    redis_url: str, database_url: str, pipeline_name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "p"
    with receiving(redis_url, folder, pipeline_name) as first:
        given: dict[str, Any] = {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}
        with workers.running("transform", "loader", **given):
            with _Clients(first.address).posting() as accepted:
                until(lambda: len(accepted) > 300, what="the first to answer")
                second = started(redis_url, folder, pipeline_name, INGEST_HTTP_PORT=first.address.split(":")[1])
                try:
                    assert first.worker.stop() == 0
                    before = len(accepted)
                    until(lambda: len(accepted) > before + 300, what="the second to answer alone")
                except BaseException:
                    workers.end(second.worker)
                    raise
                finally:
                    second.http.close()
            assert second.worker.stop() == 0
            in_raw = _in_raw(first)
            until(lambda: _loaded(database_url).total() == in_raw.total(), what="all of it to be loaded")
        assert _loaded(database_url) == in_raw
        assert set(in_raw.values()) == {1}
        assert set(accepted) <= in_raw.keys()
        assert len(set(accepted)) == len(accepted) > 600
