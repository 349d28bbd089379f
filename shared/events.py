"""Events and their identities.

An event carries the core attributes of CloudEvents. Its id says where it came from, so that reading
the same source twice gives the same ids; ids rise with the position in the source, because a b-tree
fed with random keys costs PostgreSQL much more (COPY into 5 M rows: 12.1 µs a row random, 3.7 rising).
"""

import hashlib
import re
import secrets
import time as clock
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
from xxhash import xxh3_64_intdigest

from shared.errors import InvalidEvent

T = TypeVar("T")
_HASH_BITS = 42
_POSITION_BITS = 48
#: Of the position, so many stand in the second half of an id, before the content's.
_LOW_BITS = 62 - _HASH_BITS
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


class Event(msgspec.Struct, Generic[T], omit_defaults=True):
    """One event; ``data`` is a dict, or an instance of the pipeline's model.

    ``id`` is a UUID as text, ``time`` is aware and in UTC, ``key`` spreads events over partitions.
    """

    id: str
    type: str
    source: str
    time: datetime
    data: T
    key: str | None = None


#: An event whose data stays the bytes of its JSON object.
RawEvent = Event[msgspec.Raw]
AnyEvent = Event[Any]

decode_raw_lines = msgspec.json.Decoder(RawEvent).decode_lines
decode_raw = msgspec.json.Decoder(RawEvent).decode
decode_any = msgspec.json.Decoder(Event[dict[str, Any]]).decode
encode = msgspec.json.Encoder(decimal_format="number").encode
encode_lines = msgspec.json.Encoder(decimal_format="number").encode_lines


def now() -> datetime:
    """The present in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Text of a time in UTC, with microseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def uuid8(high: int, low: int) -> str:
    """UUIDv8 (RFC 9562) of 60 and 62 free bits, as text."""
    value = (high >> 12) << 80 | 0x8 << 76 | (high & 0xFFF) << 64 | 0b10 << 62 | low
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class SourceIds:
    """Ids of one source with positions: [source, 32 bits][position, 48 bits][content, 42 bits].

    The content's hash (XXH3) is seeded by the source's full name, so that two sources whose short hashes
    collide still need equal 42 bits to collide, at the same position.
    """

    def __init__(self, source: str) -> None:
        digest = hashlib.blake2b(source.encode(), digest_size=32).digest()
        self._seed = int.from_bytes(digest[4:12], "big")
        #: What ids begin with: 32 bits.
        self.source = int.from_bytes(digest[:4], "big")
        #: The high bits of the last position, and what ids with them begin with.
        self._block, self._head = -1, b""

    def id(self, position: int, content: bytes) -> str:
        """Id of the event with this content (bytes as they came) at this position (0 … 2⁴⁸−1)."""
        return self.ids((position,), (content,))[0].decode()

    def hashes(self, contents: Iterable[bytes]) -> list[int]:
        """Hashes of contents, 64 bits each; ids take the highest 42 of them."""
        return list(map(xxh3_64_intdigest, contents, repeat(self._seed)))

    def ids(self, positions: Iterable[int], contents: Iterable[bytes]) -> list[bytes]:
        """Ids, as ASCII, of many events."""
        # 0.7 µs an id; with keyed blake2b it was 1.6. What positions within a MiB share is made once.
        found = []
        block, head = self._block, self._head
        for position, digest in zip(positions, self.hashes(contents), strict=True):
            if position >> _LOW_BITS != block:
                block = self._block = position >> _LOW_BITS
                head = self._head = uuid8(self.source << _POSITION_BITS - _LOW_BITS | block, 0)[:19].encode()
            low = (position & 63) << _HASH_BITS | digest >> 64 - _HASH_BITS
            found.append(b"%b%04x-%012x" % (head, 0x8000 | position >> 6 & 0x3FFF, low))
        return found


def uuid7() -> str:
    """UUIDv7 (RFC 9562) of this moment, as text: for sources without positions."""
    bits = secrets.randbits(74)  # at once: asking the system takes longer than all the rest
    value = clock.time_ns() // 1_000_000 << 80 | 0x7 << 76 | bits >> 62 << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    return str(UUID(int=value))


def id_from_value(namespace: str, value: object) -> str:
    """Id of an event whose source names it: a UUID stays itself, anything else is hashed."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    try:
        return str(UUID(text))
    except ValueError:
        digest = hashlib.blake2b(f"{namespace}\0{text}".encode(), digest_size=16).digest()
        return uuid8(int.from_bytes(digest[:8], "big") >> 4, int.from_bytes(digest[8:], "big") >> 2)


def foreign_id(stream: str, entry_id: str, content: bytes) -> str:
    """Id of a foreign entry: entry time in front, so that ids rise; then stream key, id and content.

    Two partitions shared 19,978 of 20,000 entry ids in a flood, hence the stream's key.
    """
    milliseconds, _, sequence = entry_id.partition("-")
    digest = hashlib.blake2b(f"{stream}\0{entry_id}\0".encode() + content, digest_size=8).digest()
    return uuid8(int(milliseconds) << 12 | int(sequence) & 0xFFF, int.from_bytes(digest, "big") >> 2)


def derived_id(parent: str, index: int) -> str:
    """Id of the ``index``-th event that one event fanned out to: beside its parent in the key order."""
    content = hashlib.blake2b(f"{parent}\0{index}".encode(), digest_size=6).digest()
    value = UUID(parent).int >> _HASH_BITS << _HASH_BITS | int.from_bytes(content, "big") >> 6
    return str(UUID(int=value))


def parse_time(value: object) -> datetime:
    """Time of an event: ISO 8601 text (without a zone it is UTC), or seconds or milliseconds since 1970.

    Raises InvalidEvent for anything else, for years that PostgreSQL cannot hold, and for infinities.
    """
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            # Seconds reach 1e11 in the year 5138; milliseconds passed it in 1973.
            moment = datetime.fromtimestamp(value / 1000 if abs(value) >= 1e11 else value, UTC)
        else:
            raise TypeError("neither text nor a number")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise InvalidEvent(f"{value!r} is no time: {error}", "bad_time") from None


def in_utc(value: object) -> datetime:
    """A time as it is in UTC (one without a zone is in UTC already), or what ``parse_time`` makes of anything else.

    Raises InvalidEvent, and OverflowError for a time that has none there.
    """
    if not isinstance(value, datetime):
        return parse_time(value)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


def find(data: Any, path: str) -> Any:
    """Value at a path into an object, or None.

    Either keys joined by dots, ``device.os.name`` (a key of the object itself that is spelt so comes first), or a
    JSON Pointer (RFC 6901), which reaches every key and the items of arrays: ``/a.b/items/0``.
    """
    if path.startswith("/"):
        return walk(data, pointer(path), in_arrays=True)
    if isinstance(data, dict) and path in data:
        return data[path]
    return walk(data, path.split("."))


def walk(data: Any, keys: Iterable[str], *, in_arrays: bool = False) -> Any:
    """Value behind keys, one below the other, or None; ``in_arrays``: a number finds an item of an array."""
    for key in keys:
        if isinstance(data, dict):
            data = data.get(key)
        elif in_arrays and isinstance(data, list) and _INDEX.fullmatch(key) and int(key) < len(data):
            data = data[int(key)]
        else:
            return None
    return data


@lru_cache(maxsize=1024)
def pointer(path: str) -> tuple[str, ...]:
    """Keys of a JSON Pointer."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/"))


def source_of(line: bytes) -> str | None:
    """Source of the event in a line, or None where it is none."""
    try:
        return decode_raw(line).source
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
