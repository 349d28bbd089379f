"""Waiting for a server that takes its time: for the transactions that are open, for the first row of a large table."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shared.database import Connection
from shared.run import Runtime

_BEAT_SECONDS = 0.5
_CANCEL_SECONDS = 5


class Wait:
    """Whether the main thread waits for the server now."""

    now = False


@contextmanager
def patience(runtime: Runtime, connection: Connection) -> Iterator[Wait]:
    """Beat for the main thread while it waits for this connection; end the wait when the process has to stop.

    What is cancelled raises TransientError, and the stop is noticed after that.
    """
    wait, done = Wait(), threading.Event()

    def attend() -> None:
        while not done.wait(_BEAT_SECONDS):
            if not wait.now:
                continue
            runtime.beat()
            if runtime.stop.is_set():
                connection.cancel_safe(timeout=_CANCEL_SECONDS)
                return

    thread = threading.Thread(target=attend, name="patience", daemon=True)
    thread.start()
    try:
        yield wait
    finally:
        done.set()
        thread.join()
