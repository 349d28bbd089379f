"""A stream of somebody else, read through a consumer group; acknowledged there when Redis has the events here.

The ids of the events follow from the stream's name, the entry's id and its content: what is delivered again, since a
process ended between the two, is known again by the table.
"""

import contextlib
import time
from collections.abc import Iterator

import msgspec
import structlog

from shared import events
from shared.attributes import Attributes
from shared.entries import Entry, dead_letter, lines_of, wire
from shared.errors import ConfigurationError, InvalidEvent, Stopped, TransientError
from shared.run import Runtime, Step
from shared.settings import ENTRY_ID
from shared.streams import BLOCK_MS, GroupMissing, live_workers
from shared.streams.elsewhere import ElsewhereStream
from shared.topology import STAGES
from workers.ingest.objects import Made, batches
from workers.ingest.pace import Pace
from workers.ingest.sender import Sender

log = structlog.get_logger()
#: How often entries of consumers that are gone are looked for.
_CLAIM_EVERY_SECONDS = 1.0
#: With it an id comes after all others of its millisecond.
_LAST_SEQUENCE = 18_446_744_073_709_551_615


def start(runtime: Runtime) -> Step:
    """Join the group, and return the step that reads INGEST_STREAM."""
    settings, topology = runtime.settings, runtime.topology
    key, server = settings.ingest_stream, settings.source_redis_url()
    if key is None:
        raise ConfigurationError("INGEST_STREAM is not set: name the stream to read, such as orders_stream.")
    if key in {topology.stream(stage) for stage in STAGES} and server[0] == settings.require_redis_url():
        raise ConfigurationError(
            f"INGEST_STREAM={key} is a stream of this very pipeline. What any client adds there with XADD arrives "
            "without INGEST_SOURCE=stream."
        )
    group = settings.ingest_group or f"bargeline:{runtime.pipeline.name}"
    stream = ElsewhereStream(server, key, group, runtime.name)
    if runtime.hold(lambda: stream.ensure_group(first_id(settings.ingest_start))):
        log.info("made the group", action="source", stream=key, group=group, start=settings.ingest_start)
    return Carrier(runtime, stream, key).step


def first_id(start: str) -> str:
    """The id after which a group has to begin for a value of INGEST_START."""
    if start in ("beginning", "latest"):
        return "0" if start == "beginning" else "$"
    if ENTRY_ID.fullmatch(start):
        return start
    milliseconds = int(events.parse_time(start).timestamp() * 1000)
    return f"{milliseconds - 1}-{_LAST_SEQUENCE}"


class Carrier:
    """Carries the entries of one stream; ``key`` is its name in log and dead letters."""

    def __init__(self, runtime: Runtime, stream: ElsewhereStream, key: str) -> None:
        self._runtime = runtime
        self._stream = stream
        self._key = key
        self._name = runtime.settings.ingest_source_name or key
        self._attributes = Attributes(runtime.pipeline.file.ingest, runtime.pipeline.name)
        self._sender = Sender(runtime, "", "", replayable=True)
        self._pace = Pace()
        self._next_claim = 0.0
        #: Whether what this name holds already has been carried.
        self._resumed = False

    def step(self) -> None:
        """Carry what comes until the process is asked to stop. Raises Stopped."""
        try:
            while not self._runtime.stop.is_set():
                self._runtime.beat()
                self._carry(self._runtime.hold(self._entries))
        except GroupMissing:
            self._make_group()
            return
        with contextlib.suppress(TransientError):
            self._stream.leave()
        raise Stopped

    def _entries(self) -> list[Entry]:
        """What this name holds already, what consumers that are gone have held, then what is new."""
        try:
            return self._next()
        except TransientError:
            # What was delivered may be in a reply that was lost.
            self._resumed = False
            raise

    def _next(self) -> list[Entry]:
        count = self._runtime.settings.ingest_batch_events
        if not self._resumed:
            found = self._stream.leftover(count)
            self._resumed = not found
            return found
        if time.monotonic() >= self._next_claim:
            if taken := self._take_over(count):
                log.info(
                    "took over what a consumer that is gone held", action="source", stream=self._key, entries=len(taken)
                )
                return taken
            self._next_claim = time.monotonic() + _CLAIM_EVERY_SECONDS
        self._pace.wait()
        found = self._stream.read(count, BLOCK_MS)
        self._pace.taken()
        return found

    def _take_over(self, count: int) -> list[Entry]:
        """What consumers hold that are gone; one that waits for room, however long, has its lease."""
        idle_ms = int(self._runtime.settings.ingest_claim_seconds * 1000)
        return self._stream.take_over(
            lambda: [lease.name for lease in live_workers(self._runtime.client)], idle_ms, count
        )

    def _carry(self, entries: list[Entry]) -> None:
        settings, metrics = self._runtime.settings, self._runtime.metrics
        made = (one for entry in entries for one in self._made(entry))
        for batch in batches(made, settings.ingest_batch_events, settings.ingest_batch_bytes):
            self._runtime.beat()
            self._sender.send(len(batch.lines), batch.body, "", batch.dead, text=True)
            metrics.events("accepted", len(batch.lines))
            metrics.events("dead", len(batch.dead))
        if entries:
            self._sender.confirm()
            self._runtime.hold(lambda: self._stream.acknowledge([entry.id for entry in entries]))

    def _made(self, entry: Entry) -> Iterator[Made]:
        """The events of an entry: one, or those of a record batch of another pipeline."""
        if not entry.fields:
            self._runtime.metrics.incident("lost")
            log.error(
                "somebody deleted an entry before it was carried", action="lost", stream=self._key, entry=entry.id
            )
            return
        try:
            yield from self._lines(entry)
        except InvalidEvent as error:
            origin = {"stream": self._key, "address": f"{entry.id}/0", "source": f"redis:{self._name}"}
            raw = wire(entry.fields)[: self._runtime.settings.ingest_max_event_bytes]
            yield dead_letter("ingest", error, raw=raw, origin=origin, consumer=self._runtime.name)

    def _lines(self, entry: Entry) -> list[bytes]:
        lines = lines_of(entry, self._name, self._attributes)
        most = self._runtime.settings.ingest_max_event_bytes
        if any(len(line) > most for line in lines):
            raise InvalidEvent(f"longer than {most} bytes (INGEST_MAX_EVENT_BYTES)", "too_long")
        if not entry.foreign:
            try:
                for line in lines:
                    events.decode_raw(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidEvent(f"a record batch with something else than events: {error}", "malformed") from None
        return lines

    def _make_group(self) -> None:
        """Begin anew after a flush, with all that is there: what was carried before is known by its ids."""
        if self._runtime.hold(lambda: self._stream.ensure_group("0")):
            self._runtime.metrics.incident("group_missing")
            log.warning("the group was missing and was made again from the beginning", action="group", stream=self._key)
