"""A stream that is not ours, on this server or another: read through a consumer group of its own."""

from collections.abc import Callable, Collection
from typing import Any

from shared.entries import Entry
from shared.errors import BargelineError, ConfigurationError
from shared.streams.client import GroupMissing, connect, pairs, translated


class ElsewhereStream:
    """A consumer of a group on somebody's stream.

    ``server`` is a URL and the variable that it comes from. Calls raise TransientError, ConfigurationError, and
    GroupMissing where the group or the stream is gone.
    """

    def __init__(self, server: tuple[str, str], key: str, group: str, consumer: str) -> None:
        self._url, variable = server
        self._key = key
        self._group = group
        self._consumer = consumer
        self._client = connect(self._url, f"bargeline-{consumer}", variable)

    def ensure_group(self, start: str) -> bool:
        """Make the group, unless it is there: it begins after an id (``0``: with the first entry); True if made."""
        try:
            # Asked first: at maxmemory XGROUP CREATE is refused even where there is nothing to make.
            if any(one[b"name"] == self._group.encode() for one in self._info("GROUPS")):
                return False
            self._call("XGROUP", "CREATE", self._key, self._group, start, "MKSTREAM")
        except BargelineError as error:
            if "WRONGTYPE" in str(error):
                raise ConfigurationError(f"{self._key} holds something else than a stream. Name another.") from None
            if "BUSYGROUP" in str(error):
                return False
            raise
        return True

    def read(self, count: int, block_ms: int) -> list[Entry]:
        """Up to ``count`` entries that nobody in the group was given yet; none after ``block_ms``."""
        return self._read(count, "BLOCK", block_ms, "STREAMS", self._key, ">")

    def leftover(self, count: int) -> list[Entry]:
        """Entries that this consumer was given and has not acknowledged; one whose body is gone has no fields."""
        return self._read(count, "STREAMS", self._key, "0")

    def _read(self, count: int, *how: Any) -> list[Entry]:
        reply = self._call("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count, *how)
        return [_entry(one) for one in reply[0][1]] if reply else []

    def take_over(self, live: Callable[[], Collection[str]], idle_ms: int, count: int) -> list[Entry]:
        """Take entries that a consumer which is not ``live`` has held for so long; only one taker gets each.

        Those that were deleted meanwhile are left out: the server forgets them.
        """
        consumers = self._info("CONSUMERS", self._group)
        others = {one[b"name"] for one in consumers if one[b"pending"]} - {self._consumer.encode()}
        # Who lives is asked only where there is something to take.
        for name in sorted(others - {one.encode() for one in live()}) if others else ():
            held = self._call("XPENDING", self._key, self._group, "IDLE", idle_ms, "-", "+", count, name)
            ids = [row[0] for row in held]
            if ids:
                taken = self._call("XCLAIM", self._key, self._group, self._consumer, idle_ms, *ids)
                return [_entry(one) for one in taken if one]
        return []

    def acknowledge(self, ids: list[str]) -> None:
        """Say that entries are done with."""
        self._call("XACK", self._key, self._group, *ids)

    def leave(self) -> None:
        """Remove this consumer, unless it still has something in its hand."""
        for consumer in self._info("CONSUMERS", self._group):
            if consumer[b"name"] == self._consumer.encode() and consumer[b"pending"] == 0:
                self._call("XGROUP", "DELCONSUMER", self._key, self._group, self._consumer)

    def _info(self, what: str, *more: str) -> list[dict[bytes, Any]]:
        try:
            return [pairs(one) for one in self._call("XINFO", what, self._key, *more)]
        except GroupMissing:
            return []

    def _call(self, *command: Any) -> Any:
        with translated(self._url):
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]


def _entry(reply: list[Any]) -> Entry:
    return Entry(reply[0].decode(), pairs(reply[1]))
