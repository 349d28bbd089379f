"""A limit of events a second: a token bucket that may go into debt, since how many events a request has shows late."""

import time


class Bucket:
    """Holds the events of one second at most; no limit at a rate of 0."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._tokens = per_second
        self._filled_at = time.monotonic()

    def wait_seconds(self) -> float:
        """Seconds until something may be taken again; 0 where that is now."""
        if not self._per_second:
            return 0
        now = time.monotonic()
        self._tokens = min(self._tokens + (now - self._filled_at) * self._per_second, self._per_second)
        self._filled_at = now
        return 0 if self._tokens > 0 else -self._tokens / self._per_second + 1 / self._per_second

    def take(self, events: int) -> None:
        """Note events that were let in."""
        self._tokens -= events
