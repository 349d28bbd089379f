"""A small TCP proxy on loopback that breaks connections on demand, and can put TLS before a plain server."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Self
from urllib.parse import urlsplit

_BLOCK_BYTES = 65_536
#: libpq asks whether the server speaks TLS before it begins: length 8, code 80877103.
_SSL_REQUEST = struct.pack("!II", 8, 80_877_103)
#: Closing a socket that lingers for no time sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes everything to ``host:port`` until told otherwise; runs in a thread of its own.

    With ``tls`` it terminates TLS before the plain server; with ``postgres`` it first answers libpq's question
    whether there is TLS, as PostgreSQL does.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None, postgres: bool = False) -> None:
        self._target = (host, port)
        self._tls = tls
        self._postgres = postgres
        self._live: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._delay = 0.0
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def black_hole(self) -> None:
        """Nothing passes any more in either direction; connections stay open and new ones are accepted."""
        self._call(self._passing.clear)

    def mute(self) -> None:
        """What is asked passes, what is answered does not; it is lost if connections are reset meanwhile."""
        self._call(self._answering.clear)

    def slow(self, seconds: float) -> None:
        """Delay each block by so long."""
        self._call(lambda: setattr(self, "_delay", seconds))

    def refuse(self) -> None:
        """Reset live connections, and new ones at once."""
        self._call(lambda: setattr(self, "_refusing", True))
        self.reset()

    def reset(self) -> None:
        """Reset live connections; new ones pass."""
        self._call(self._reset)

    def heal(self) -> None:
        """Pass everything again, what a black hole held back included."""

        def heal() -> None:
            self._delay = 0
            self._refusing = False
            self._passing.set()
            self._answering.set()

        self._call(heal)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, change: Any) -> None:
        async def call() -> None:
            change()

        self._run(call())

    async def _listen(self) -> int:
        self._passing = asyncio.Event()
        self._passing.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=None if self._postgres else self._tls
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset(self) -> None:
        for writer in list(self._live):
            found = writer.get_extra_info("socket")
            # A handshake that failed has left no socket.
            with contextlib.suppress(OSError, AttributeError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._live.add(writer)
        if self._refusing:
            self._reset()
        first = await self._begin(reader, writer) if self._postgres else b""
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._live.add(server_writer)
        try:
            server_writer.write(first)
            pumps = (
                self._pump(reader, server_writer, self._passing),
                self._pump(server_reader, writer, self._passing, self._answering),
            )
            done = [asyncio.ensure_future(pump) for pump in pumps]
            await asyncio.wait(done, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.cancel()
            await asyncio.gather(*done, return_exceptions=True)
        finally:
            for end in (writer, server_writer):
                self._live.discard(end)
                end.close()

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Answer the question for TLS; returns what has to go to the server already."""
        first = await reader.readexactly(len(_SSL_REQUEST))
        if first != _SSL_REQUEST:
            return first
        writer.write(b"S" if self._tls else b"N")
        await writer.drain()
        if self._tls:
            await writer.start_tls(self._tls)
        return b""

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *gates: asyncio.Event) -> None:
        while block := await reader.read(_BLOCK_BYTES):
            await asyncio.sleep(self._delay)
            for gate in gates:
                await gate.wait()
            writer.write(block)
            await writer.drain()


def through(url: str, proxy: Proxy) -> str:
    """The same URL with the proxy's address in place of the server's."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()
