"""A request to stop that a signal handler may make."""

import threading


class Stop:
    """Like ``threading.Event``, whose ``set`` never returns in a handler that interrupts ``wait`` in its own thread.

    It waits for the event's lock then, which ``wait`` holds for a moment. Releasing a lock waits for nothing.
    """

    def __init__(self) -> None:
        self._requested = False
        self._turnstile = threading.Lock()
        self._turnstile.acquire()

    def set(self) -> None:
        """Request it."""
        if not self._requested:
            self._requested = True
            self._turnstile.release()

    def is_set(self) -> bool:
        """Whether it was requested."""
        return self._requested

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it is requested; whether it was."""
        if self._turnstile.acquire(timeout=max(seconds, 0)):
            self._turnstile.release()
        return self._requested
