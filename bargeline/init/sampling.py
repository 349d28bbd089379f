"""The first lines of a file of events, as ingest would understand them."""

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import zstandard

from shared.errors import ConfigurationError
from shared.text import without_nul

#: More is not looked at unless it is asked for.
MOST_LINES = 100_000
MOST_BYTES = 64 << 20
#: So many lines of it are kept.
KEPT_LINES = 100
_KEPT_BYTES = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DAMAGED = (OSError, EOFError, zlib.error, zstandard.ZstdError)
#: A worker has more calls on its stack, and an event lies within others: what is nested to the limit fails there.
_MANY_BRACKETS = 500
_DEEPER = b'{"a":' * 150 + b"%s" + b"}" * 150
_decode = msgspec.json.Decoder(dict[str, Any]).decode


#: Is given each event: the number of its line, and what it says.
See = Callable[[int, dict[str, Any]], None]


@dataclass
class Sample:
    """What was looked at: the number of events, the first ones as they stand in the file, lines that are none."""

    name: str
    events: int = 0
    first: list[bytes] = field(default_factory=list)
    #: Number and reason.
    bad: list[tuple[int, str]] = field(default_factory=list)
    bytes: int = 0
    #: Whether the file has no more.
    is_all: bool = True
    #: Lines with a U+0000, which is replaced in ``data``: PostgreSQL cannot hold it.
    with_nul: int = 0
    #: It begins like a JSON array.
    is_array: bool = False
    #: Its first line is the beginning of an object.
    begins_object: bool = False


def read_sample(path: str, most_lines: int, most_event_bytes: int, see: See) -> Sample:
    """Read the events of a file (plain, gzip or zstd), or of standard input for ``-``; 0 lines means all.

    Raises ConfigurationError that says what is wrong with a file that holds no event at all.
    """
    sample = Sample(path)
    with _opened(path) as file:
        start = _refused(path, file)
        content = _decompressed(file, start)
        for number, line in enumerate(_lines(path, content, most_event_bytes + len(b"\r\n")), 1):
            if most_lines and (number > most_lines or sample.bytes > MOST_BYTES):
                sample.is_all = False
                break
            sample.bytes += len(line)
            _take(sample, number, line, most_event_bytes, see)
    if not sample.events or sample.is_array:
        raise ConfigurationError(_nothing_in(sample, path))
    return sample


def _take(sample: Sample, number: int, line: bytes, most_event_bytes: int, see: See) -> None:
    content = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
    if not content:
        return
    try:
        if len(content) > most_event_bytes:
            raise ValueError(f"longer than {most_event_bytes:,} bytes (INGEST_MAX_EVENT_BYTES)")
        data = _decode(content)
        if content.count(b"[") + content.count(b"{") > _MANY_BRACKETS:
            _decode(_DEEPER % content)
        if b"\\u0000" in content and (clean := without_nul(data)) != data:
            data = clean
            sample.with_nul += 1
    except RecursionError:
        sample.bad.append((number, "nested too deeply"))
    except (msgspec.MsgspecError, ValueError) as error:
        sample.bad.append((number, str(error)))
        if not sample.events and len(sample.bad) == 1:
            sample.is_array = content[:1] == b"["
            sample.begins_object = content[:1] == b"{"
    else:
        sample.events += 1
        if len(sample.first) < KEPT_LINES and sum(map(len, sample.first)) + len(content) <= _KEPT_BYTES:
            sample.first.append(content)
        see(number, data)


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(path).open("rb") as file:
            yield file
    except IsADirectoryError:
        raise ConfigurationError(f"--sample {path}: is a folder; name a file.") from None
    except OSError as error:
        raise ConfigurationError(f"--sample {path}: cannot be read ({error.strerror}).") from None


def _refused(path: str, file: IO[bytes]) -> bytes:
    """The first bytes; raises ConfigurationError where they are no text and no compressed text."""
    start = file.read(4096)
    if not start:
        raise ConfigurationError(f"--sample {path}: is empty. It has to hold events, one JSON object a line.")
    if start.startswith(_UTF16):
        raise ConfigurationError(
            f"--sample {path}: is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 {path} > events.ndjson"
        )
    if b"\0" in start and not start.startswith((_GZIP, _ZSTD)):
        raise ConfigurationError(f"--sample {path}: is binary, neither text nor gzip nor zstd.")
    return start


def _decompressed(file: IO[bytes], start: bytes) -> io.BufferedIOBase:
    whole = io.BufferedReader(_Joined(start, file))
    if start.startswith(_GZIP):
        return gzip.GzipFile(fileobj=whole)
    if start.startswith(_ZSTD):
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(whole, read_across_frames=True))
    return whole


class _Joined(io.RawIOBase):
    """What was read of a stream already, then the rest of it: standard input cannot be sought."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        self._start = start
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block, self._start = self._start[: len(buffer)], self._start[len(buffer) :]
        block = block or self._rest.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def _lines(path: str, content: io.BufferedIOBase, most: int) -> Iterator[bytes]:
    """Lines; of one that is longer than ``most`` only the beginning, since it may be all there is."""
    try:
        while line := content.readline(most):
            yield line
            while len(line) == most and not line.endswith(b"\n"):
                line = content.readline(most)
    except _DAMAGED as error:
        raise ConfigurationError(f"--sample {path}: is damaged ({error}).") from None


def _nothing_in(sample: Sample, path: str) -> str:
    file = "events.json" if path == "-" else path
    if sample.is_array:
        return f"--sample {path}: is a JSON array. Write one object a line: jq -c '.[]' {file} > events.ndjson"
    if not sample.bad:
        return f"--sample {path}: holds only empty lines. It has to hold events, one JSON object a line."
    number, reason = sample.bad[0]
    what = f"--sample {path}: no line of it is a JSON object; line {number}: {reason}."
    if sample.begins_object:
        return f"{what} Objects may not reach over lines. Write one a line: jq -c . {file} > events.ndjson"
    return f"{what} Events are written as NDJSON: one JSON object a line."
