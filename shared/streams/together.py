"""Adding several batches at once: all of them in one script, so that none is in without the others."""

from collections.abc import Sequence

from shared.entries import Fields
from shared.streams.client import Client
from shared.streams.producer import Added, Full, Stale, added, flat


def add_all(
    client: Client,
    *,
    high_water: int,
    source: str,
    expected: str,
    new: str,
    batches: Sequence[tuple[int, Fields]],
) -> Added | Stale | Full:
    """Add batches (each its number of events, and its fields) and move the checkpoint of their source.

    What comes back is what ``add`` gives, without an entry id.
    """
    arguments = [high_water, source, expected, new, *flat([count for count, _ in batches]), len(batches)]
    for _, fields in batches:
        arguments += flat(fields)
    return added(client.script("add_all", *arguments))


def forget(client: Client, source: str) -> None:
    """Delete the checkpoint of a source that needs it no more."""
    client.call("HDEL", client.topology.checkpoint, source)
