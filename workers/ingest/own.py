"""A source of the user's own: ``INGEST_SOURCE=module:callable``, a generator of ``(position, event)``.

The callable is called with the position to go on after (None where there is none), and yields events, each with the
position to go on after it. It runs in a thread, so that what it has yielded travels at once, however long the next
event takes. Batches, the checkpoint, pressure, outages and the end are handled here.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import msgspec
import structlog

from shared import events, user_code
from shared.entries import MOST_BYTES
from shared.errors import BargelineError, ConfigurationError, InvalidEvent, Stopped, TransientError
from shared.events import Event, SourceIds
from shared.run import Runtime, Step
from shared.streams import checkpoint as stored_checkpoint
from workers.ingest.buffer import Buffer
from workers.ingest.objects import Batch, Made, batches, encoded
from workers.ingest.sender import Sender, StaleSource
from workers.ingest.source import note_lost_checkpoint, object_maker

log = structlog.get_logger()
#: What the user's callable has to be: given a position, it yields positions with events, or None while there are none.
Source = Callable[[Any], Iterable[Any]]
#: Events that were yielded and are not sent yet, at most.
_BUFFER_BYTES = 2 * MOST_BYTES
#: A source that has not failed within so long is taken as connected.
_CONNECT_SECONDS = 1.0
_WAIT_SECONDS = 0.5
#: How often a source that is idle, or that another process reads, looks at its checkpoint.
_LOOK_SECONDS = 2.0
#: A source whose checkpoint has rested for so long is not taken for one that another process reads.
_STILL_SECONDS = 5.0
#: A generator that does not come back within so long is left behind when the process ends.
_CLOSE_SECONDS = 2.0
_POSITIONS = 1 << 48


class Reached(msgspec.Struct, frozen=True):
    """The checkpoint of a source: the position to go on after, and how many events and dead letters came before."""

    position: Any = None
    lines: int = 0
    done: bool = False

    def encode(self) -> str:
        """Text of the checkpoint: equal checkpoints have equal text."""
        return msgspec.json.encode(self).decode()


def start(runtime: Runtime) -> Step:
    """Return the step that reads the source named by INGEST_SOURCE."""
    reference = runtime.settings.ingest_source
    where = f"INGEST_SOURCE={reference}"
    source = user_code.load(runtime.pipeline.folder, reference, where)
    if not callable(source):
        raise ConfigurationError(f"{where}: it is {_kind(source)}, not callable. Name a function that yields.")
    name = runtime.settings.ingest_source_name or reference
    return OwnSource(runtime, name, source, PairMaker(runtime, name, where)).step


class Maker(Protocol):
    """Makes a position and an event of what a source yields; ``where`` begins every complaint."""

    @property
    def where(self) -> str:
        """The setting that names the source."""

    def make(self, given: Any) -> tuple[Any, Made]:
        """Position and event. Raises ConfigurationError."""


class OwnSource:
    """Carries what a callable yields."""

    def __init__(self, runtime: Runtime, name: str, source: Source, maker: Maker) -> None:
        self._runtime = runtime
        self._name = name
        self._source = source
        self._maker = maker
        self._interruption: TransientError | None = None
        self._looked_at = 0.0

    def step(self) -> None:
        """Read from the checkpoint until the source ends or breaks. Raises Stopped at its end."""
        runtime = self._runtime
        text = runtime.hold(lambda: stored_checkpoint(runtime.client, self._name))
        sender = Sender(runtime, self._name, text, replayable=True)
        reached = msgspec.json.decode(text, type=Reached) if text else Reached()
        try:
            with contextlib.closing(runtime.hold(lambda: self._connect(reached.position))) as reading:
                reached = self._carry(reading, sender, reached)
        except StaleSource as error:
            self._note_stale(error)
            return
        if reading.error is None:
            self._finish(sender, reached)
        self._interruption = reading.interruption()

    def _connect(self, position: Any) -> "Reading":
        """Begin to read; TransientError if that fails at once, so that pauses between attempts grow."""
        if self._interruption is not None:
            error, self._interruption = self._interruption, None
            raise error
        reading = Reading(self._source, position, self._maker)
        reading.buffer.wait(_CONNECT_SECONDS)
        if reading.buffer.done and (interruption := reading.interruption()):
            raise interruption
        return reading

    def _carry(self, reading: "Reading", sender: Sender, reached: Reached) -> Reached:
        """Send what is yielded until there is no more. Raises Stopped once the process was asked to stop."""
        runtime = self._runtime
        while not reading.buffer.done:
            runtime.beat()
            stopping = runtime.stop.is_set()
            if stopping:
                reading.close()
            pairs = reading.buffer.take(0 if stopping else _WAIT_SECONDS)
            if pairs:
                reached = self._send(pairs, sender, reached)
            else:
                self._look(sender)
            if stopping:
                raise Stopped
        return reached

    def _send(self, pairs: list[tuple[Any, Made]], sender: Sender, reached: Reached) -> Reached:
        settings = self._runtime.settings
        sent = 0
        for batch in batches((made for _, made in pairs), settings.ingest_batch_events, settings.ingest_batch_bytes):
            sent += batch.items
            reached = Reached(pairs[sent - 1][0], reached.lines + batch.items)
            self._runtime.beat()
            sender.send(len(batch.lines), batch.body, reached.encode(), batch.dead)
            self._count(batch)
        sender.confirm()
        return reached

    def _count(self, batch: Batch) -> None:
        self._runtime.metrics.events("accepted", len(batch.lines))
        self._runtime.metrics.events("dead", len(batch.dead))

    def _look(self, sender: Sender) -> None:
        """Notice that Redis lost the checkpoint of a source that is idle. Raises StaleSource."""
        if time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        runtime = self._runtime
        stored = runtime.hold(lambda: stored_checkpoint(runtime.client, self._name))
        if stored != sender.stored:
            raise StaleSource(self._name, stored)

    def _note_stale(self, error: StaleSource) -> None:
        """Read again what Redis lost; or stand by for as long as another process reads the source."""
        runtime = self._runtime
        if not error.checkpoint:
            note_lost_checkpoint(runtime, self._name)
            return
        log.info("another process reads this source; standing by", action="source", source=self._name)
        seen, since = error.checkpoint, time.monotonic()
        while time.monotonic() - since < _STILL_SECONDS:
            runtime.beat()
            runtime.stop.wait(_LOOK_SECONDS)
            runtime.check_stop()
            now = runtime.hold(lambda: stored_checkpoint(runtime.client, self._name))
            if now != seen:
                seen, since = now, time.monotonic()

    def _finish(self, sender: Sender, reached: Reached) -> None:
        done = Reached(reached.position, reached.lines, done=True).encode()
        if sender.stored != done:
            sender.send(0, b"", done, [])
            sender.confirm()
        log.info("read to the end", action="source", source=self._name, lines=reached.lines)
        raise Stopped


class PairMaker:
    """Makes positions and events of what the user's generator yields; in its thread, and pure."""

    def __init__(self, runtime: Runtime, name: str, where: str) -> None:
        self.where = where
        self._objects = object_maker(runtime, name)
        self._ids = SourceIds(name)

    def make(self, given: Any) -> tuple[Any, Made]:
        """Position and event of a pair. Raises ConfigurationError for what is none."""
        if not isinstance(given, tuple) or len(given) != 2:
            raise ConfigurationError(f"{self.where}: it yielded {_kind(given)}. Yield (position, event).")
        position, event = given
        try:
            place = msgspec.json.encode(position)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"{self.where}: a position has to be writable as JSON: {error}.") from None
        return position, self._event(position, place, event)

    def _event(self, position: Any, place: bytes, event: Any) -> Made:
        origin = {"position": position}
        if isinstance(event, str | bytes):
            # As it came, also where it is no text at all.
            text = event.encode(errors="surrogatepass") if isinstance(event, str) else event
            return self._objects.from_text(text, self._id(position, place, text), origin)
        if not isinstance(event, dict | Event):
            raise ConfigurationError(
                f"{self.where}: with position {place.decode()} it yielded {_kind(event)}. An event is a dict, an "
                "Event, or the text of a JSON object."
            )
        try:
            content = encoded(event if isinstance(event, dict) else event.data)
        except InvalidEvent as error:
            return self._objects.dead(repr(event).encode(errors="backslashreplace"), origin, error)
        event_id = self._id(position, place, content)
        if isinstance(event, dict):
            return self._objects.from_dict(event, content, event_id, origin)
        return self._objects.from_event(event, content, event_id, origin)

    def _id(self, position: Any, place: bytes, content: bytes) -> str:
        """The same for the same content at the same position; rising where positions are whole numbers that rise."""
        if position is None:
            return events.uuid7()
        number = position
        if not isinstance(position, int) or not 0 <= position < _POSITIONS:
            number = int.from_bytes(hashlib.blake2b(place, digest_size=6).digest(), "big")
        return self._ids.id(number, content)


class Reading:
    """One call of the user's callable, read in a thread into ``buffer``; ``error`` is how it ended."""

    def __init__(self, source: Source, position: Any, maker: Maker) -> None:
        self.buffer: Buffer[tuple[Any, Made]] = Buffer(_BUFFER_BYTES)
        self.error: BaseException | None = None
        self._maker = maker
        self._thread = threading.Thread(target=self._read, args=(source, position), name="source", daemon=True)
        self._thread.start()

    def _read(self, source: Source, position: Any) -> None:
        try:
            with _closing(self._iterator(source(position))) as yielded:
                for given in yielded:
                    if given is not None:
                        position, made = self._maker.make(given)
                        self.buffer.put((position, made), len(made) if isinstance(made, bytes) else 0)
                    if self.buffer.closed:
                        return
        except (Exception, SystemExit) as error:
            self.error = error
        finally:
            self.buffer.end()

    def _iterator(self, returned: Any) -> Iterator[Any]:
        try:
            return iter(returned)
        except TypeError:
            raise ConfigurationError(
                f"{self._maker.where}: it returned {_kind(returned)}. Write a function that yields (position, event)."
            ) from None

    def interruption(self) -> TransientError | None:
        """Why it has to be read again, later; None where it ended. Raises what is no matter of waiting."""
        if isinstance(self.error, TransientError):
            return self.error
        if isinstance(self.error, OSError):
            return TransientError(f"{self._maker.where}: {type(self.error).__name__}: {self.error}")
        if isinstance(self.error, InvalidEvent):
            raise ConfigurationError(
                f"{self._maker.where}: it raised InvalidEvent ({self.error}), which ends a generator. Yield the "
                "position with the text as it came: what is no JSON object becomes a dead letter."
            ) from self.error
        if isinstance(self.error, SystemExit):
            raise BargelineError(f"{self._maker.where}: it called sys.exit. Return where the source ends.")
        if self.error is not None:
            raise self.error
        return None

    def close(self) -> None:
        """Take in no more, and let the generator close itself where it yields next."""
        self.buffer.close()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("the source did not come back to be closed; leaving it", action="source")


@contextlib.contextmanager
def _closing(given: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """Close a generator where it is left; other iterators need not have a close."""
    try:
        yield given
    finally:
        if callable(close := getattr(given, "close", None)):
            close()


def _kind(value: object) -> str:
    return f"{type(value).__name__} {value!r:.80}"
