"""How full Redis may become before those who add to it wait, or are refused."""

import time

from shared.streams import Client
from shared.streams.inspect import memory_ratio

MEASURED_FOR_SECONDS = 1.0


class MemoryGate:
    """Looks whether Redis uses more than a share of its `maxmemory`; without one it never does."""

    def __init__(self, most: float) -> None:
        self.most = most
        self._measured_at = float("-inf")

    def above(self, client: Client) -> float | None:
        """The share that is used, if it is too much; measured at most once a second while it is not.

        Raises TransientError.
        """
        if time.monotonic() - self._measured_at < MEASURED_FOR_SECONDS:
            return None
        ratio = memory_ratio(client)
        if ratio is not None and ratio > self.most:
            return ratio
        self._measured_at = time.monotonic()
        return None
