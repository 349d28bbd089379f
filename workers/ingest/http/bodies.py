"""Bodies of requests into JSON objects, by their encoding and media type: pure."""

import zlib
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any, NamedTuple, Protocol

import msgspec
import zstandard

from shared.errors import InvalidEvent
from workers.ingest.http.problems import Problem

#: Objects and arrays within one another; a parser that recurses meets its end somewhere above.
MOST_DEPTH = 64
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
#: RFC 9659: no more has to be kept for a body that comes as zstd.
_ZSTD_WINDOW_BYTES = 8 << 20

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Decompressor(Protocol):
    """What zlib and zstandard have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of the compressed data was seen."""

    @property
    def unused_data(self) -> bytes:
        """What came behind it."""

    def decompress(self, data: bytes, /) -> bytes:
        """What this piece gives."""


def _zstd() -> Decompressor:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()


#: Content codings, and how many compressed bytes are taken at once: so few that no piece becomes more than 16 MiB
#: (a block of zstd is 4 bytes at least and 128 KiB at most; deflate makes 1,032 of one).
_CODINGS: dict[str, tuple[Callable[[], Decompressor], int]] = {
    "gzip": (lambda: zlib.decompressobj(31), 16_384),
    "zstd": (_zstd, 512),
}
_CODINGS["x-gzip"] = _CODINGS["gzip"]
ACCEPTED_CODINGS = "gzip, zstd"


class Item(NamedTuple):
    """A JSON object of a body: its bytes, without a line's end in them, and what they say."""

    content: bytes
    data: dict[str, Any]


def media_type(header: str | None) -> str:
    """The media type that a Content-Type names, ``application/json`` where there is none.

    Raises Problem for a charset that JSON never has.
    """
    if header is None:
        return "application/json"
    # As good as all that come.
    if header == "application/json":
        return header
    message = Message()
    message["Content-Type"] = header
    charset = message.get_content_charset("utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(415, f"the charset is {charset}; JSON is utf-8")
    # get_content_type() takes what is no type at all for text/plain.
    return header.partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    """Whether a media type stands for JSON."""
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))


def expand(body: bytes, coding: str, most_bytes: int) -> bytes:
    """A body without its content coding. Raises Problem, also where it becomes more than ``most_bytes``."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _CODINGS:
        raise Problem(
            415, f"no Content-Encoding {coding!r}: send {ACCEPTED_CODINGS}", ("Accept-Encoding", ACCEPTED_CODINGS)
        )
    try:
        return b"".join(_expanded(body, coding, most_bytes))
    except (zlib.error, zstandard.ZstdError) as error:
        raise Problem(400, f"the body is no {coding}: {error}") from None


def _expanded(body: bytes, coding: str, most_bytes: int) -> Iterator[bytes]:
    make, step = _CODINGS[coding]
    decompressor, size = make(), 0
    for begin in range(0, len(body), step):
        rest = body[begin : begin + step]
        while rest:
            if decompressor.eof:  # members, or frames, may follow one another
                decompressor = make()
            piece = decompressor.decompress(rest)
            rest = decompressor.unused_data if decompressor.eof else b""
            size += len(piece)
            if size > most_bytes:
                raise too_large(most_bytes)
            yield piece
    if not decompressor.eof:
        raise Problem(400, f"the body ends in the middle of its {coding}")


def too_large(most_bytes: int) -> Problem:
    """What is said of a body that is larger than allowed."""
    # The connection stays: closed while the sender still sends, it would be reset, and the answer lost. uvicorn throws
    # away what comes, for as long as a request may take.
    return Problem(413, f"the body is larger than {most_bytes:,} bytes")


def parts(body: bytes, media: str) -> list[bytes]:
    """The bytes of each event in a body of JSON or NDJSON, not looked into yet. Raises Problem."""
    if media in NDJSON:
        return [line for line in map(bytes.strip, body.split(b"\n")) if line]
    if not is_json(media):
        accepted = ", ".join(("application/json", NDJSON[0], "application/cloudevents+json"))
        raise Problem(415, f"no Content-Type {media!r}: send {accepted}", ("Accept-Post", accepted))
    beginning = body.lstrip()[:1]
    if not beginning:
        raise Problem(400, "the body is empty")
    if beginning != b"[":
        return [one_line(body)]
    return [one_line(bytes(part)) for part in items(body)]


def items(body: bytes) -> list[msgspec.Raw]:
    """The items of a JSON array. Raises Problem."""
    try:
        return _decode_items(body)
    except RecursionError:
        raise Problem(422, f"the body is nested deeper than {MOST_DEPTH} levels") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Problem(400, f"the body is no JSON array: {error}") from None


def one_line(content: bytes) -> bytes:
    """JSON on one line; within its text there is no raw line's end."""
    return content.replace(b"\n", b" ").strip()


def parse(content: bytes) -> Item:
    """Look into the bytes of an event. Raises InvalidEvent: ``not_json`` where they are no JSON, else ``schema``."""
    try:
        data = _decode_object(content)
    except RecursionError:
        raise _too_deep() from None
    except msgspec.ValidationError as error:
        raise InvalidEvent(f"no JSON object: {error}", "schema") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidEvent(f"no JSON: {error}", "not_json") from None
    # What has few brackets is not deep.
    if content.count(b"{") + content.count(b"[") > MOST_DEPTH and _depth(data) > MOST_DEPTH:
        raise _too_deep()
    return Item(content, data)


def _too_deep() -> InvalidEvent:
    return InvalidEvent(f"nested deeper than {MOST_DEPTH} levels", "schema")


def _depth(data: dict[str, Any]) -> int:
    depth = 0
    level: list[Any] = [data]
    while level and depth <= MOST_DEPTH:
        depth += 1
        found = [one.values() if isinstance(one, dict) else one for one in level]
        level = [child for children in found for child in children if isinstance(child, dict | list)]
    return depth
