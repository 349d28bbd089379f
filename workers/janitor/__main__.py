"""The janitor: reclaims, moves retries that are due, repairs, trims, forgets, prunes, and lists live workers.

Every sweep is idempotent, so two janitors do no harm.
"""

import time
from collections import deque

import msgspec
import structlog

from shared import run
from shared.database import Connection, application_name, reconnected, translated
from shared.database.load import prune
from shared.errors import TransientError
from shared.metrics import Sample
from shared.missing import settle_missing
from shared.run import Runtime, Step
from shared.serving import Document
from shared.streams import GroupMissing, ensure_group, keeper, live_workers
from shared.streams.inspect import entries, group_state, last_id, ledger
from shared.streams.lease import TTL_MS
from shared.topology import GROUP_OF_STAGE, STAGES
from workers.janitor import blockers, epochs

log = structlog.get_logger()
_MOST_RECLAIMED = 200
#: `XTRIM MINID =` takes no LIMIT: the work of one call is bounded by choosing the id.
_MOST_TRIMMED = 20_000
#: A consumer name that was just given up may come back at once (a restart).
_FORGET_AFTER_MS = 6 * TTL_MS
#: A connection that hangs takes 5 s to fail: entries are to be reclaimed meanwhile.
_DATABASE_REST_SECONDS = 10


class Janitor:
    """One pass after another over both stages."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._client = runtime.client
        self._url = runtime.settings.require_database_url()
        self._connection: Connection | None = None
        self._repaired_at = 0.0
        self._database_rests_until = 0.0
        #: For each stage, how many events were added up to which id, to tell where the retention ends.
        self._history: dict[str, deque[tuple[int, str]]] = {stage: deque(maxlen=10_000) for stage in STAGES}
        self._blocked: dict[str, tuple[str, float]] = {}
        self.targets = b"[]"

    def step(self) -> None:
        """One sweep, then a pause."""
        self._runtime.hold(self._sweep)
        self._runtime.stop.wait(self._runtime.settings.janitor_sweep_seconds)

    def _sweep(self) -> None:
        self.targets = self._http_sd()
        self._move_due_retries()
        repairing = time.monotonic() - self._repaired_at >= self._runtime.settings.janitor_repair_seconds
        for stage in STAGES:
            try:
                self._reclaim(stage)
                self._trim(stage)
                if repairing:
                    self._repair(stage)
                    self._forget(stage)
            except GroupMissing:
                self._make_group(stage)
        self._runtime.metrics.gauges.own = self._blocked_samples()
        self._keep_database(pruning=repairing)
        if repairing:
            self._repaired_at = time.monotonic()

    def _http_sd(self) -> bytes:
        """Prometheus' http_sd format: the live workers of every kind.

        The name is not called `consumer`: the metrics have such a label of their own. The pipeline tells workers of
        the same name apart.
        """
        pipeline = self._runtime.pipeline.name
        groups = [
            {
                "targets": [lease.metrics],
                "labels": {"pipeline": pipeline, "kind": lease.kind, "worker": lease.name, "host": lease.host},
            }
            for lease in live_workers(self._client)
        ]
        return msgspec.json.encode(groups)

    def _move_due_retries(self) -> None:
        now_ms = keeper.server_ms(self._client)
        due = keeper.due_retries(self._client, now_ms)
        if due:
            moved = keeper.move(self._client, now_ms, due)
            log.info("moved retried events that were due", action="retry", events=moved)

    def _reclaim(self, stage: str) -> None:
        idle_ms = int(self._runtime.settings.janitor_foreign_idle_seconds * 1000)
        while True:
            swept = keeper.reclaim(self._client, stage, idle_ms, _MOST_RECLAIMED)
            self._note(stage, swept, "reclaimed entries of consumers that are gone", "reclaim")
            if swept.moved < _MOST_RECLAIMED:
                return
            self._runtime.beat()

    def _repair(self, stage: str) -> None:
        """Young entries are left alone: they are about to be read or settled."""
        settled_soon_ms = keeper.server_ms(self._client) - TTL_MS
        for chunk in keeper.open_ids(self._client, stage):
            old = [entry_id for entry_id in chunk if keeper.id_order(entry_id)[0] < settled_soon_ms]
            if old:
                swept = keeper.repair(self._client, stage, old)
                self._note(stage, swept, "repaired entries that no consumer held", "repair")
                if swept.moved:
                    self._runtime.metrics.incident("repaired", swept.moved)
            self._runtime.beat()
        self._repair_foreign(stage)

    def _repair_foreign(self, stage: str) -> None:
        found = keeper.repair_foreign(self._client, stage)
        self._note_repaired(stage, found.moved)
        self._runtime.note_lost(stage, "foreign", found.lost)
        if found.forgotten:
            self._runtime.metrics.incident("stream_deleted")
            log.error("a stream was deleted and made anew", action="repair", stage=stage, entries=found.forgotten)

    def _note_repaired(self, stage: str, moved: int) -> None:
        self._note(stage, keeper.Swept(moved, []), "repaired foreign entries that no consumer held", "repair")

    def _note(self, stage: str, swept: keeper.Swept, text: str, action: str) -> None:
        if swept.moved:
            self._runtime.metrics.reclaimed(stage, swept.moved)
            log.warning(text, action=action, stage=stage, entries=swept.moved)
        for entry_id in swept.missing:
            self._missing(stage, entry_id)

    def _missing(self, stage: str, entry_id: str) -> None:
        """Somebody deleted an unsettled entry. The load ledger may know that it was committed."""
        if stage == "clean":
            events = settle_missing(self._client, self._connected(), self._url, entry_id)
        else:
            events = keeper.lost(self._client, stage, entry_id)
        self._runtime.note_lost(stage, entry_id, events)

    def _trim(self, stage: str) -> None:
        stream = self._client.topology.stream(stage)
        limit = self._retention_limit(stage)
        first = entries(self._client, stream, "-", 1)
        if not first or keeper.id_order(first[0][0]) >= keeper.id_order(limit):
            self._blocked.pop(stage, None)
            return
        limit = self._bounded(stream, first[0][0], limit)
        smallest = keeper.smallest_open(self._client, stage) or limit
        trimmed = keeper.trim(self._client, stage, min(limit, smallest, key=keeper.id_order))
        if trimmed.blocker == GROUP_OF_STAGE[stage]:
            # Ours only lags; unless it is a foreign entry that nobody holds.
            self._note_repaired(stage, keeper.repair_foreign_from(self._client, stage, trimmed.needed))
        self._note_blocker(stage, trimmed)

    def _retention_limit(self, stage: str) -> str:
        """Id below which nothing is kept for replay: older than the retention, or more than it keeps."""
        limits = self._runtime.pipeline.file.pipeline
        now_ms = keeper.server_ms(self._client)
        added = ledger(self._client).get(f"{stage}.added", 0)
        stream = self._client.topology.stream(stage)
        history = self._history[stage]
        if history and history[-1][0] > added:
            history.clear()  # A new epoch counts from 0 again.
        if not history or history[-1][0] < added:
            history.append((added, last_id(self._client, stream)))
        # The newest point beyond the retention stays: what could not be trimmed now is trimmed later.
        while len(history) > 1 and added - history[1][0] > limits.retention_events:
            history.popleft()
        by_events = history[0][1] if added - history[0][0] > limits.retention_events else "0-0"
        by_time = f"{now_ms - int(limits.retention_seconds * 1000)}-0"
        return max(by_events, by_time, key=keeper.id_order)

    def _bounded(self, stream: str, oldest: str, limit: str) -> str:
        """Bring the limit closer to the oldest entry when a call would trim too many."""
        length = int(self._client.call("XLEN", stream))
        if length <= _MOST_TRIMMED:
            return limit
        oldest_ms, limit_ms = keeper.id_order(oldest)[0], keeper.id_order(limit)[0]
        return f"{oldest_ms + max((limit_ms - oldest_ms) * _MOST_TRIMMED // length, 1)}-0"

    def _note_blocker(self, stage: str, trimmed: keeper.Trimmed) -> None:
        """A foreign group that keeps the stream from being trimmed is named; ours only lags."""
        if not trimmed.blocker or trimmed.blocker == GROUP_OF_STAGE[stage]:
            self._blocked.pop(stage, None)
        elif stage not in self._blocked or self._blocked[stage][0] != trimmed.blocker:
            self._blocked[stage] = (trimmed.blocker, time.monotonic())
            stream = self._client.topology.stream(stage)
            log.warning(
                "a group blocks trimming",
                action="trim",
                group=trimmed.blocker,
                stream=stream,
                needs=trimmed.needed,
            )

    def _blocked_samples(self) -> list[Sample]:
        pipeline, now = self._runtime.pipeline.name, time.monotonic()
        return [
            Sample("trim_blocked_seconds", (pipeline, group), now - since) for group, since in self._blocked.values()
        ]

    def _forget(self, stage: str) -> None:
        for consumer in group_state(self._client, stage).consumers:
            dead = consumer.state == "dead" and consumer.pending_entries == 0
            if dead and keeper.delete_consumer(self._client, stage, consumer.name, _FORGET_AFTER_MS):
                log.info("forgot a consumer that is gone", action="forget", stage=stage, consumer=consumer.name)

    def _make_group(self, stage: str) -> None:
        has_worked = ledger(self._client).get(f"{stage}.settled", 0) > 0
        made = ensure_group(self._client, stage, GROUP_OF_STAGE[stage])
        # On a fresh server nothing is missing: somebody has to be the first.
        if made and has_worked:
            self._runtime.metrics.incident("group_missing")
            log.warning("a group was missing and was made from the beginning", action="group", stage=stage)

    def _keep_database(self, *, pruning: bool) -> None:
        """What needs PostgreSQL. Without it Redis is kept in order all the same, and this is tried again later."""
        if time.monotonic() < self._database_rests_until:
            return
        try:
            connection = self._connected()
            epochs.keep(self._runtime, connection, self._url)
            blockers.terminate(self._runtime, connection, self._url)
            if pruning:
                self._prune(connection)
        except TransientError as error:
            self._database_rests_until = time.monotonic() + _DATABASE_REST_SECONDS
            log.warning("cannot do what needs PostgreSQL now", action="database", reason=str(error))

    def _prune(self, connection: Connection) -> None:
        """Drop load-ledger rows of entries that Redis can no longer deliver and that are settled."""
        stream = self._client.topology.stream("clean")
        oldest = entries(self._client, stream, "-", 1)
        deliverable = oldest[0][0] if oldest else last_id(self._client, stream)
        # An unsettled entry whose body somebody deleted is settled by its row.
        unsettled = keeper.smallest_open(self._client, "clean") or deliverable
        needed = min(deliverable, unsettled, key=keeper.id_order)
        with translated(self._url):
            prune(connection, stream, needed)

    def _connected(self) -> Connection:
        name = application_name(self._runtime.instance, self._runtime.pipeline.name)
        self._connection = reconnected(self._connection, self._url, name)
        return self._connection


def main() -> None:
    """Run the janitor; ``/targets`` is its list of live workers."""
    janitors: list[Janitor] = []

    def start(runtime: Runtime) -> Step:
        janitors.append(Janitor(runtime))
        return janitors[0].step

    def documents(_runtime: Runtime) -> dict[str, Document]:
        return {"/targets": lambda: janitors[0].targets if janitors else b"[]"}

    run.main("janitor", start, documents, sampled_stages=STAGES)


if __name__ == "__main__":
    main()
