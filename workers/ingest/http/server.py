"""The source ``http``: uvicorn in the main thread, beside the run loop's lease, watchdog and signals."""

import asyncio
import contextlib
import logging
import resource
import socket
import sys
from collections.abc import Iterator
from typing import Any

import structlog
import uvicorn

from shared.errors import ConfigurationError, Stopped, TransientError
from shared.run import DRAIN_SECONDS, Runtime, Step
from shared.streams import checkpoint
from workers.ingest.http.adding import Adder
from workers.ingest.http.application import Application
from workers.ingest.http.committing import Committer
from workers.ingest.http.protocol import BoundedProtocol

log = structlog.get_logger()
#: As many connections are taken at once; more wait in the system.
_BACKLOG = 128
#: File descriptors for all else: Redis, metrics, the program itself.
_OTHER_FILES = 64
_TICK_SECONDS = 0.1
#: Of the seconds that a worker has to end, so many are for what uvicorn and Redis take besides the requests.
_MARGIN_SECONDS = 5


def start(runtime: Runtime) -> Step:
    """Return the step that serves until the process is asked to stop."""
    source = f"{runtime.settings.ingest_source_name or 'http'}:{runtime.name}"
    adder = Adder(runtime, source, runtime.hold(lambda: checkpoint(runtime.client, source)))
    committer = Committer(runtime, adder)
    application = Application(runtime, committer)
    listener = _listen(runtime.settings.ingest_http_host, runtime.settings.ingest_http_port)
    logging.getLogger().addHandler(_Forward(logging.WARNING))
    # Its warnings are about strangers' malformed requests, and would be as many as they like.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    return lambda: _serve(runtime, application, committer, listener)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that other processes may share the port with; connections wait in it until they are taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"INGEST_HTTP_HOST={host} INGEST_HTTP_PORT={port}: cannot listen there ({error.strerror}). Choose another "
            "port, or INGEST_HTTP_PORT=0 for any free one."
        ) from None
    listener.setblocking(False)
    host, port = listener.getsockname()[:2]
    log.info("listening", action="listen", address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return listener


class _Forward(logging.Handler):
    """Lets what uvicorn and asyncio log look like our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record of theirs."""
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: those are the run loop's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def _serve(runtime: Runtime, application: Any, committer: Committer, listener: socket.socket) -> None:
    BoundedProtocol.request_seconds = runtime.settings.ingest_http_request_seconds
    BoundedProtocol.most_connections = _most_connections()
    config = uvicorn.Config(
        application,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=DRAIN_SECONDS - _MARGIN_SECONDS,
    )
    try:
        asyncio.run(_until_stopped(runtime, _Server(config), committer, listener))
    finally:
        with contextlib.suppress(TransientError):
            committer.close()
    if committer.failure is not None:
        raise committer.failure
    raise Stopped


def _most_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(files - _BACKLOG - _OTHER_FILES, 1)


async def _until_stopped(
    runtime: Runtime, server: uvicorn.Server, committer: Committer, listener: socket.socket
) -> None:
    serving = asyncio.create_task(server.serve([listener]))
    while not serving.done():
        # From the event loop itself: if that hangs, so does this process.
        runtime.beat()
        server.should_exit = runtime.stop.is_set() or committer.failure is not None
        await asyncio.wait([serving], timeout=_TICK_SECONDS)
    await serving
