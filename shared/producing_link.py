"""The way of a producer's events into the raw stream: entries, pressure, another attempt."""

import math
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from shared import events
from shared.codec import Codec
from shared.entries import Fields, batch_fields, pieces
from shared.errors import BackpressureError, NotAccepted, TransientError
from shared.memory import MemoryGate
from shared.pipeline import Pipeline
from shared.settings import Settings
from shared.streams import Added, Client, Full, add
from shared.topology import Topology

_FIRST_PAUSE_SECONDS = 0.05
#: A stage that drains 50,000 events/s is empty after a long pause.
_LONGEST_PAUSE_SECONDS = 0.25
_UNSURE = "It is not known whether the events were accepted; with the same ids they can be emitted again."


class Clients:
    """Connections for calls of several threads: each has one to itself, and a forked child none of its parent's."""

    def __init__(self, url: str, topology: Topology) -> None:
        self._url = url
        self._topology = topology
        self._pid = os.getpid()
        self._free = [self._make()]  # The first shows at once whether the URL can be read.
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[Client]:
        """A connection that nobody else uses meanwhile."""
        if self._pid != os.getpid():
            self._free, self._pid = [], os.getpid()
        try:
            client = self._free.pop()
        except IndexError:
            client = self._make()
        try:
            yield client
        finally:
            if self._closed:
                client.close()
            else:
                self._free.append(client)

    def close(self) -> None:
        """Close those that are free now, and the others when they are."""
        self._closed = True
        while self._free:
            self._free.pop().close()

    def _make(self) -> Client:
        return Client(self._url, self._topology, "bargeline-producer")


@dataclass
class Link:
    """Adds lines to a pipeline's raw stream, from any number of threads.

    ``wait``: a full pipeline is waited for. Setting ``closing`` ends all waiting.
    """

    clients: Clients
    pipeline: Pipeline
    codec: Codec
    memory_gate: MemoryGate
    wait: bool
    timeout_seconds: float | None
    closing: threading.Event = field(default_factory=threading.Event)

    def deadline(self) -> float:
        """Until when (monotonic) a call that begins now may wait."""
        return math.inf if self.timeout_seconds is None else time.monotonic() + self.timeout_seconds

    def send(self, lines: Sequence[bytes], deadline: float) -> None:
        """Add lines, in as few entries as they fit in.

        Tries at least once, and again until the deadline; so a line may get in twice, with the same id, if a reply is
        lost. Raises NotAccepted or BackpressureError with what is in.
        """
        accepted = 0
        for piece in pieces(lines):
            try:
                self._send(piece, deadline)
            except NotAccepted as error:
                error.accepted = accepted
                raise
            accepted += len(piece)

    def close(self) -> None:
        """End all waiting, and the connections."""
        self.closing.set()
        self.clients.close()

    def _send(self, lines: Sequence[bytes], deadline: float) -> None:
        now_ms = int(events.now().timestamp() * 1000)
        fields = batch_fields(b"".join(lines), len(lines), now_ms, self.codec.name)
        pause = _FIRST_PAUSE_SECONDS
        unsure = False
        # By hand: going through tenacity doubled the CPU of a call.
        while True:
            try:
                return self._attempt(len(lines), fields)
            except TransientError as error:
                full = isinstance(error, BackpressureError)
                # Full after an outage: the entry may be in, if only the reply was lost.
                unsure = unsure or not full
                over = self.closing.is_set() or time.monotonic() + pause > deadline
                if over or (full and not self.wait):
                    if not unsure:
                        raise
                    raise NotAccepted(f"{error} {_UNSURE}") from error
            self.closing.wait(pause + random.uniform(0, _FIRST_PAUSE_SECONDS))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _attempt(self, count: int, fields: Fields) -> None:
        high_water = self.pipeline.file.pipeline.high_water_events
        with self.clients.one() as client:
            self._check_memory(client)
            reply = add(client, high_water=high_water, source="", expected="", new="", events=count, fields=fields)
        if isinstance(reply, Full):
            raise BackpressureError(
                f"The pipeline {self.pipeline.name} is full: {reply.in_flight:,} events wait, and it takes no more "
                f"from {high_water:,} on (high_water_events). `bargeline status` shows whether its workers keep up."
            )
        if isinstance(reply, Added):
            self.codec.note(reply.in_flight)

    def _check_memory(self, client: Client) -> None:
        if (ratio := self.memory_gate.above(client)) is not None:
            raise BackpressureError(
                f"Redis uses {ratio:.0%} of its memory, and the pipeline {self.pipeline.name} takes no more above "
                f"{self.memory_gate.most:.0%} (INGEST_MEMORY_RATIO), so that what it holds can drain."
            )


def open_link(
    settings: Settings, redis_url: str | None, pipeline: Pipeline, *, wait: bool, timeout_seconds: float | None
) -> Link:
    """A link, without a connection yet. Raises ConfigurationError."""
    clients = Clients(redis_url or settings.require_redis_url(), Topology(pipeline.name))
    codec = Codec(settings.ingest_codec)
    return Link(clients, pipeline, codec, MemoryGate(settings.ingest_memory_ratio), wait, timeout_seconds)
