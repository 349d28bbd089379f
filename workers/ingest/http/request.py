"""A request as it arrives: its headers, and its body within limits."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from workers.ingest.http.bodies import too_large
from workers.ingest.http.problems import Problem, unavailable

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
#: Bodies in memory at the same time, in largest bodies.
_MOST_BODIES = 4


class Gone(Exception):
    """The sender closed the connection before its body was complete."""


class Room:
    """What the bodies of all requests may need together; one of them ``most_bytes`` at most."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0

    def check(self, size: int) -> None:
        """Raise Problem for a body of this size, or where there is no room at the moment."""
        if size > self.most_bytes:
            raise too_large(self.most_bytes)
        if self.held_bytes > _MOST_BODIES * self.most_bytes:
            raise unavailable("too many large requests at the same time")


class Request:
    """One request; ``close`` gives the room of its body back. Names of headers are in small letters."""

    def __init__(self, scope: Scope, receive: Receive, room: Room) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._state = scope["state"]
        self._receive = receive
        self._room = room
        self._size = 0

    async def body(self) -> bytes:
        """The body as it was sent. Raises Problem; Gone where it ends too soon."""
        length = self.headers.get("content-length", "0")
        self._room.check(int(length) if length.isdigit() else 0)
        pieces: list[bytes] = []
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            if "late" in self._state:  # see protocol.py
                raise Problem(408, "the request did not arrive in time", ("Connection", "close"))
            pieces.append(message.get("body", b""))
            self._size += len(pieces[-1])
            self._room.held_bytes += len(pieces[-1])
            self._room.check(self._size)
            more = message.get("more_body", False)
        return b"".join(pieces)

    def close(self) -> None:
        """Whatever came of it, its body is no longer kept."""
        self._room.held_bytes -= self._size
