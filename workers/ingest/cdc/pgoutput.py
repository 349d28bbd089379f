"""Messages of PostgreSQL's output plugin `pgoutput`, protocol version 1, as objects: pure.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

import struct
from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple, TypeAlias

_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_COLUMN = struct.Struct(">Ii")
_OID = struct.Struct(">I")
_COUNT = struct.Struct(">H")
_LENGTH = struct.Struct(">I")
#: A database of encoding SQL_ASCII may hold anything.
_ANY = "backslashreplace"


class Left(Enum):
    """Instead of a value: a large one that an update did not touch, and that the WAL therefore does not hold."""

    UNCHANGED = "unchanged"


#: Values of a row, in the order of the relation's columns.
Row: TypeAlias = tuple[str | Left | None, ...]


class Begin(NamedTuple):
    """A transaction that commits at ``lsn``; ``time`` in microseconds since 2000."""

    lsn: int
    time: int
    xid: int


class Commit(NamedTuple):
    """The end of a transaction; ``end_lsn`` is behind its commit record."""

    lsn: int
    end_lsn: int


class Column(NamedTuple):
    """A column of a relation; ``identity`` says whether it belongs to the replica identity."""

    name: str
    type_oid: int
    identity: bool


class Relation(NamedTuple):
    """A table as it was when the changes that follow were made.

    ``identity`` is its replica identity: d(efault: the primary key), i(ndex), f(ull) or n(othing).
    """

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[Column, ...]


class Insert(NamedTuple):
    """A new row."""

    relation: int
    new: Row


class Update(NamedTuple):
    """A changed row; ``old`` is there if the key changed (`K`: the key alone) or always (`O`: the whole row)."""

    relation: int
    old_kind: str
    old: Row
    new: Row


class Delete(NamedTuple):
    """A row that is gone: its key (`K`), or all of it (`O`)."""

    relation: int
    old_kind: str
    old: Row


class Truncate(NamedTuple):
    """Tables that were emptied at once."""

    relations: tuple[int, ...]


Parsed: TypeAlias = Begin | Commit | Relation | Insert | Update | Delete | Truncate


class MalformedMessage(Exception):
    """Bytes that are no message of this protocol."""


def parse(payload: bytes) -> Parsed | None:
    """The message, or None for one that carries no change: a type, an origin, a message of an application.

    Raises MalformedMessage.
    """
    reader = _READERS.get(payload[:1])
    if reader is None:
        raise MalformedMessage(f"there is no message {payload[:1]!r}")
    try:
        return reader(payload)
    except (struct.error, IndexError, ValueError) as error:
        raise MalformedMessage(f"message {payload[:1]!r} of {len(payload)} bytes: {error}") from error


def _begin(payload: bytes) -> Begin:
    return Begin(*_BEGIN.unpack_from(payload, 1))


def _commit(payload: bytes) -> Commit:
    _, lsn, end_lsn, _ = _COMMIT.unpack_from(payload, 1)
    return Commit(lsn, end_lsn)


def _relation(payload: bytes) -> Relation:
    (oid,) = _OID.unpack_from(payload, 1)
    schema, place = _string(payload, 5)
    name, place = _string(payload, place)
    identity = chr(payload[place])
    (count,) = _COUNT.unpack_from(payload, place + 1)
    place += 3
    columns = []
    for _ in range(count):
        flags = payload[place]
        column, place = _string(payload, place + 1)
        type_oid, _ = _COLUMN.unpack_from(payload, place)
        place += _COLUMN.size
        columns.append(Column(column, type_oid, bool(flags & 1)))
    # The system's own schema is sent as an empty text.
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _string(payload: bytes, place: int) -> tuple[str, int]:
    end = payload.index(b"\0", place)
    return str(payload[place:end], "utf-8", _ANY), end + 1


def _insert(payload: bytes) -> Insert:
    (oid,) = _OID.unpack_from(payload, 1)
    return Insert(oid, _row(payload, 6)[0])


def _update(payload: bytes) -> Update:
    (oid,) = _OID.unpack_from(payload, 1)
    kind = chr(payload[5])
    if kind == "N":
        return Update(oid, "", (), _row(payload, 6)[0])
    old, place = _row(payload, 6)
    return Update(oid, kind, old, _row(payload, place + 1)[0])


def _delete(payload: bytes) -> Delete:
    (oid,) = _OID.unpack_from(payload, 1)
    return Delete(oid, chr(payload[5]), _row(payload, 6)[0])


def _truncate(payload: bytes) -> Truncate:
    (count,) = _LENGTH.unpack_from(payload, 1)
    return Truncate(struct.unpack_from(f">{count}I", payload, 6))


def _row(payload: bytes, place: int) -> tuple[Row, int]:
    """The values that begin at a place, and the place behind them."""
    (count,) = _COUNT.unpack_from(payload, place)
    place += 2
    values: list[str | Left | None] = []
    unpack_length = _LENGTH.unpack_from
    for _ in range(count):
        kind = payload[place]
        place += 1
        if kind == 0x74:  # t
            (length,) = unpack_length(payload, place)
            place += 4
            end = place + length
            if end > len(payload):
                raise ValueError("a value reaches over its end")
            values.append(str(payload[place:end], "utf-8", _ANY))
            place = end
        elif kind == 0x6E:  # n
            values.append(None)
        elif kind == 0x75:  # u
            values.append(Left.UNCHANGED)
        else:
            raise ValueError(f"there is no kind of value {chr(kind)!r}")
    return tuple(values), place


def _nothing(_: bytes) -> None:
    return None


_READERS: Mapping[bytes, Callable[[bytes], Parsed | None]] = {
    b"B": _begin,
    b"C": _commit,
    b"R": _relation,
    b"I": _insert,
    b"U": _update,
    b"D": _delete,
    b"T": _truncate,
    b"Y": _nothing,
    b"O": _nothing,
    b"M": _nothing,
}
