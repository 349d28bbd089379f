"""Receiving changes in a thread of its own: the server gets its answers in time, however long Redis takes."""

import threading
import time
from collections import deque

from shared.database.replication import Keepalive, Message, ReplicationStream

#: What may wait to be taken, in bytes; then the connection is not read, and the server waits.
MOST_BYTES = 8 * 2**20
_CHUNK_BYTES = 2**20
#: What a message takes besides its payload.
_OBJECT_BYTES = 150
_REPORT_SECONDS = 1.0
_PAUSE_SECONDS = 0.25
#: The slot forgets what has been in Redis for so long: what Redis loses with its machine can then be read again.
FORGET_SECONDS = 5.0


class Receiver:
    """Takes the messages of a stream as they come, and tells the server how far it may forget."""

    def __init__(self, stream: ReplicationStream, confirmed: int) -> None:
        self._stream = stream
        self._chunks: deque[tuple[int, list[Message]]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._closed = False
        self._received = confirmed
        #: Places that are in Redis, with the time from which on the server may forget what is before them.
        self._stored: deque[tuple[float, int]] = deque([(0.0, confirmed)])
        self._next_report = 0.0
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    def take(self, seconds: float) -> list[Message]:
        """The next messages, none if none came within so many seconds. Raises what ended the stream."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._failure is not None, seconds)
            if self._chunks:
                size, messages = self._chunks.popleft()
                self._waiting_bytes -= size
                self._changed.notify_all()
                return messages
            if self._failure is not None:
                raise self._failure
            return []

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return not self._chunks

    def stored(self, lsn: int) -> None:
        """Note that all before this place is in Redis."""
        with self._changed:
            self._stored.append((time.monotonic() + FORGET_SECONDS, lsn))

    def close(self) -> None:
        """End the thread, then the connection."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._stream.close()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._receive()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _receive(self) -> None:
        if time.monotonic() >= self._next_report:
            self._report()
        with self._changed:
            if self._waiting_bytes >= MOST_BYTES:
                self._changed.wait(_PAUSE_SECONDS)
                return
        messages = self._stream.receive(_PAUSE_SECONDS, _CHUNK_BYTES)
        if not messages:
            return
        self._received = max(self._received, messages[-1].lsn)
        size = sum(
            _OBJECT_BYTES if isinstance(one, Keepalive) else _OBJECT_BYTES + len(one.payload) for one in messages
        )
        with self._changed:
            self._chunks.append((size, messages))
            self._waiting_bytes += size
            self._changed.notify_all()
        if any(isinstance(one, Keepalive) and one.reply for one in messages):
            self._report()

    def _report(self) -> None:
        now = time.monotonic()
        self._next_report = now + _REPORT_SECONDS
        with self._changed:
            confirmed = 0
            while self._stored and self._stored[0][0] <= now:
                confirmed = self._stored.popleft()[1]
        if confirmed:
            self._stream.report(max(self._received, confirmed), confirmed)
        self._stream.report(self._received, 0)
