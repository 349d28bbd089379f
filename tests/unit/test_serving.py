"""The HTTP side of a worker: the address that others are told, and the health check of a container."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shared import serving
from shared.probe import probe


@contextmanager
def _served(host: str, reason: str | None = None) -> Iterator[str]:
    server, address = serving.serve(host, 0, CollectorRegistry(), {"/readyz": lambda: reason}, {})
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_an_address_that_is_listened_on_is_published_as_it_is() -> None:
    with _served("127.0.0.1") as address:
        assert address.startswith("127.0.0.1:")


def test_every_address_is_published_as_the_name_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    with _served("0.0.0.0") as address:
        host, _, port = address.partition(":")
        assert host == "localhost"
        with socket.create_connection((host, int(port)), timeout=5):
            pass


def test_a_name_that_means_nothing_is_replaced_by_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with _served("0.0.0.0") as address:
        host = address.partition(":")[0]
        assert host not in ("0.0.0.0", "")
        assert host == socket.gethostname() or socket.inet_aton(host)


def test_the_health_check_tells_a_worker_that_is_ready_from_one_that_is_not() -> None:
    with _served("127.0.0.1") as address:
        assert probe(_port(address), "/readyz") == (True, "ok")
    with _served("127.0.0.1", "waiting for Redis") as address:
        assert probe(_port(address), "/readyz") == (False, "waiting for Redis")
    healthy, text = probe(_port(address), "/readyz")
    assert not healthy
    assert "no answer" in text


def test_the_health_check_ends_with_what_it_found_and_imports_no_library() -> None:
    with _served("127.0.0.1") as address:
        command = [sys.executable, "-X", "importtime", "-m", "shared.probe", str(_port(address)), "/readyz"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert not [line for line in done.stderr.splitlines() if line.endswith(("pydantic", "redis", "structlog"))]
    assert subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 1
