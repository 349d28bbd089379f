"""How far behind its source a reader is, and how much WAL its slot holds back: sampled by a thread of its own."""

import threading
import time
from collections import deque
from dataclasses import dataclass

import structlog

from shared.database import Connection, translated
from shared.database.replication import VARIABLE
from shared.database.replication_slots import SlotFacts, connect_source, slot_facts, wal_place
from shared.errors import BargelineError
from shared.metrics import Sample
from shared.run import Runtime

log = structlog.get_logger()
#: Ends of the WAL, one a sample, that are remembered for telling how long ago it was where the reader is now.
_MOST_ENDS = 1_800


@dataclass
class Progress:
    """Where the reader is: all before ``lsn`` is in Redis, or concerns nobody; None while it reads no changes.

    ``commit_time`` is that of the transaction in hand.
    """

    lsn: int | None = None
    commit_time: float | None = None


class Behind:
    """Tells how old the oldest change is that was not carried yet."""

    def __init__(self) -> None:
        self._ends: deque[tuple[float, int]] = deque()

    def seconds(self, now: float, end: int, progress: Progress) -> float | None:
        """Seconds that the reader is behind the WAL, which ends here now; 0 where it has caught up."""
        place, committed = progress.lsn, progress.commit_time
        if place is None:
            self._ends.clear()
            return None
        if len(self._ends) < _MOST_ENDS:
            self._ends.append((now, end))
        while self._ends and self._ends[0][1] <= place:
            self._ends.popleft()
        if not self._ends:
            return 0.0
        # A transaction in hand may be older than what this process has seen of the WAL.
        since = self._ends[0][0]
        return max(now - (since if committed is None else min(since, committed)), 0.0)


def start_sampling(runtime: Runtime, url: str, slot: str, progress: Progress) -> None:
    """Sample the slot in a daemon thread, every SAMPLE_SECONDS."""

    def forever() -> None:
        behind = Behind()
        connection: Connection | None = None
        while True:
            try:
                with translated(url, VARIABLE):
                    if connection is None or connection.closed:
                        connection = connect_source(url, f"bargeline-{runtime.name}-sampler")
                    end, now = wal_place(connection)
                    found = slot_facts(connection, slot)
                lag = behind.seconds(now, end, progress)
                runtime.metrics.gauges.own = samples(runtime.pipeline.name, found, lag) if found else []
            except BargelineError:
                # What is unknown is absent; the main loop meets the same trouble and says so.
                runtime.metrics.gauges.own = []
            except Exception:
                runtime.metrics.gauges.own = []
                log.exception("cannot sample the slot", action="sample")
            time.sleep(runtime.settings.sample_seconds)

    threading.Thread(target=forever, name="slot-sampler", daemon=True).start()


def samples(pipeline: str, slot: SlotFacts, behind_seconds: float | None) -> list[Sample]:
    """The gauges of a slot; what the server does not say is left out."""
    labels = (pipeline, slot.name)
    values = {"cdc_behind_seconds": behind_seconds, "cdc_slot_retained_bytes": slot.retained_bytes}
    return [Sample(name, labels, value) for name, value in values.items() if value is not None]
