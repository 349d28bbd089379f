"""Publish/subscribe: what arrives on one connection."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis

from shared.streams.client import SOCKET_TIMEOUT_SECONDS, connect, translated

#: A connection on which nothing came for so long is asked whether it is still there.
_SILENCE_SECONDS = 5.0
_PATTERN = frozenset("*?[")
_MOST_MESSAGES = 500


class Message(NamedTuple):
    """What somebody published, and to which channel."""

    channel: str
    data: bytes


class Subscription:
    """A connection that is subscribed to channels and patterns; names with ``*``, ``?`` or ``[`` are patterns.

    ``server`` is a URL and the variable that it comes from. Whatever fails raises TransientError or ConfigurationError;
    then another subscription has to be made.
    """

    def __init__(self, server: tuple[str, str], names: Sequence[str], client_name: str) -> None:
        self._url, variable = server
        self._channels = {name for name in names if not _PATTERN & set(name)}
        patterns = set(names) - self._channels
        self._heard_at = time.monotonic()
        self._asked = False
        # Kept, since the end of a client closes its connections.
        self._client = connect(self._url, client_name, variable)
        with translated(self._url):
            self._connection: Any = self._client.connection_pool.get_connection()
            for command, chosen in (("SUBSCRIBE", self._channels), ("PSUBSCRIBE", patterns)):
                if chosen:
                    self._send(command, *sorted(chosen))
            while self._connection.read_response()[2] < len(self._channels) + len(patterns):
                pass

    def read(self, seconds: float) -> list[Message]:
        """What has arrived, in its order; nothing if nothing comes within so long."""
        with translated(self._url):
            found: list[Message] = []
            wait = seconds
            # In a flood there is always more.
            while len(found) < _MOST_MESSAGES and self._connection.can_read(wait):
                self._heard_at, self._asked, wait = time.monotonic(), False, 0.0
                found += self._messages(self._connection.read_response())
            self._check_silence()
        return found

    def finish(self) -> list[Message]:
        """Unsubscribe, and return everything that the server sent until then."""
        found: list[Message] = []
        with translated(self._url):
            for command in ("UNSUBSCRIBE", "PUNSUBSCRIBE"):
                self._send(command)
            while (reply := self._connection.read_response())[0] != b"punsubscribe" or reply[2] != 0:
                found += self._messages(reply)
        return found

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _send(self, *command: str) -> None:
        # The check that redis-py makes before a command would take a message for its answer.
        self._connection.send_command(*command, check_health=False)

    def _messages(self, reply: list[Any]) -> list[Message]:
        match reply:
            case [b"message", channel, data]:
                return [Message(channel.decode(errors="backslashreplace"), data)]
            case [b"pmessage", _, channel, data]:
                name = channel.decode(errors="backslashreplace")
                # It came by its name as well.
                return [] if name in self._channels else [Message(name, data)]
        return []

    def _check_silence(self) -> None:
        """A half-open connection is silent for ever: ask, and give up without an answer."""
        silent = time.monotonic() - self._heard_at
        if silent > _SILENCE_SECONDS + SOCKET_TIMEOUT_SECONDS and self._asked:
            raise redis.TimeoutError(f"no answer for {SOCKET_TIMEOUT_SECONDS} s")
        if silent > _SILENCE_SECONDS and not self._asked:
            self._asked = True
            self._send("PING")
