"""Clean events as the loader reads them: no more is decoded than it needs."""

from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from shared.errors import InvalidEvent

#: What decoding broken JSON raises.
DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class CleanEvent(msgspec.Struct, gc=False):
    """An event whose data stays the bytes of its JSON object, and whose time stays its text."""

    id: str
    type: str
    source: str
    time: str
    data: msgspec.Raw
    key: str | None = None


_decoder = msgspec.json.Decoder(CleanEvent)


@lru_cache(maxsize=4096)
def moment(text: str) -> datetime:
    """The time of an event; without a zone it is UTC. Raises msgspec's errors.

    Events that were read together share their time, and many are taken in the same second.
    """
    parsed = msgspec.convert(text, datetime)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def decode(body: bytes) -> list[CleanEvent]:
    """Events of NDJSON, with times that are times. Raises DECODE_ERRORS."""
    # Skipping a value does not look at its encoding.
    str(body, "utf-8")
    decoded = _decoder.decode_lines(body)
    for text in {event.time for event in decoded}:
        moment(text)
    return decoded


def decode_each(lines: list[bytes]) -> list[CleanEvent | InvalidEvent]:
    """The same line by line: what cannot be decoded is an InvalidEvent."""
    found: list[CleanEvent | InvalidEvent] = []
    for line in lines:
        try:
            str(line, "utf-8")
            event = _decoder.decode(line)
            moment(event.time)
            found.append(event)
        except DECODE_ERRORS as error:
            found.append(InvalidEvent(f"no event: {error}", "malformed"))
    return found
