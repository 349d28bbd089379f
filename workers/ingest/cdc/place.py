"""How far a source was read: the checkpoint in Redis."""

from datetime import datetime

import msgspec


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A snapshot that is being read, one table after another.

    The rows of ``table``, the one in hand, carry ``lsn`` and ``time``: every change that they do not show is later than
    both. ``attempt`` tells processes apart that read it, and ``rows`` counts what this one has read. With ``again`` all
    tables have been told of before.
    """

    lsn: int
    time: datetime
    attempt: str
    again: bool = False
    table: str | None = None
    done: tuple[str, ...] = ()
    rows: int = 0


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in the WAL of the server ``system``.

    Every transaction that commits before ``lsn`` is in Redis, and of the one that commits at ``commit`` its
    first ``index`` events are. Of some tables, those of ``later``, only what commits from another place on counts: what
    was before that is in their snapshot.
    """

    system: str
    lsn: int
    commit: int = 0
    index: int = 0
    later: dict[str, int] = {}
    snapshot: Snapshot | None = None

    def encode(self) -> str:
        """Text of the checkpoint: equal places have equal text."""
        return msgspec.json.encode(self).decode()

    def reach(self, lsn: int) -> "Place":
        """The place when all that commits before ``lsn`` was read."""
        later = {name: first for name, first in self.later.items() if first > lsn}
        return Place(self.system, lsn, later=later)


def decode_place(text: str) -> Place | None:
    """The place that a text stands for, or None for an empty one."""
    return msgspec.json.decode(text, type=Place) if text else None
