"""The HTTP side of a worker: ``/metrics``, ``/healthz``, ``/readyz``, and what the janitor adds."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from shared.errors import ConfigurationError

#: Returns None when all is well, else the reason.
Check = Callable[[], str | None]
#: Returns a JSON document.
Document = Callable[[], bytes]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # Without it a restart on a fixed port fails while old connections linger.
    allow_reuse_address = True


class _Handler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name upstream
        """A scrape is no occurrence."""


def serve(
    host: str,
    port: int,
    registry: CollectorRegistry,
    checks: Mapping[str, Check],
    documents: Mapping[str, Document],
) -> tuple[_Server, str]:
    """Serve in a thread; returns the server and the address, as ``host:port``, that others reach it at.

    Raises ConfigurationError if the port cannot be had.
    """
    application = _application(registry, checks, documents)
    try:
        server = make_server(host, port, application, _Server, _Handler)
    except OSError as error:
        raise ConfigurationError(
            f"METRICS_HOST={host} METRICS_PORT={port}: cannot listen there ({error.strerror}). "
            "Choose another port, or METRICS_PORT=0 for any free one."
        ) from None
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server, f"{_reachable(host)}:{server.server_port}"


def _reachable(host: str) -> str:
    """What others connect to: 0.0.0.0 is every address of this machine, and none to anybody else."""
    if host != "0.0.0.0":  # noqa: S104 -- compared, not listened on
        return host
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        socket.getaddrinfo(name, None)
        return name
    # A name that this machine does not know itself tells others nothing: then the address of its default route.
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(("192.0.2.1", 9))  # Nothing is sent: that only asks which address would send it.
        return str(route.getsockname()[0])
    return name


def _application(
    registry: CollectorRegistry, checks: Mapping[str, Check], documents: Mapping[str, Document]
) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    metrics = make_wsgi_app(registry)

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            exposition: Iterable[bytes] = metrics(environ, start)
            return exposition
        if path in checks:
            reason = checks[path]()
            status = "200 OK" if reason is None else "503 Service Unavailable"
            return _answer(start, status, "text/plain; charset=utf-8", (reason or "ok").encode() + b"\n")
        if path in documents:
            return _answer(start, "200 OK", "application/json", documents[path]())
        known = " ".join(["/metrics", *checks, *documents])
        return _answer(start, "404 Not Found", "text/plain; charset=utf-8", f"there is {known}\n".encode())

    return application


def _answer(start: StartResponse, status: str, kind: str, body: bytes) -> list[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
