"""Clean entries whose body somebody deleted: the load ledger may know that they were committed."""

from shared.database import Connection, translated
from shared.database.load import recall_id
from shared.entries import dead_letter
from shared.errors import InvalidEvent
from shared.streams import Client, Loaded, settle_clean
from shared.streams.keeper import lost
from shared.topology import STAGES


def settle_missing(client: Client, connection: Connection, url: str, entry_id: str) -> int:
    """Settle a clean entry whose body is gone; returns the number of events lost."""
    stage = STAGES[-1]
    stream = client.topology.stream(stage)
    with translated(url):
        recorded = recall_id(connection, stream, entry_id)
    if recorded is None:
        return lost(client, stage, entry_id)
    dead = [
        dead_letter(
            "loader",
            InvalidEvent(row.message, row.reason),
            raw=b"",
            origin={"stream": stream, "address": f"{entry_id}/{row.index}", "source": None},
            consumer="",
        )
        for row in recorded.dead
    ]
    events = recorded.loaded + recorded.duplicates + recorded.unrouted + len(dead)
    settle_clean(
        client,
        [Loaded(entry_id, False, events, recorded.loaded, recorded.duplicates, recorded.unrouted, dead)],
    )
    return 0
