"""Carrying one source into the raw stream: batches, checkpoint, pressure."""

import zlib
from collections.abc import Iterable
from typing import Protocol

import msgspec
import structlog
import zstandard

from shared import events
from shared.attributes import Attributes
from shared.run import Runtime
from workers.ingest.files import Checkpoint
from workers.ingest.lines import Batch, EventMaker, Limits, LineSplitter
from workers.ingest.objects import ObjectMaker
from workers.ingest.sender import Sender

log = structlog.get_logger()
#: What reading a damaged file raises.
DAMAGED = (OSError, EOFError, zlib.error, zstandard.ZstdError)
#: A file that has been still for so long is taken as complete.
STILL_SECONDS = 2.0


class Content(Protocol):
    """What a source offers: blocks of bytes, and its own account of what was consumed."""

    @property
    def size(self) -> int | None:
        """Bytes of the source itself, where that is known."""

    def blocks(self) -> Iterable[bytes]:
        """The rest of the content."""

    def position(self) -> int:
        """Bytes of the source itself that were read."""

    def consumed(self, content: bytes) -> None:
        """Note content that was made into events."""

    def fingerprint(self) -> str:
        """Digest that tells whether a later content continues this one."""


class Carrier:
    """Adds the batches of one source, each with the checkpoint after it.

    Either ``carry``, or ``begin`` and then ``feed`` as content comes, and ``finish`` where it ends for good.
    """

    def __init__(
        self, runtime: Runtime, source: str, maker: EventMaker, stored: str, *, replayable: bool = True
    ) -> None:
        self._runtime = runtime
        self._maker = maker
        self._replayable = replayable
        self._sender = Sender(runtime, source, stored, replayable=replayable)
        self.latest = Checkpoint()
        self.events = 0
        self.dead = 0

    def carry(self, content: Content, start: Checkpoint, *, take_rest: bool) -> Checkpoint:
        """Carry everything from ``start`` to the end of the content.

        A last line without a newline is taken only with ``take_rest``. Raises StaleSource, Stopped.
        """
        self.begin(content, start)
        for block in content.blocks():
            self.feed(block)
        if take_rest:
            self.finish()
        return self.latest

    def begin(self, content: Content, start: Checkpoint) -> None:
        """Go on from a checkpoint; what is stored later keeps those of its fields that are no position."""
        settings = self._runtime.settings
        limits = Limits(settings.ingest_batch_events, settings.ingest_batch_bytes, settings.ingest_max_event_bytes)
        self._content = content
        self._splitter = LineSplitter(start, limits, content.consumed)
        self.latest = start

    def feed(self, block: bytes) -> None:
        """Carry the lines that are complete with this block. Raises StaleSource, Stopped."""
        self._add_all(self._splitter.feed(block))

    def finish(self) -> None:
        """Carry a last line without a newline, if there is one. Raises StaleSource, Stopped."""
        self._add_all(self._splitter.finish())

    @property
    def has_rest(self) -> bool:
        """Whether a line has begun whose end was not seen yet."""
        return self._splitter.has_rest

    def mark(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint without events."""
        self._sender.send(0, b"", checkpoint.encode(), [])
        self._sender.confirm()
        self.latest = checkpoint

    @property
    def stored(self) -> str:
        """Text of the checkpoint as Redis has it."""
        return self._sender.stored

    def _add_all(self, batches: Iterable[Batch]) -> None:
        """They count as accepted together: one wait for the disk or for replicas serves all."""
        added, dead = self.events, self.dead
        try:
            for batch in batches:
                self._runtime.beat()
                if self._replayable:
                    self._runtime.check_stop()
                self._add(batch)
            self._sender.confirm()
        finally:
            self._runtime.metrics.events("accepted", self.events - added)
            self._runtime.metrics.events("dead", self.dead - dead)

    def _add(self, batch: Batch) -> None:
        made = self._maker.make(batch, events.now())
        content = self._content
        content.consumed(batch.raw)
        checkpoint = msgspec.structs.replace(
            self.latest,
            offset=batch.end_offset,
            lines=batch.end_line,
            fingerprint=content.fingerprint(),
            read=content.position(),
            size=content.size,
            done=False,
        )
        self._sender.send(made.events, made.body, checkpoint.encode(), made.dead)
        self.latest = checkpoint
        self.events += made.events
        self.dead += len(made.dead)


def maker(runtime: Runtime, source: str, identity: str | None = None) -> EventMaker:
    """What makes events of the lines of a source by the pipeline's file."""
    attributes = Attributes(runtime.pipeline.file.ingest, runtime.pipeline.name)
    return EventMaker(source, attributes, runtime.name, identity, with_c=runtime.settings.ingest_native)


def object_maker(runtime: Runtime, source: str) -> ObjectMaker:
    """What makes events of what a source gives one by one, by the pipeline's file."""
    pipeline = runtime.pipeline
    attributes = Attributes(pipeline.file.ingest, pipeline.name)
    return ObjectMaker(source, attributes, pipeline.name, runtime.name, runtime.settings.ingest_max_event_bytes)


def note_lost_checkpoint(runtime: Runtime, source: str) -> None:
    """Log and count that Redis lost the checkpoint of a source that this process has read."""
    runtime.metrics.incident("checkpoint_lost")
    log.warning("Redis lost the checkpoint; reading the source again, to the same ids", action="source", source=source)
