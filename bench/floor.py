"""The floor: what the servers have to do in any case, asked for with as little around it as possible.

A file of ready-made COPY text goes into the table with psql, in transactions of 5,000 rows. Beside it
one process sends hand-packed commands: every batch of 500 lines is added to a stream, read by a group,
added to a second stream, acknowledged, read there and acknowledged. Nobody looks into an event.
"""

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hiredis
import msgspec

from bargeline.embedded.wheels import POSTGRES, installed
from bench.ground import Ground
from bench.processes import Measured, finish, go, prepared, python, stopwatch, wait_ready
from shared.events import SourceIds

LINES = 500
TRANSACTION_ROWS = 5_000
_FIELDS = ("click_id", "os_name", "os_timezone", "device_type", "device_is_mobile", "user_domain_id")
_PIPELINED = 16
_RECEIVE_BYTES = 1 << 20


def measure(ground: Ground) -> Measured:
    """Seconds until both servers have done everything."""
    script, log = copy_script(ground.clicks), ground.folder / "floor.log"
    with python("bench.floor", ground.redis_url, str(ground.clicks), log=log) as streams:
        wait_ready(streams, log)
        measured = stopwatch()
        go(streams)
        copy(ground, script)
        finish(streams, log)
        return measured()


def copy(ground: Ground, script: Path) -> None:
    """Let psql run a script of COPY commands."""
    psql = installed(POSTGRES).with_name("psql")
    subprocess.run([psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script, ground.database_url], check=True)


def copy_script(clicks: Path, source: str | None = None) -> Path:
    """Rows as the loader would make them of these clicks; psql reads them from its script.

    ``source`` stands in their ids for the path of the clicks. The script is made once.
    """
    script = clicks.with_suffix(f".{source or 'floor'}.sql")
    if script.exists():
        return script
    now = datetime.now(UTC).isoformat()
    ids = SourceIds(source or str(clicks))
    columns = ", ".join(("event_id", "occurred_at", *_FIELDS, "payload"))
    with clicks.open("rb") as lines, script.open("w") as out:
        for batch in _batches(lines, TRANSACTION_ROWS):
            out.write(f"COPY clicks ({columns}) FROM STDIN;\n")
            for position, line in batch:
                click = msgspec.json.decode(line, type=dict[str, Any])
                row = (ids.id(position, line), now, *(str(click[name]) for name in _FIELDS), line.decode().rstrip("\n"))
                out.write("\t".join(row) + "\n")
            out.write("\\.\n")
    return script


def _batches(lines: Iterable[bytes], size: int) -> Iterator[list[tuple[int, bytes]]]:
    numbered = enumerate(lines)
    while batch := list(itertools.islice(numbered, size)):
        yield batch


class _Streams:
    """A bare connection: packed commands out, replies in."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname or "localhost", address.port or 6379))
        self._reader = hiredis.Reader()

    def run(self, commands: Iterable[bytes]) -> Iterator[Any]:
        """Yield the replies; a few commands are on the way at any time."""
        source = iter(commands)
        while window := list(itertools.islice(source, _PIPELINED)):
            self._socket.sendall(b"".join(window))
            for _ in window:
                yield self._reply()

    def _reply(self) -> Any:
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(_RECEIVE_BYTES))
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply


def _pack(*parts: str | bytes) -> bytes:
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]
    return packed


def _add(stream: str, body: bytes, count: int) -> bytes:
    return _pack("XADD", stream, "*", "v", "1", "n", str(count), "c", "json", "d", body)


def _work(url: str, clicks: Path) -> None:
    streams = _Streams(url)
    groups = (_pack("XGROUP", "CREATE", f"bench:{name}", "g", "0", "MKSTREAM") for name in ("raw", "clean"))
    assert list(streams.run(groups)) == [b"OK", b"OK"]
    with clicks.open("rb") as lines:
        commands = [
            _add("bench:raw", b"".join(line for _, line in batch), len(batch)) for batch in _batches(lines, LINES)
        ]
    prepared()
    for _ in streams.run(commands):
        pass
    for entries in _read(streams, "bench:raw"):
        moved = [_add("bench:clean", fields[-1], int(fields[3])) for _, fields in entries]
        for _ in streams.run([*moved, _acknowledge("bench:raw", entries)]):
            pass
    for entries in _read(streams, "bench:clean"):
        for _ in streams.run([_acknowledge("bench:clean", entries)]):
            pass


def _read(streams: _Streams, stream: str) -> Iterator[list[Any]]:
    command = _pack("XREADGROUP", "GROUP", "g", "c", "COUNT", str(_PIPELINED), "STREAMS", stream, ">")
    while reply := next(streams.run([command])):
        yield reply[0][1]


def _acknowledge(stream: str, entries: list[Any]) -> bytes:
    return _pack("XACK", stream, "g", *(entry_id for entry_id, _ in entries))


if __name__ == "__main__":
    _work(sys.argv[1], Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # freeing 50 MB of commands is no work of the servers
