"""Messages of the output plugin, byte by byte as its protocol defines them."""

import struct

import pytest

from workers.ingest.cdc.pgoutput import (
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    Left,
    MalformedMessage,
    Relation,
    Truncate,
    Update,
    parse,
)


def _row(*values: bytes | None) -> bytes:
    """A row; None is null, and b"u" a value that was left out."""
    kinds = {None: b"n", b"u": b"u"}
    cells = [kinds.get(value) or b"t" + struct.pack(">I", len(value or b"")) + (value or b"") for value in values]
    return struct.pack(">H", len(values)) + b"".join(cells)


RELATION = (
    b"R"
    + struct.pack(">I", 16_385)
    + b"shop\0orders\0d"
    + struct.pack(">H", 2)
    + b"\x01id\0"
    + struct.pack(">Ii", 23, -1)
    + b"\x00n\xc3\xb6te\0"
    + struct.pack(">Ii", 1_043, 24)
)
OID = struct.pack(">I", 16_385)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"B" + struct.pack(">QqI", 0x16_B374D848, 817_000_000_000_000, 755), Begin(0x16_B374D848, 817 * 10**12, 755)),
        (b"C" + struct.pack(">BQQq", 0, 10, 20, 5), Commit(10, 20)),
        (RELATION, Relation(16_385, "shop", "orders", "d", (Column("id", 23, True), Column("nöte", 1_043, False)))),
        (b"I" + OID + b"N" + _row(b"7", "ü".encode()), Insert(16_385, ("7", "ü"))),
        (b"I" + OID + b"N" + _row(b"", None), Insert(16_385, ("", None))),
        (b"U" + OID + b"N" + _row(b"7", b"u"), Update(16_385, "", (), ("7", Left.UNCHANGED))),
        (b"U" + OID + b"K" + _row(b"6", None) + b"N" + _row(b"7", b"x"), Update(16_385, "K", ("6", None), ("7", "x"))),
        (b"U" + OID + b"O" + _row(b"7", b"w") + b"N" + _row(b"7", b"x"), Update(16_385, "O", ("7", "w"), ("7", "x"))),
        (b"D" + OID + b"K" + _row(b"7", None), Delete(16_385, "K", ("7", None))),
        (b"D" + OID + b"O" + _row(b"7", b"x"), Delete(16_385, "O", ("7", "x"))),
        (b"T" + struct.pack(">IBII", 2, 1, 16_385, 16_390), Truncate((16_385, 16_390))),
        (b"Y" + OID + b"public\0mood\0", None),
        (b"O" + struct.pack(">Q", 1) + b"origin\0", None),
        (b"M" + b"\x00" + struct.pack(">Q", 1) + b"prefix\0" + struct.pack(">I", 1) + b"x", None),
    ],
)
def test_a_message_is_what_the_protocol_says(payload: bytes, expected: object) -> None:
    assert parse(payload) == expected


def test_the_systems_own_schema_has_no_name_in_it() -> None:
    found = parse(RELATION.replace(b"shop", b""))
    assert isinstance(found, Relation)
    assert found.schema == "pg_catalog"


def test_bytes_that_are_no_utf_8_stay_readable() -> None:
    assert parse(b"I" + OID + b"N" + _row(b"a\xff")) == Insert(16_385, ("a\\xff",))


@pytest.mark.parametrize("payload", [b"", b"Z", b"S" + OID, b"I" + OID + b"N\x00\x01b\x00\x00\x00\x00"])
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse(payload)


@pytest.mark.parametrize("whole", [RELATION, b"U" + OID + b"K" + _row(b"6", None) + b"N" + _row(b"7", b"xyz")])
def test_what_is_cut_off_is_refused(whole: bytes) -> None:
    for length in range(1, len(whole)):
        with pytest.raises(MalformedMessage):
            parse(whole[:length])
