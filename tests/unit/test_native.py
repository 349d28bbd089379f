"""The loader's C part: what it takes of an entry is what Python makes of it, cell by cell, whatever bytes come."""

import json
import random
import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from uuid import UUID

import pytest

from shared.attributes import Attributes
from shared.entries import Entry
from shared.pipeline import PipelineFile
from tests.damage import damaged
from workers.loader import native
from workers.loader.rows import Prepared, Router

pytestmark = pytest.mark.skipif(not native.AVAILABLE, reason="there was no C compiler")
COLUMNS = {
    "id": ("$id", "uuid"),
    "at": ("$time", "timestamp with time zone"),
    "kind": ("$type", "text"),
    "place": ("$source", "text"),
    "key": ("$key", "text"),
    "words": ("words", "text"),
    "small": ("small", "smallint"),
    "whole": ("whole", "integer"),
    "large": ("large", "bigint"),
    "real": ("real", "double precision"),
    "exact": ("exact", "numeric"),
    "seen": ("seen", "timestamp with time zone"),
    "local": ("seen", "timestamp without time zone"),
    "yes": ("yes", "boolean"),
    "other": ("other", "uuid"),
    "under": ("deep.down.under", "text"),
    "down": ("deep.down", "jsonb"),
    "slashed": ("/deep/a~1b", "bigint"),
    "part": ("part", "jsonb"),
    "payload": ("$data", "jsonb"),
}
FILE = PipelineFile.model_validate(
    {
        "pipeline": {"name": "p"},
        "table": [
            {
                "name": "t",
                "event_types": ["click"],
                "columns": {name: source for name, (source, _) in COLUMNS.items()},
            }
        ],
        "rollup": [
            {"table": "r", "window": "1m", "by": ["words"], "aggregates": {"s": "sum(real)", "n": "count"}},
            {"table": "none", "window": "1m", "aggregates": {"n": "count"}, "event_types": ["view"]},
        ],
    }
)
TYPES = {"t": {name: kind for name, (_, kind) in COLUMNS.items()}}
EVENT = (
    '{"id":"00000000-0000-8000-8000-0000000000%02d","type":"click","source":"s","time":"2026-11-21T10:00:00.25Z",'
    '"data":{"words":"é\\"\\n\\u00e9","small":-3,"whole":4,"large":-123456789012,"real":1.5,"exact":-12345.0670,"seen":"2026-11-21T10:00:00+02:00","yes":true,'
    '"other":"0A000000-0000-8000-8000-000000000000","deep":{"down":{"x":1,"under":"d"},"a/b":3,"c":{}},"part":[1,{"a":null}],"more":{"words":"no"}},"key":"k"}\n'
)


def _router() -> Router:
    return Router(FILE, TYPES, "{p}:clean", Attributes(FILE.ingest, "p"))


def _entry(body: bytes, count: int) -> Entry:
    return Entry("7-1", {b"v": b"1", b"n": b"%d" % count, b"c": b"json", b"d": body})


def _native(router: Router, body: bytes, count: int = 1) -> Prepared | None:
    """What C makes of an entry, if it takes it."""
    prepared = router.prepare(_entry(body, count), binary=True)
    return prepared if any(rows.binary for rows in prepared.rows.values()) else None


def _cells(rows: bytes) -> Iterator[list[bytes | None]]:
    at = 0
    while at < len(rows):
        (columns,) = struct.unpack_from(">h", rows, at)
        at += 2
        row: list[bytes | None] = []
        for _ in range(columns):
            (length,) = struct.unpack_from(">i", rows, at)
            at += 4
            row.append(None if length < 0 else rows[at : at + length])
            at += max(length, 0)
        yield row


def _decimal(cell: bytes) -> str:
    count, weight, sign, places = struct.unpack_from(">hhHh", cell)
    groups = struct.unpack_from(f">{count}h", cell, 8)
    assert len(cell) == 8 + 2 * count
    assert not groups or (groups[0] and groups[-1])
    assert all(0 <= group < 10_000 for group in groups)
    assert sign in (0, 0x4000)
    with localcontext(prec=200):
        value = sum((Decimal(group).scaleb(4 * (weight - place)) for place, group in enumerate(groups)), Decimal(0))
        return str(value.quantize(Decimal(1).scaleb(-places)) * (-1 if sign else 1))


def _as_text(kind: str, cell: bytes | None) -> object:
    """A cell of the binary format as a value that can be compared."""
    if cell is None:
        return None
    match kind:
        case "uuid":
            return str(UUID(bytes=cell))
        case "timestamp with time zone" | "timestamp without time zone":
            return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=int.from_bytes(cell, "big", signed=True))
        case "smallint" | "integer" | "bigint":
            assert len(cell) == {"smallint": 2, "integer": 4, "bigint": 8}[kind]
            return int.from_bytes(cell, "big", signed=True)
        case "double precision":
            return struct.unpack(">d", cell)[0]
        case "numeric":
            return _decimal(cell)
        case "boolean":
            return {b"\0": "false", b"\1": "true"}[cell]
        case "jsonb":
            assert cell[:1] == b"\x01"
            return json.loads(cell[1:], parse_float=Decimal)
    return cell.decode()


def _of_text(kind: str, cell: str) -> object:
    """The same of a cell of the text format."""
    if cell == "\\N":
        return None
    cell = re.sub(r"\\(.)", lambda found: {"t": "\t", "n": "\n", "r": "\r"}.get(found[1], found[1]), cell)
    match kind:
        case "uuid":
            return str(UUID(cell))
        case "timestamp with time zone" | "timestamp without time zone":
            return datetime.fromisoformat(cell)
        case "smallint" | "integer" | "bigint":
            return int(cell)
        case "double precision":
            return float(cell)
        case "numeric":
            return str(Decimal(cell).copy_abs() if Decimal(cell) == 0 else Decimal(cell))
        case "jsonb":
            return json.loads(cell, parse_float=Decimal)
    return cell


def _compare(router: Router, made: Prepared, body: bytes, count: int) -> None:
    usual = router.prepare(_entry(body, count))
    assert not usual.dead, usual.dead
    (rows,), (same,) = made.rows.values(), usual.rows.values()
    assert rows.counts == same.counts
    assert len(rows) == len(same) == count
    kinds = [kind for _, kind in COLUMNS.values()]
    found = [list(map(_as_text, kinds, row)) for row in _cells(rows.binary)]
    lines = [row.line.decode().removesuffix("\n").split("\t") for row in same]
    assert found == [list(map(_of_text, kinds, line)) for line in lines]


def test_what_is_usual_is_the_same_in_each_cell() -> None:
    router = _router()
    body = "".join(EVENT % number for number in range(50)).encode()
    made = _native(router, body, 50)
    assert made is not None
    _compare(router, made, body, 50)
    assert router.binary == {"t"}


#: What stands in the place of a value: some of it fits, some is for Python, some is nothing.
VALUES = [
    *("null", "true", "false", "0", "-0", "7", "-32768", "32768", "2147483648", "1e3", "1.0", "0.0", "-0.0", "1.5e-7"),
    *(
        "9223372036854775807",
        "9223372036854775808",
        "1e400",
        "1e-400",
        "123456789012345678901234567890",
        "01",
        "+1",
        "1.",
    ),
    *(
        "12345678.00010000",
        "-0.00000001",
        "10000",
        "0.00",
        "99990000.5",
        '"12.50"',
        '"-7"',
        '"007.10"',
        '"1e3"',
        '"+1"',
    ),
    *('"2026-11-21T10:00:00"', '"2026-11-21"', '"now"', "1700000000", "1700000000123", "1.5", '"infinity"', '"12.5x"'),
    *('""', '"x"', '"\\u00e9"', '"\\u0000"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\x"', '"\t"', '"a\\tb\\\\N"', '"\\/"'),
    *('"0a000000-0000-8000-8000-000000000000"', '"0a0000000000-8000-8000-000000000000-"', '"{0a000000}"', "[]", "{}"),
    *('{"a":{"b":[1,2,{"c":"d"}]}}', '{"a":1,"a":2}', '{"a"}', "[1,]", "[" * 70 + "]" * 70, "nul", "truex", "", "é"),
]


def test_any_value_in_any_place_is_taken_rightly_or_left() -> None:
    router, taken = _router(), 0
    for place in (
        "words",
        "small",
        "whole",
        "large",
        "real",
        "exact",
        "seen",
        "yes",
        "other",
        "part",
        "more",
        "deep",
        "down",
    ):
        for value in VALUES:
            begin = EVENT.index(f'"{place}":') + len(place) + 3
            end = EVENT.index(',"', begin)
            end = EVENT.index('},"key"') if place == "more" else end
            end = EVENT.index(',"more"') if place == "part" else end
            end = EVENT.index(',"part"') if place == "deep" else end
            end = EVENT.index(',"a/b"') if place == "down" else end
            body = ((EVENT[:begin] + value + EVENT[end:]) % 1).encode()
            made = _native(router, body)
            taken += made is not None
            if made is not None:
                _compare(router, made, body, 1)
    assert taken > 80


def test_damaged_bytes_are_left_or_taken_as_python_does() -> None:
    router, seeded, taken = _router(), random.Random(2026), 0
    good = "".join(EVENT % number for number in range(3)).encode()
    for _ in range(20_000):
        body = damaged(good, seeded)
        made = _native(router, body, 3)
        taken += made is not None
        if made is not None:
            _compare(router, made, body, 3)
    assert taken > 1_000


def test_every_prefix_of_an_entry_is_left() -> None:
    router = _router()
    body = (EVENT % 1).encode()
    assert _native(router, body) is not None
    assert _native(router, body.removesuffix(b"\n")) is not None
    for end in range(len(body) - 1):
        assert _native(router, body[:end]) is None


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (EVENT % 1 + EVENT % 2, 1),
        (EVENT % 1, 2),
        (EVENT % 1 + "\n", 1),
        (EVENT % 1 + "\n" + EVENT % 2, 2),
        (EVENT.replace("click", "view") % 1 + EVENT % 2, 2),
        (EVENT % 1 + EVENT.replace("click", "view") % 2, 2),
        (EVENT.replace('"type":"click",', "") % 1, 1),
        (EVENT.replace('"words"', '"words":"a","words"') % 1, 1),
        (EVENT.replace('"words"', '"w\\u006frds"') % 1, 1),
        (EVENT.replace('"down":{', '"down":{"under":1},"down":{') % 1, 1),
        (EVENT.replace('"part"', '"deep.down.under":"literal","part"') % 1, 1),
        (EVENT.replace("2026-11-21T", "2026-13-21T") % 1, 1),
        (EVENT.replace('"key":"k"', '"key":1') % 1, 1),
        ("[1]\n", 1),
        ("", 1),
    ],
)
def test_what_is_not_an_event_to_a_line_of_one_type_is_left(body: str, count: int) -> None:
    assert _native(_router(), body.encode(), count) is None


def test_white_space_stands_where_json_lets_it() -> None:
    router = _router()
    head, _, data = (EVENT % 1).partition('"data":')
    spaced = data.replace('":', '" \t:\r ').replace(',"', ' ,\t"').replace("{", "{ ").replace("}", "\r}")
    body = f'{head}"data": {spaced}'.encode()
    made = _native(router, body)
    assert made is not None
    _compare(router, made, body, 1)


def test_events_of_other_columns_and_paths_are_for_python() -> None:
    for column, source, kind in (
        ("n", "n", "real"),
        ("n", "$time", "text"),
        ("n", "$time", "date"),
        ("n", "$id", "jsonb"),
        ("n", "$data", "text"),
        ("n", "$time", "timestamp without time zone"),
        ("n", "a", "json"),
    ):
        file = {"pipeline": {"name": "p"}, "table": [{"name": "t", "event_types": ["e"], "mode": "append"}]}
        file["table"][0]["columns"] = {column: source}  # type: ignore[index]
        made = PipelineFile.model_validate(file)
        router = Router(made, {"t": {column: kind}}, "{p}:clean", Attributes(made.ingest, "p"))
        assert router.binary == frozenset(), (source, kind)


def test_a_table_of_every_type_takes_several_and_others_do_not() -> None:
    body = (EVENT % 1 + EVENT.replace("click", "view") % 2).encode()
    every = FILE.model_copy(update={"table": (FILE.table[0].model_copy(update={"event_types": ("*",)}),), "rollup": ()})
    router = Router(every, TYPES, "{p}:clean", Attributes(every.ingest, "p"))
    made = _native(router, body, 2)
    assert made is not None
    _compare(router, made, body, 2)
    of_two = every.model_copy(update={"table": (*every.table, FILE.table[0].model_copy(update={"name": "u"}))})
    router = Router(of_two, TYPES | {"u": TYPES["t"]}, "{p}:clean", Attributes(of_two.ingest, "p"))
    assert router.binary == {"u"}
    assert _native(router, body, 2) is None
    assert len(router.prepare(_entry(body, 2), binary=True).rows["t"]) == 1


def _payload(data: str) -> bytes:
    """The cell of jsonb that C makes of an event's data."""
    begin, end = EVENT.index('"data":') + len('"data":'), EVENT.index(',"key"')
    made = _native(_router(), (EVENT[:begin] % 1 + data + EVENT[end:]).encode())
    assert made is not None
    (row,) = _cells(made.rows["t"].binary)
    cell = row[list(COLUMNS).index("payload")]
    assert cell is not None
    return cell


def test_members_of_jsonb_stand_in_its_order_and_the_last_of_a_name_counts() -> None:
    data = (
        '{"bb":1,"more":{"zz":[{"d":1,"c":2}],"y": {"c":3,"b":4}},"a":5,"bb":6,"words":"w","odd":{"c":7,"\\u0062":8}}'
    )
    payload = _payload(data)
    assert payload.decode() == (
        '\x01{"a":5,"bb":1,"bb":6,"odd":{"c":7,"\\u0062":8},'
        '"more":{"y": {"b":4,"c":3},"zz":[{"d":1,"c":2}]},"words":"w"}'
    )


def test_an_object_of_very_many_members_stays_as_it_came() -> None:
    many = {f"n{number:03}": number for number in range(100, 0, -1)}
    data = json.dumps({"words": "w", "more": many, "part": dict(list(many.items())[:64])}, separators=(",", ":"))
    payload = _payload(data)
    kept = json.loads(payload[1:])
    assert list(kept["more"]) == list(many)
    assert list(kept["part"]) == sorted(list(many)[:64])
