"""Publish/subscribe: messages of channels, at most once, since Redis keeps none for those who are away.

A thread reads them into a bounded buffer, so that they wait there, not in the server, which closes the connection of
who reads too slowly. What does not fit is dropped and counted, and so is each time that the subscription was lost.
"""

import re
import threading
from functools import lru_cache

import structlog
import tenacity

from shared.errors import ConfigurationError, Stopped, TransientError
from shared.events import uuid7
from shared.run import Runtime, Step
from shared.streams.pubsub import Message, Subscription
from workers.ingest.buffer import Buffer
from workers.ingest.objects import Made, ObjectMaker, batches
from workers.ingest.sender import Sender
from workers.ingest.source import object_maker

log = structlog.get_logger()
_WAIT_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 5
#: Channels whose makers are kept: a pattern may match very many.
_MOST_CHANNELS = 1_000


def start(runtime: Runtime) -> Step:
    """Subscribe to REDIS_CHANNEL_NAME, and return the step that carries what arrives."""
    settings = runtime.settings
    names = [name for name in re.split(r"[\s,]+", settings.redis_channel_name) if name]
    if not names:
        raise ConfigurationError("REDIS_CHANNEL_NAME names no channel: write one or several, separated by commas.")
    subscriber = Subscriber(
        settings.source_redis_url(), names, f"bargeline-{runtime.name}", settings.ingest_buffer_bytes
    )
    runtime.hold(subscriber.subscribe)
    subscriber.start()
    log.info("subscribed", action="source", channels=names)
    return Channels(runtime, subscriber).step


class Subscriber:
    """Reads a subscription in a thread, and makes it anew when it is lost."""

    def __init__(self, server: tuple[str, str], names: list[str], client_name: str, most_bytes: int) -> None:
        self.buffer: Buffer[Message] = Buffer(most_bytes)
        #: Counted by the thread, and never reset.
        self.dropped = 0
        self.lost = 0
        #: Why nothing arrives now, or None.
        self.problem: str | None = None
        #: What ended the thread, if waiting will not heal it.
        self.error: Exception | None = None
        self._arguments = (server, names, client_name)
        self._stop = threading.Event()
        self._subscription: Subscription
        self._thread = threading.Thread(target=self._run, name="subscriber", daemon=True)

    def subscribe(self) -> None:
        """Make the subscription. Raises TransientError, ConfigurationError."""
        self._subscription = Subscription(*self._arguments)
        self.problem = None

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def finish(self) -> None:
        """Unsubscribe; everything that was sent until then is in the buffer."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._put(self._subscription.read(_WAIT_SECONDS))
                except TransientError as error:
                    self._subscribe_again(error)
            if self.problem is None:
                self._put(self._subscription.finish())
        except TransientError as error:
            log.warning("the subscription was lost while it ended", action="source", reason=str(error))
            self.lost += 1
        except Exception as error:
            self.error = error
        finally:
            self._subscription.close()
            self.buffer.end()

    def _put(self, messages: list[Message]) -> None:
        for message in messages:
            if not self.buffer.offer(message, len(message.data)):
                self.dropped += 1

    def _subscribe_again(self, error: TransientError) -> None:
        """Subscribe again, with growing pauses, unless the process is to end."""
        self.lost += 1
        self.problem = str(error)
        log.warning(
            "the subscription was lost; what is published meanwhile is gone", action="source", reason=str(error)
        )
        self._subscription.close()
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=tenacity.wait_exponential(0.05, _LONGEST_BACKOFF_SECONDS) + tenacity.wait_random(0, 0.05),
            stop=tenacity.stop_when_event_set(self._stop),
            sleep=tenacity.sleep_using_event(self._stop),
        )
        try:
            attempts(self.subscribe)
            log.info("subscribed again", action="source")
        except tenacity.RetryError:
            pass  # It is to end.


class Channels:
    """Carries what a subscriber puts into its buffer."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber) -> None:
        self._runtime = runtime
        self._subscriber = subscriber
        self._sender = Sender(runtime, "", "", replayable=False)
        self._maker = lru_cache(_MOST_CHANNELS)(self._new_maker)
        self._dropped = 0
        self._lost = 0

    def step(self) -> None:
        """Send what arrives until the process is asked to stop, and then the rest. Raises Stopped."""
        runtime, subscriber = self._runtime, self._subscriber
        while not subscriber.buffer.done:
            runtime.beat()
            if runtime.stop.is_set():
                subscriber.finish()
            self._send(subscriber.buffer.take(_WAIT_SECONDS))
            self._report()
        if subscriber.error is not None:
            raise subscriber.error
        raise Stopped

    def _send(self, messages: list[Message]) -> None:
        settings, metrics = self._runtime.settings, self._runtime.metrics
        made = [one for message in messages if (one := self._made(message)) is not None]
        left = len(made)
        try:
            for batch in batches(made, settings.ingest_batch_events, settings.ingest_batch_bytes):
                self._runtime.beat()
                self._sender.send(len(batch.lines), batch.body, "", batch.dead)
                left -= batch.items
                metrics.events("accepted", len(batch.lines))
                metrics.events("dead", len(batch.dead))
            self._sender.confirm()
        except Stopped:
            # Redis was full or away for all the time that there is at the end.
            self._subscriber.dropped += left
            self._report()
            raise

    def _made(self, message: Message) -> Made | None:
        """The event of a message, or None of one that is blank, such as the last line of a file."""
        if not message.data.strip():
            return None
        return self._maker(message.channel).from_message(message.data, uuid7(), {"channel": message.channel})

    def _new_maker(self, channel: str) -> ObjectMaker:
        return object_maker(self._runtime, self._runtime.settings.ingest_source_name or f"pubsub:{channel}")

    def _report(self) -> None:
        """Count what the thread has noticed, and let `/readyz` say that it waits."""
        subscriber, metrics = self._subscriber, self._runtime.metrics
        if dropped := subscriber.dropped - self._dropped:
            self._dropped += dropped
            metrics.incident("messages_dropped", dropped)
            log.error("messages were dropped: the stream is full, or Redis away", action="source", messages=dropped)
        if lost := subscriber.lost - self._lost:
            self._lost += lost
            metrics.incident("subscription_lost", lost)
        self._runtime.waiting_for = subscriber.problem
