"""Emitting from the command line: lines of JSON, wherever they stand, to a pipeline or to a channel."""

import codecs
import sys
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import msgspec

from bargeline.carrying import require_files
from bargeline.fleet.control import urls
from bargeline.target import chosen_pipeline
from shared.errors import (
    BackpressureError,
    ConfigurationError,
    InvalidEvent,
    NotAccepted,
    Refused,
    TransientError,
    Unreachable,
)
from shared.pipeline import Pipeline, load_pipeline
from shared.producing_events import Preparer, json_object
from shared.producing_link import open_link
from shared.settings import Settings, load_settings
from shared.streams import Client
from shared.topology import Topology

_BLOCK_BYTES = 65_536
STANDARD_INPUT = "-"


class Line(NamedTuple):
    """What should be a JSON object, and where it stands."""

    place: str
    content: bytes


class Sent(msgspec.Struct, omit_defaults=True):
    """What became of a line: the event's id, or who received it from the channel, or what is wrong."""

    place: str
    id: str | None = None
    receivers: int | None = None
    error: str | None = None


#: Sends lines that were there together; what became of each is said even if the next one raises.
Send = Callable[[Sequence[Line]], Iterator[Sent]]


class Destination(NamedTuple):
    """A pipeline and a Redis that answers. No database is needed to emit."""

    settings: Settings
    pipeline: Pipeline
    client: Client


def find_destination(pipeline: str | None) -> Destination:
    """By option or environment, else those of the fleet in BARGELINE_VAR. Raises Unreachable, ConfigurationError."""
    settings = load_settings()
    found = load_pipeline(pipeline or chosen_pipeline(settings))
    own = settings.redis_url or settings.redis_host
    url = settings.require_redis_url() if own else urls(settings)["REDIS_URL"]
    client = Client(url, Topology(found.name), "bargeline-command")
    try:
        client.call("PING")
    except TransientError as error:
        raise Unreachable(f"{error} Is the fleet up? `bargeline up` starts it, `bargeline status` shows it.") from error
    return Destination(settings, found, client)


def lines_of(given: Sequence[str], most_bytes: int) -> Iterator[list[Line]]:
    """The lines of arguments, ``@files`` and ``-``, those together that are there at the same time.

    Raises ConfigurationError for a file that cannot be read, before anything is, and for an endless line.
    """
    require_files([Path(one[1:]) for one in given if one.startswith("@")])
    return _all_lines(given, most_bytes)


def _all_lines(given: Sequence[str], most_bytes: int) -> Iterator[list[Line]]:
    for number, one in enumerate(given, 1):
        if one == STANDARD_INPUT:
            yield from _read_lines("standard input", sys.stdin.buffer, most_bytes)  # type: ignore[arg-type]
        elif one.startswith("@"):
            with Path(one[1:]).open("rb") as file:
                yield from _read_lines(one[1:], file, most_bytes)
        else:
            yield [Line(f"argument {number}", one.encode(errors="surrogateescape"))]


def _read_lines(name: str, stream: BufferedReader, most_bytes: int) -> Iterator[list[Line]]:
    rest, before = b"", 0
    while block := stream.read1(_BLOCK_BYTES):
        *parts, rest = (rest + block).split(b"\n")
        if len(rest) > most_bytes:
            place = f"{name}:{before + len(parts) + 1}"
            raise ConfigurationError(f"{place}: longer than {most_bytes:,} bytes (INGEST_MAX_EVENT_BYTES).")
        yield _numbered(name, before, parts)
        before += len(parts)
    yield _numbered(name, before, [rest])


def _numbered(name: str, before: int, parts: Sequence[bytes]) -> list[Line]:
    """The lines that are not blank."""
    found = [Line(f"{name}:{number}", part.strip()) for number, part in enumerate(parts, before + 1)]
    if found and before == 0:
        found[0] = Line(found[0].place, found[0].content.removeprefix(codecs.BOM_UTF8))
    return [line for line in found if line.content]


def emitter(to: Destination, event_type: str | None, key: str | None, timeout_seconds: float) -> Send:
    """Emits lines; waits while the pipeline is full, then raises Refused, or Unreachable while Redis is away."""
    link = open_link(to.settings, to.client.url, to.pipeline, wait=True, timeout_seconds=timeout_seconds)
    preparer = Preparer(to.pipeline, "producer", to.settings.ingest_max_event_bytes)

    def send(lines: Sequence[Line]) -> Iterator[Sent]:
        sent, bodies = [], []
        for line in lines:
            try:
                made = preparer.one(msgspec.Raw(line.content), type=event_type, key=key)
            except InvalidEvent as error:
                yield Sent(line.place, error=str(error))
                continue
            sent.append(Sent(line.place, made.id))
            bodies.append(made.line)
        try:
            link.send(bodies, link.deadline())
        except NotAccepted as error:
            yield from sent[: error.accepted]
            kind = Refused if isinstance(error, BackpressureError) else Unreachable
            raise kind(f"{sent[error.accepted].place}: {error}") from error
        yield from sent

    return send


def publisher(client: Client, channel: str) -> Send:
    """Publishes lines on a channel, as they are."""

    def send(lines: Sequence[Line]) -> Iterator[Sent]:
        for line in lines:
            try:
                json_object(line.content)
            except InvalidEvent as error:
                yield Sent(line.place, error=str(error))
                continue
            yield Sent(line.place, receivers=client.call("PUBLISH", channel, line.content))

    return send
