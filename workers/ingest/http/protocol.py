"""HTTP/1.1 as uvicorn speaks it, with limits to connections, to heads, and to the time of a request."""

import asyncio
import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 65_536
#: Some clients (Java's by default) offer HTTP/2 so with every request. The parser would then take its body for
#: another protocol; a server that does not upgrade need not read the header at all.
_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)

_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """One connection; uvicorn ends those that are idle between two requests."""

    #: A request has to arrive within this time.
    request_seconds = 20.0
    #: One more is told to come again: a process without file descriptors could not even reach Redis.
    most_connections = 500
    _in_head = True
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request soon."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.write(_TOO_MANY)
            transport.close()
            return
        self._expect_more()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect no more."""
        self._expect_nothing()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Called at the first byte of a request: until then the connection may have waited for it."""
        self._expect_nothing()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Called at the end of a head."""
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called at the end of a request: what comes next is a head."""
        self._in_head, self._head_bytes = True, 0
        self._expect_nothing()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Called with whatever has come."""
        if self._in_head:
            self._head_bytes += len(data)
            data = _without_upgrade(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_bytes > MOST_HEAD_BYTES:
            self.send_400_response("The head of the request is too large.")
        elif self._head_bytes or not self._in_head:
            self._expect_more()

    def _expect_more(self) -> None:
        # Mostly a request arrives in one piece, and needs no timer.
        if self._timer is None:
            self._timer = self.loop.call_later(self.request_seconds, self._give_up)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self._in_head or self.cycle.response_complete:
            self.transport.close()
        else:
            # Whoever reads the body is told, and answers (request.py).
            self.scope["state"]["late"] = True
            self.cycle.message_event.set()


def _without_upgrade(data: bytes) -> bytes:
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade", head) + end + rest if _UPGRADE.search(head) else data
