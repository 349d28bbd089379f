"""Clients that post one click a request, each over a connection of its own, as fast as they are answered.

A process by itself: ``python -m bench.http_load ADDRESS CLICKS CONNECTIONS WARM_UP_SECONDS SECONDS`` prints a Load.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

_HEAD = b"POST /events HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_CLICKS = 5_000


class Load(msgspec.Struct, frozen=True):
    """What the clients saw: all that was accepted, and the times of those that count, ordered, in milliseconds."""

    accepted: int
    seconds: float
    milliseconds: list[float]


class _Client(asyncio.Protocol):
    """One connection; sends the next request when the last is answered."""

    def __init__(self, requests: Iterator[bytes], answered: list[tuple[float, float]]) -> None:
        self._requests = requests
        self._answered = answered
        self._received = b""
        self.stopping = False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Note an answer once it is whole."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 202 "):
            self.done.set_exception(RuntimeError(f"not accepted: {self._received.decode()}"))
            return
        self._answered.append((self._began, time.perf_counter()))
        self._received = b""
        if self.stopping:
            self._transport.close()
            self.done.set_result(None)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side closed it."""
        if not self.done.done():
            self.done.set_exception(exc or RuntimeError("the connection was closed"))


async def post(address: str, clicks: Path, connections: int, warm_up_seconds: float, seconds: float) -> Load:
    """Post until the time is over; every request that was sent is waited for."""
    host, port = address.split(":")
    with clicks.open("rb") as lines:
        bodies = [line.rstrip() for line in itertools.islice(lines, _CLICKS)]
    requests = itertools.cycle([_HEAD % len(body) + body for body in bodies])
    answered: list[tuple[float, float]] = []
    loop = asyncio.get_running_loop()
    opened = [loop.create_connection(lambda: _Client(requests, answered), host, int(port)) for _ in range(connections)]
    clients = [client for _, client in await asyncio.gather(*opened)]
    begin = time.perf_counter() + warm_up_seconds
    ended = asyncio.gather(*(client.done for client in clients))
    await asyncio.wait([ended], timeout=warm_up_seconds + seconds)
    for client in clients:
        client.stopping = True
    await ended
    counted = [(sent, got) for sent, got in answered if begin <= got < begin + seconds]
    return Load(len(answered), seconds, sorted(1000 * (got - sent) for sent, got in counted))


if __name__ == "__main__":
    address, clicks, connections, *times = sys.argv[1:]
    found = asyncio.run(post(address, Path(clicks), int(connections), *map(float, times)))
    print(msgspec.json.encode(found).decode())
