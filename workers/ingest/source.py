"""Carrying one source into the raw stream: batches, checkpoint, pressure."""

from collections.abc import Iterable
from typing import Protocol

import structlog

from shared import events
from shared.entries import batch_fields
from shared.errors import BargelineError
from shared.run import Runtime
from shared.streams import Full, Stale, add
from workers.ingest.files import Checkpoint
from workers.ingest.lines import Batch, EventMaker, Limits, LineSplitter

log = structlog.get_logger()


class StaleSource(BargelineError):
    """Another process reads this source: its checkpoint moved while this one was reading."""


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
    """Adds the batches of one source, each with the checkpoint after it."""

    def __init__(self, runtime: Runtime, source: str, maker: EventMaker, stored: str) -> None:
        self._runtime = runtime
        self._source = source
        self._maker = maker
        self._stored = stored
        self.events = 0
        self.dead = 0

    def carry(self, content: Content, start: Checkpoint, *, take_rest: bool) -> Checkpoint:
        """Carry everything from ``start`` to the end of the content.

        A last line without a newline is taken only with ``take_rest``. Raises StaleSource, Stopped.
        """
        settings = self._runtime.settings
        limits = Limits(settings.ingest_batch_events, settings.ingest_batch_bytes, settings.ingest_max_event_bytes)
        splitter = LineSplitter(start, limits, content.consumed)
        latest = start
        for block in content.blocks():
            for batch in splitter.feed(block):
                latest = self._add(content, batch)
        if take_rest:
            for batch in splitter.finish():
                latest = self._add(content, batch)
        return latest

    def mark(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint without events."""
        self._send(0, b"", checkpoint.encode(), [])

    def _add(self, content: Content, batch: Batch) -> Checkpoint:
        self._runtime.beat()
        self._runtime.check_stop()
        made = self._maker.make(batch, events.now())
        content.consumed(batch.raw)
        checkpoint = Checkpoint(
            batch.end_offset, batch.end_line, content.fingerprint(), content.position(), content.size
        )
        self._send(made.events, made.body, checkpoint.encode(), made.dead)
        self.events += made.events
        self.dead += len(made.dead)
        self._runtime.metrics.events("accepted", made.events)
        self._runtime.metrics.events("dead", len(made.dead))
        return checkpoint

    def _send(self, count: int, body: bytes, new: str, dead: list[list[object]]) -> None:
        runtime = self._runtime
        now_ms = int(events.now().timestamp() * 1000)
        fields = batch_fields(body, count, now_ms, runtime.settings.ingest_codec)

        def send() -> Full | Stale | object:
            return add(
                runtime.client,
                high_water=runtime.pipeline.file.pipeline.high_water_events,
                source=self._source,
                expected=self._stored,
                new=new,
                events=count,
                fields=fields,
                dead=dead,
            )

        # What is in hand can be read again: nothing to hold on to when asked to stop.
        reply = runtime.until_accepted(send)
        # A reply that got lost: the batch is in, and the checkpoint says so.
        if isinstance(reply, Stale) and reply.checkpoint != new:
            raise StaleSource(f"{self._source}: its checkpoint moved while this process was reading it.")
        self._stored = new
