"""The command that prints a stream."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bargeline.target import Target

_PAGE = 100
_FOLLOW_SECONDS = 0.2


@click.command()
@click.argument("stream", type=click.Choice(["raw", "clean", "dead", "retry"]))
@click.option(
    "--from", "start", metavar="ID|TIME", help="Begin at an entry id, or a time such as 2026-11-21T10:00 (UTC)."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is added.")
@click.option("--limit", "-n", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@click.option("--pipeline", metavar="NAME|FOLDER", help="The pipeline to look at (default: PIPELINE, or the fleet's).")
def tail(stream: str, start: str | None, follow: bool, limit: int | None, pipeline: str | None) -> None:
    """Print the events of a stream as lines of JSON, the oldest kept first.

    Settled events are kept for a while (retention_seconds in the pipeline file). With --follow and without
    --from only new ones are printed. Reading takes nothing away.
    """
    from bargeline.target import find_target
    from shared.text import printable

    target = find_target(pipeline)
    key = {"dead": target.client.topology.dead, "retry": target.client.topology.retry}.get(stream)
    key = key or target.client.topology.stream(stream)
    printed = 0
    try:
        for line in _lines(target, stream, key, _start(target, key, start, follow), follow):
            # Control characters in data would steer the terminal; in JSON the escape means the same.
            click.echo(printable(line.decode(errors="backslashreplace")))
            printed += 1
            if printed == limit:
                return
    except KeyboardInterrupt:
        return


def _start(target: "Target", key: str, start: str | None, follow: bool) -> str:
    import re

    from shared.errors import ConfigurationError, InvalidEvent
    from shared.events import parse_time
    from shared.streams.inspect import last_id

    if start is None:
        return f"({last_id(target.client, key)}" if follow else "-"
    if re.fullmatch(r"\d+(-\d+)?", start):
        return start
    try:
        return str(int(parse_time(start).timestamp() * 1000))
    except InvalidEvent:
        raise ConfigurationError(
            f"--from {start}: neither an entry id (1795239604176-0) nor a time (2026-11-21T10:00, in UTC)."
        ) from None


def _lines(target: "Target", stream: str, key: str, start: str, follow: bool) -> Iterator[bytes]:
    from shared.streams.inspect import entries

    while True:
        page = entries(target.client, key, start, _PAGE)
        for entry_id, fields in page:
            yield from _events(target, stream, key, entry_id, fields)
            start = f"({entry_id}"
        if not page:
            if not follow:
                return
            time.sleep(_FOLLOW_SECONDS)


def _events(target: "Target", stream: str, key: str, entry_id: str, fields: dict[bytes, bytes]) -> list[bytes]:
    import msgspec

    from shared.attributes import Attributes
    from shared.entries import Entry, lines_of
    from shared.errors import InvalidEvent

    if stream == "dead":
        return [msgspec.json.encode({"id": entry_id, **{name.decode(): _readable(fields[name]) for name in fields}})]
    attributes = Attributes(target.pipeline.file.ingest, target.pipeline.name)
    try:
        return lines_of(Entry(entry_id, fields if stream != "retry" else {b"n": b"1", **fields}), key, attributes)
    except InvalidEvent as error:
        return [msgspec.json.encode({"entry": entry_id, "error": str(error)})]


def _readable(value: bytes) -> Any:
    """JSON as JSON, text as text, any other bytes as Python writes them."""
    import msgspec

    if value[:1] in (b"{", b"["):
        try:
            found = msgspec.json.decode(value)
            msgspec.json.encode([found])  # What is nested to the limit can be read, but not written again.
            return found
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return repr(value)[2:-1]
    try:
        return value.decode()
    except UnicodeDecodeError:
        return repr(value)[2:-1]
