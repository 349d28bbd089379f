"""Codecs of record batches, and when which is used: a backlog is worth compressing, a stream that flows is not."""

import threading

import zstandard

from shared.errors import InvalidEvent

#: From so many unsettled events in a stage on what is added to it is compressed, until fewer than the second figure
#: are left. A worker that keeps up leaves fewer there, and readers can look into them; of a backlog of 200,000 clicks
#: so many as JSON cost 4 bytes an event more than none (441 bytes each, not 72).
COMPRESS_FROM_EVENTS = 2_000
COMPRESS_UNTIL_EVENTS = 1_000
#: A small body can expand to 30,000 times its size; what a producer puts into one entry stays far below.
MOST_EXPANDED_BYTES = 64 << 20
_USUAL_EXPANDED_BYTES = 1 << 20
_decompressor = zstandard.ZstdDecompressor()


class _Compressor(threading.local):
    """One for each thread, since two cannot share it; one made for each batch took half as long again."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=1).compress


_compressor = _Compressor()


class Codec:
    """Codec of the next batch: the one that was asked for, or (``auto``) by the backlog that the last one met."""

    def __init__(self, asked: str) -> None:
        self._auto = asked == "auto"
        self.name = "json" if self._auto else asked

    def note(self, in_flight: int) -> None:
        """Note how many events the stage holds."""
        if self._auto:
            limit = COMPRESS_UNTIL_EVENTS if self.name == "zstd" else COMPRESS_FROM_EVENTS
            self.name = "zstd" if in_flight >= limit else "json"


def compress(lines: bytes, codec: str) -> bytes:
    """NDJSON in a codec; compressed pieces may be joined, since zstd frames can follow one another."""
    return _compressor.compress(lines) if codec == "zstd" else lines


def decompress(body: bytes, codec: bytes) -> bytes:
    """NDJSON out of a codec. Raises InvalidEvent."""
    if codec == b"json":
        return body
    found = _of_one_frame(body)
    return _of_frames(body) if found is None else found


def _of_one_frame(body: bytes) -> bytes | None:
    """What a single frame holds that says how much it is; None if it is something else.

    Room of just that size: of a MiB each time the pages alone cost 0.5 µs an event.
    """
    try:
        if 0 < zstandard.frame_content_size(body) <= MOST_EXPANDED_BYTES:
            return _decompressor.decompress(body, allow_extra_data=False)
    except zstandard.ZstdError:
        pass  # Several frames, or none: the other way tells.
    return None


def _of_frames(body: bytes) -> bytes:
    try:
        with _decompressor.stream_reader(body, read_across_frames=True) as reader:
            # Room for the most there may be, made for each body, cost more than decompressing it.
            found = reader.read(_USUAL_EXPANDED_BYTES)
            if len(found) == _USUAL_EXPANDED_BYTES:
                found += reader.read(MOST_EXPANDED_BYTES - len(found) + 1)
    except zstandard.ZstdError as error:
        raise InvalidEvent(f"the body is no zstd: {error}", "malformed") from None
    if len(found) > MOST_EXPANDED_BYTES:
        raise InvalidEvent(f"the body expands to more than {MOST_EXPANDED_BYTES:,} bytes", "malformed")
    return found
