"""Sending the batches of one source, under pressure, through outages, and as durably as was asked for."""

import functools
from dataclasses import dataclass

import structlog

from shared import events
from shared.codec import Codec
from shared.entries import Fields, batch_fields
from shared.errors import BargelineError, Stopped
from shared.memory import MEASURED_FOR_SECONDS, MemoryGate
from shared.run import Runtime
from shared.streams import Added, Full, Stale, add, confirm

log = structlog.get_logger()


class StaleSource(BargelineError):
    """The checkpoint of this source is not where this process left it.

    ``checkpoint`` is what it is now: another process reads the source; or empty: Redis lost it.
    """

    def __init__(self, source: str, checkpoint: str) -> None:
        super().__init__(f"{source}: its checkpoint moved while this process was reading it.")
        self.checkpoint = checkpoint


@dataclass(frozen=True)
class Addition:
    """A batch with its dead letters, and the checkpoints before and after it."""

    expected: str
    new: str
    events: int
    fields: Fields
    dead: list[Fields]


class Sender:
    """Adds the batches of one source; ``stored`` is its checkpoint as Redis has it.

    A source that cannot be read again (not ``replayable``) goes on after Redis lost its checkpoint.
    """

    def __init__(self, runtime: Runtime, source: str, stored: str, *, replayable: bool) -> None:
        self._runtime = runtime
        self._source = source
        self._replayable = replayable
        self._unconfirmed: list[Addition] = []
        self.stored = stored

    def send(self, count: int, body: bytes, new: str, dead: list[Fields], *, text: bool = False) -> None:
        """Add a batch and move the checkpoint to ``new``; ``text`` as in ``Entry``. Raises StaleSource, Stopped."""
        now_ms = int(events.now().timestamp() * 1000)
        fields = batch_fields(body, count, now_ms, codec(self._runtime).name, text=text)
        try:
            wait_for_memory(self._runtime)
        except Stopped:
            if self._replayable:
                raise
        self._add(Addition(self.stored, new, count, fields, dead))

    def _add(self, one: Addition) -> None:
        runtime = self._runtime

        def send() -> Added | Full | Stale:
            return add(
                runtime.client,
                high_water=runtime.pipeline.file.pipeline.high_water_events,
                source=self._source,
                expected=one.expected,
                new=one.new,
                events=one.events,
                fields=one.fields,
                dead=one.dead,
            )

        # What can be read again is nothing to hold on to when asked to stop.
        reply = runtime.until_accepted(send, None if self._replayable else _hold)
        # A reply that got lost: the batch is in, and the checkpoint says so.
        if isinstance(reply, Stale) and reply.checkpoint != one.new:
            if reply.checkpoint or self._replayable:
                raise StaleSource(self._source, reply.checkpoint)
            runtime.metrics.incident("checkpoint_lost")
            log.warning("Redis lost the checkpoint; what is gone cannot be read again", source=self._source)
            self._add(Addition("", one.new, one.events, one.fields, one.dead))
            return
        if isinstance(reply, Added):
            codec(runtime).note(reply.in_flight)
        self.stored = one.new
        if runtime.settings.ingest_durability != "memory":
            self._unconfirmed.append(one)

    def confirm(self) -> None:
        """Wait until what was sent is as safe as INGEST_DURABILITY asks. Raises StaleSource, Stopped."""
        durability = self._runtime.settings.ingest_durability
        while self._unconfirmed:
            stored = self._runtime.hold(lambda: confirm(self._runtime.client, durability, self._source))
            sent, self._unconfirmed = self._unconfirmed, []
            if stored == self.stored:
                return
            # The server lost some of it (a failover): it is still in hand.
            lost = [index for index, one in enumerate(sent) if one.expected == stored]
            if not lost:
                raise StaleSource(self._source, stored)
            log.warning("Redis lost batches that were not confirmed yet; adding them again", source=self._source)
            for one in sent[lost[0] :]:
                self._add(one)


def _hold() -> None:
    """What cannot be read again stays in hand for as long as a process has to end; nobody else has to know."""


def wait_for_memory(runtime: Runtime) -> None:
    """Wait while the server uses more of its memory than INGEST_MEMORY_RATIO. Raises Stopped."""
    while (ratio := runtime.hold(lambda: memory_gate(runtime).above(runtime.client))) is not None:
        if not runtime.pressure:
            runtime.pressure = True
            log.warning("Redis' memory is nearly full (INGEST_MEMORY_RATIO), waiting", action="pressure", ratio=ratio)
        runtime.beat()
        runtime.stop.wait(MEASURED_FOR_SECONDS)
        runtime.check_stop()


@functools.cache
def codec(runtime: Runtime) -> Codec:
    """The codec of this process: all its sources fill one stream."""
    return Codec(runtime.settings.ingest_codec)


@functools.cache
def memory_gate(runtime: Runtime) -> MemoryGate:
    """The gate of this process: all its sources share the measurement."""
    return MemoryGate(runtime.settings.ingest_memory_ratio)
