"""Adding what requests brought: in one script, without waiting for better times."""

import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import structlog

from shared import events
from shared.entries import batch_fields, pieces
from shared.errors import TransientError
from shared.run import Runtime
from shared.streams import Added, Full, Stale, checkpoint, confirm
from shared.streams.together import add_all, forget
from workers.ingest.sender import codec, memory_gate

log = structlog.get_logger()
#: A call that failed sooner than this was refused, or met a connection that had been closed: it is made once more.
_AT_ONCE_SECONDS = 1.0


class Busy(NamedTuple):
    """Why nothing was added, and after how many seconds to try again."""

    reason: str
    seconds: int


class Adder:
    """Adds lines under one checkpoint, which tells whether a batch is in whose reply was lost.

    It names a batch, not a position: whatever it is now, the next batch comes after it.
    """

    def __init__(self, runtime: Runtime, source: str, stored: str) -> None:
        self._runtime = runtime
        self._source = source
        self._stored = stored

    def add(self, lines: Iterable[bytes]) -> Busy | None:
        """Add lines (events as JSON, each with its newline) as durably as was asked for; all of them, or none.

        Raises TransientError where Redis does not answer, or has not made them safe in time: then they may be in.
        """
        runtime = self._runtime
        if (ratio := memory_gate(runtime).above(runtime.client)) is not None:
            return self._wait_for(f"Redis' memory is used by {ratio:.0%} (INGEST_MEMORY_RATIO)", 5)
        settings, now_ms = runtime.settings, int(events.now().timestamp() * 1000)
        batches = [
            (len(piece), batch_fields(b"".join(piece), len(piece), now_ms, codec(runtime).name))
            for piece in pieces(lines, settings.ingest_batch_events, settings.ingest_batch_bytes)
        ]
        reply = self._add(batches)
        if isinstance(reply, Full):
            return self._wait_for(f"the stage is full ({reply.in_flight:,} events, high_water_events)", 1)
        if isinstance(reply, Added):
            codec(runtime).note(reply.in_flight)
        if runtime.pressure:
            runtime.pressure = False
            log.info("pressure is off", action="pressure")
        self._confirm()
        return None

    def _wait_for(self, reason: str, seconds: int) -> Busy:
        if not self._runtime.pressure:
            self._runtime.pressure = True
            log.warning("refusing requests", action="pressure", reason=reason)
        return Busy("the pipeline is full", seconds)

    def _add(self, batches: list[tuple[int, list[object]]]) -> Added | Full | Stale:
        new = msgspec.json.encode({"position": events.uuid7()}).decode()
        reply = self._once_more(batches, new)
        while isinstance(reply, Stale) and reply.checkpoint != new:
            if not reply.checkpoint:
                self._runtime.metrics.incident("checkpoint_lost")
                log.warning("Redis lost the checkpoint, and with it what was not loaded yet", source=self._source)
            self._stored = reply.checkpoint
            reply = self._once_more(batches, new)
        if not isinstance(reply, Full):
            self._stored = new
        return reply

    def _once_more(self, batches: list[tuple[int, list[object]]], new: str) -> Added | Full | Stale:
        def call() -> Added | Full | Stale:
            return add_all(
                self._runtime.client,
                high_water=self._runtime.pipeline.file.pipeline.high_water_events,
                source=self._source,
                expected=self._stored,
                new=new,
                batches=batches,
            )

        began = time.monotonic()
        try:
            return call()
        except TransientError:
            if time.monotonic() - began > _AT_ONCE_SECONDS:
                raise
            return call()

    def _confirm(self) -> None:
        durability = self._runtime.settings.ingest_durability
        if durability == "memory":
            return
        stored = confirm(self._runtime.client, durability, self._source)
        if stored != self._stored:
            self._stored = stored
            raise TransientError("Redis lost a batch that was not confirmed yet.")

    def probe(self) -> None:
        """See whether Redis would take something; raises TransientError."""
        self._stored = checkpoint(self._runtime.client, self._source)
        self._confirm()

    def close(self) -> None:
        """Leave no checkpoint behind: under this one nothing more will come."""
        forget(self._runtime.client, self._source)
