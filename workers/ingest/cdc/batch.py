"""Events on their way into Redis, each batch with the checkpoint behind it."""

import structlog

from shared import events
from shared.entries import Fields, dead_letter
from shared.errors import InvalidEvent
from shared.events import AnyEvent
from shared.run import Runtime
from workers.ingest.cdc.place import Place
from workers.ingest.sender import Sender

log = structlog.get_logger()
#: So many batches may wait together for the disk or for replicas.
_MOST_UNCONFIRMED = 16


class Batches:
    """Collects events until a batch is full; whoever fills it says when no more are to be waited for."""

    def __init__(self, runtime: Runtime, source: str, stored: str) -> None:
        self._runtime = runtime
        self._source = source
        self._sender = Sender(runtime, source, stored, replayable=True)
        self._lines: list[bytes] = []
        self._bytes = 0
        self._dead: list[Fields] = []
        self._sent = 0
        self.events = 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._lines and not self._dead

    def add(self, event: AnyEvent) -> bool:
        """Add an event; True where the batch is full now."""
        settings = self._runtime.settings
        line = events.encode(event) + b"\n"
        if len(line) > settings.ingest_max_event_bytes:
            self._dead.append(self._letter(event, line))
            return True
        self._lines.append(line)
        self._bytes += len(line)
        return len(self._lines) >= settings.ingest_batch_events or self._bytes >= settings.ingest_batch_bytes

    def _letter(self, event: AnyEvent, line: bytes) -> Fields:
        most = self._runtime.settings.ingest_max_event_bytes
        place = {name: event.data[name] for name in ("schema", "table", "lsn", "index") if name in event.data}
        return dead_letter(
            "ingest",
            InvalidEvent(f"the row is longer than INGEST_MAX_EVENT_BYTES={most}", "too_long"),
            raw=line[:most],
            origin={"source": self._source, "place": place},
            consumer=self._runtime.name,
        )

    def send(self, place: Place) -> bool:
        """Send what there is, perhaps nothing, with this checkpoint. Raises StaleSource, Stopped.

        True where so much was sent since the last ``confirm`` that it is time for one.
        """
        lines, dead = self._lines, self._dead
        self._lines, self._dead, self._bytes = [], [], 0
        self._sender.send(len(lines), b"".join(lines), place.encode(), dead)
        self.events += len(lines)
        self._runtime.metrics.events("accepted", len(lines))
        self._runtime.metrics.events("dead", len(dead))
        self._sent += 1
        return self._sent >= _MOST_UNCONFIRMED

    def confirm(self) -> None:
        """Wait until what was sent is as safe as INGEST_DURABILITY asks. Raises StaleSource, Stopped."""
        self._sender.confirm()
        self._sent = 0
