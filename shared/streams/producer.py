"""Adding batches: the batch, its dead letters and the source's checkpoint in one script."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.entries import Fields
from shared.streams.client import Client, pairs

#: Fields that one command asks for.
_MOST_FIELDS = 1_000


@dataclass(frozen=True)
class Added:
    """The batch is in the stream; ``entry_id`` is empty where it held only dead letters or blank lines.

    ``in_flight`` is how many events the stage holds now, with those that wait for another attempt.
    """

    entry_id: str
    in_flight: int


@dataclass(frozen=True)
class Stale:
    """The checkpoint is not what was expected: somebody else reads this source, or a lost reply was sent again."""

    checkpoint: str


@dataclass(frozen=True)
class Full:
    """The stage holds as many events as the pipeline allows; nothing was written."""

    in_flight: int


def add(
    client: Client,
    *,
    high_water: int,
    source: str,
    expected: str,
    new: str,
    events: int,
    fields: Fields,
    dead: Sequence[Fields] = (),
) -> Added | Stale | Full:
    """Add a batch and move the checkpoint of its source from ``expected`` to ``new``, or do nothing.

    An empty ``expected`` means that the source has no checkpoint yet.
    """
    arguments = [high_water, source, expected, new, events, *flat(fields), len(dead)]
    for letter in dead:
        arguments += flat(letter)
    return added(client.script("add", *arguments))


def added(reply: list[Any]) -> Added | Stale | Full:
    """What the scripts that add say."""
    match reply[0]:
        case b"OK":
            return Added(reply[1].decode(), int(reply[2]))
        case b"STALE":
            return Stale(reply[1].decode())
        case _:
            return Full(int(reply[1]))


def flat(items: Sequence[object]) -> list[object]:
    """A list as a script reads it: its length, then its items."""
    return [len(items), *items]


def checkpoint(client: Client, source: str) -> str:
    """The stored checkpoint of a source, or an empty string."""
    found = client.call("HGET", client.topology.checkpoint, source)
    return found.decode() if found else ""


def stored_checkpoints(client: Client, sources: Sequence[str]) -> list[str]:
    """The stored checkpoint of each source, an empty string where there is none."""
    found: list[str] = []
    for begin in range(0, len(sources), _MOST_FIELDS):
        page = client.call("HMGET", client.topology.checkpoint, *sources[begin : begin + _MOST_FIELDS])
        found += [value.decode() if value else "" for value in page]
    return found


def all_checkpoints(client: Client) -> dict[str, str]:
    """The stored checkpoint of every source."""
    found = pairs(client.call("HGETALL", client.topology.checkpoint))
    return {name.decode(errors="replace"): value.decode() for name, value in found.items()}
