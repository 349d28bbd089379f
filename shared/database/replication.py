"""Streaming replication: what logical decoding sends, message by message.

psycopg has no connection for it, but its libpq has all that one needs: a COPY that goes both ways, in which the
server sends changes and asks for signs of life, and hears how far it may forget.
"""

import select
import struct
import time
from typing import NamedTuple

import psycopg
from psycopg import pq

from shared.database.connection import connect, translated
from shared.errors import ConfigurationError, TransientError
from shared.urls import without_password

VARIABLE = "INGEST_CDC_URL"
#: PostgreSQL counts microseconds from the beginning of 2000.
EPOCH_2000 = 946_684_800
#: Text of values must not depend on who configured the server, nor a reading that waits end by itself.
SESSION = {
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "synchronize_seqscans": "off",
}
_CHANGE = struct.Struct(">cQQq")
_KEEPALIVE = struct.Struct(">cQq?")
_STATUS = struct.Struct(">cQQQq?")


class Change(NamedTuple):
    """A message of the output plugin, and the place in the WAL that it is about."""

    lsn: int
    payload: bytes


class Keepalive(NamedTuple):
    """Everything that committed before ``lsn`` was sent; with ``reply`` the server waits for a status."""

    lsn: int
    reply: bool


Message = Change | Keepalive


def lsn_text(lsn: int) -> str:
    """A place in the WAL as PostgreSQL writes it: `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """A place in the WAL as a number of bytes."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


class ReplicationStream:
    """The changes of a publication as a slot gives them, from a place in the WAL on. For one thread at a time."""

    def __init__(self, url: str, name: str, slot: str, publication: str, lsn: int) -> None:
        """Begin. Raises TransientError where the server is away or somebody else reads the slot, ConfigurationError."""
        self._url = url
        self._connection = connect(url, name, VARIABLE, SESSION, replication="database", client_encoding="UTF8")
        command = (
            f"START_REPLICATION SLOT {quoted_name(slot)} LOGICAL {lsn_text(lsn)} "
            f"(proto_version '1', publication_names {_literal(quoted_name(publication))})"
        )
        try:
            self._begin(command)
        except BaseException:
            self._connection.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._connection.fileno(), select.POLLIN)

    def _begin(self, command: str) -> None:
        with translated(self._url, VARIABLE):
            result = self._connection.pgconn.exec_(command.encode())
            if result.status != pq.ExecStatus.COPY_BOTH:
                raise _refused(self._url, result)

    def receive(self, seconds: float, most_bytes: int) -> list[Message]:
        """Messages that are there, up to about so many bytes; waits up to so many seconds for the first.

        Raises TransientError when the stream ended, ConfigurationError when the server cannot go on with it.
        """
        with translated(self._url, VARIABLE):
            found = self._messages(most_bytes)
            if not found and self._poll.poll(seconds * 1000):
                self._connection.pgconn.consume_input()
                found = self._messages(most_bytes)
        return found

    def _messages(self, most_bytes: int) -> list[Message]:
        found: list[Message] = []
        while most_bytes > 0:
            size, data = self._connection.pgconn.get_copy_data(1)
            if size < 0:
                raise self._ended()
            if size == 0:
                break
            found.append(_message(bytes(data)))
            most_bytes -= size
        return found

    def _ended(self) -> Exception:
        result = self._connection.pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return _refused(self._url, result)
        return TransientError(f"PostgreSQL at {without_password(self._url)}: it ended the stream.")

    def report(self, received: int, confirmed: int) -> None:
        """Tell the server what was received; it may forget what was ``confirmed``, unless that is 0.

        A server that shuts down waits until it hears that what it sent is flushed, or received where nothing is said
        of flushing; hence 0 whenever there is nothing new.
        """
        now = int((time.time() - EPOCH_2000) * 1_000_000)
        with translated(self._url, VARIABLE):
            self._connection.pgconn.put_copy_data(_STATUS.pack(b"r", received, confirmed, confirmed, now, False))
            self._connection.pgconn.flush()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def _message(data: bytes) -> Message:
    if data[:1] == b"w":
        _, lsn, _, _ = _CHANGE.unpack_from(data)
        return Change(lsn, data[_CHANGE.size :])
    _, lsn, _, reply = _KEEPALIVE.unpack(data)
    return Keepalive(lsn, reply)


def _refused(url: str, result: pq.abc.PGresult) -> Exception:
    error = psycopg.errors.error_from_result(result)
    if error.sqlstate == "55000":
        # A slot that was invalidated, or a server that does not decode: waiting does not heal it.
        text = str(error).strip()
        return ConfigurationError(f"PostgreSQL at {without_password(url)}: {text} See `bargeline doctor`.")
    return error


def quoted_name(name: str) -> str:
    """A name as an identifier of SQL and of the replication commands."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
