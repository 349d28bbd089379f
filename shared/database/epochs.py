"""The copy of the ledger: what was last seen of each epoch, kept where a flush of Redis does not reach it."""

from datetime import datetime
from typing import Any

import msgspec

from shared.accounting import Figures
from shared.database.connection import Connection

#: An epoch that no janitor has seen for so long has ended. Longer than a janitor's pause, and a second fleet of
#: the same name that shares this database keeps its own epoch alive.
UNSEEN_SECONDS = 10

COPY = """
INSERT INTO epochs (pipeline, epoch, figures) VALUES (%(pipeline)s, %(epoch)s, %(figures)s)
ON CONFLICT (pipeline, epoch) DO UPDATE SET figures = EXCLUDED.figures, last_seen = now(), ended_at = NULL
"""

LAST = "SELECT figures FROM epochs WHERE pipeline = %(pipeline)s AND epoch = %(epoch)s"

END = """
UPDATE epochs SET ended_at = last_seen
WHERE pipeline = %(pipeline)s AND epoch IS DISTINCT FROM %(epoch)s AND ended_at IS NULL
  AND last_seen < now() - %(unseen)s * interval '1 second'
RETURNING epoch, figures, last_seen
"""

ENDED = """
SELECT epoch, figures, last_seen FROM epochs
WHERE pipeline = %(pipeline)s AND epoch IS DISTINCT FROM %(epoch)s
ORDER BY last_seen DESC LIMIT %(most)s
"""


class EndedEpoch(msgspec.Struct, frozen=True):
    """What was last seen of an epoch that ended, and when that was."""

    epoch: str
    figures: Figures
    last_seen: datetime


def copy(connection: Connection, pipeline: str, figures: Figures) -> None:
    """Keep the figures of the current epoch."""
    arguments = {"pipeline": pipeline, "epoch": figures.epoch, "figures": msgspec.json.encode(figures).decode()}
    connection.execute(COPY, arguments)


def last_copy(connection: Connection, pipeline: str, epoch: str | None) -> Figures | None:
    """What was last seen of an epoch."""
    rows: list[Any] = connection.execute(LAST, {"pipeline": pipeline, "epoch": epoch}).fetchall()
    return msgspec.convert(rows[0][0], Figures) if rows else None


def end_unseen(connection: Connection, pipeline: str, current: str | None) -> list[EndedEpoch]:
    """Mark epochs that nobody sees any more as ended; returns those that this call marked."""
    arguments = {"pipeline": pipeline, "epoch": current, "unseen": UNSEEN_SECONDS}
    return _epochs(connection.execute(END, arguments).fetchall())


def ended(connection: Connection, pipeline: str, current: str | None, most: int) -> list[EndedEpoch]:
    """The newest epochs before the current one, newest first."""
    return _epochs(connection.execute(ENDED, {"pipeline": pipeline, "epoch": current, "most": most}).fetchall())


def _epochs(rows: list[Any]) -> list[EndedEpoch]:
    return [EndedEpoch(epoch, msgspec.convert(figures, Figures), seen) for epoch, figures, seen in rows]
