"""Every check, made one after another: what one server refuses, or one that is away, does not stop the others."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from bargeline.doctor import access, books, clocks, servers, source, streams
from bargeline.doctor.report import Check, Finding, Report, Verdict, conclude, unknown
from bargeline.doctor.source import CdcSource, SourceFacts, read_source
from bargeline.verdicts import group_verdicts
from shared.accounting import balance
from shared.database import Connection, reconnected, translated
from shared.database import server as database_server
from shared.database.tables import problems
from shared.errors import BargelineError, TransientError
from shared.pipeline import Pipeline
from shared.streams import Client, live_workers
from shared.streams import server as redis_server
from shared.streams.breaker import open_because
from shared.streams.diagnose import Stream, Stuck, letters, stream, stuck, was_leased
from shared.streams.inspect import GroupState, figures, group_state
from shared.streams.keeper import due_retries, id_order, server_ms, smallest_open
from shared.topology import GROUP_OF_STAGE, STAGES, Topology

if TYPE_CHECKING:
    from shared.accounting import Figures


@dataclass
class Patient:
    """What is examined. Facts that several checks need are read once."""

    pipeline: Pipeline
    client: Client
    database_url: str
    #: The users of the two URLs are only to look.
    reader: bool = False
    foreign_idle_seconds: float = 300
    #: INGEST_DURABILITY: what ingest waits for needs rights of its own.
    durability: str = "memory"
    #: What INGEST_SOURCE=cdc reads, where it is set.
    cdc: CdcSource | None = None
    failures: dict[str, BargelineError] = field(default_factory=dict)
    _connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection to PostgreSQL."""
        self._connection = reconnected(self._connection, self.database_url, "bargeline-doctor")
        return self._connection

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        if self._connection is not None:
            self._connection.close()

    @cached_property
    def redis(self) -> redis_server.ServerFacts:
        """Facts of Redis or Valkey."""
        return redis_server.read_facts(self.client)

    @cached_property
    def postgres(self) -> database_server.DatabaseFacts:
        """Facts of PostgreSQL."""
        return database_server.read_facts(self.connection)

    @cached_property
    def source(self) -> SourceFacts:
        """Facts of the source database."""
        assert self.cdc is not None
        return read_source(self.cdc)

    @cached_property
    def streams(self) -> list[Stream]:
        """The streams that there are."""
        return [found for stage in STAGES if (found := stream(self.client, stage)) is not None]

    @cached_property
    def figures(self) -> "Figures":
        """What the law is made of."""
        return figures(self.client)

    @cached_property
    def groups(self) -> list[GroupState]:
        """The expected groups that there are."""
        present = {(one.stage, group.name) for one in self.streams for group in one.groups}
        return [group_state(self.client, stage) for stage, group in GROUP_OF_STAGE.items() if (stage, group) in present]


def examine(patient: Patient) -> Report:
    """Make every check."""
    findings: list[Finding] = []
    checks: list[Check] = []
    for server, name, check in (*CHECKS, *(SOURCE_CHECKS if patient.cdc else ())):
        verdict = _made(patient, server, name, check)
        findings += verdict.findings
        checks.append(conclude(name, verdict) if verdict.findings or verdict.good else Check(name, "unknown", "away"))
    return Report(patient.pipeline.name, findings, checks)


def _made(patient: Patient, server: str, name: str, check: Callable[[Patient], Verdict]) -> Verdict:
    """Make one check; a server that is away is one finding, however many checks it is needed for."""
    if server in patient.failures:
        return Verdict("")
    try:
        with translated(patient.database_url):
            return check(patient)
    except TransientError as error:
        return _away(patient, server, error)
    except BargelineError as error:
        if name.endswith("connection"):
            return _away(patient, server, error)
        return Verdict("", [unknown(name.replace(" ", "_"), f"{name}: {error}", "Grant the right that is missing.")])


def _away(patient: Patient, server: str, error: BargelineError) -> Verdict:
    patient.failures[server] = error
    away = isinstance(error, TransientError)
    variable = {"redis": "REDIS_URL", "postgres": "DATABASE_URL", "source": "INGEST_CDC_URL"}[server]
    return Verdict(
        "",
        [
            Finding(
                f"{server}_unreachable" if away else f"{server}_refused",
                "error",
                str(error),
                "Workers hold what they have in hand until it answers." if away else "Workers end with exit code 2.",
                f"Start it (`bargeline up` starts embedded servers), or correct {variable}."
                if away
                else f"Correct {variable}.",
            )
        ],
    )


def _redis_connection(patient: Patient) -> Verdict:
    patient.client.call("PING")
    return Verdict("answers")


def _postgres_connection(patient: Patient) -> Verdict:
    patient.connection.execute("SELECT 1")
    return Verdict("answers")


def _redis_rights(patient: Patient) -> Verdict:
    names = patient.client.topology
    commands = (
        redis_server.reader_commands(names)
        if patient.reader
        else redis_server.worker_commands(names, patient.durability)
    )
    return access.redis_rights(redis_server.rights(patient.client, commands), reader=patient.reader)


def _postgres_rights(patient: Patient) -> Verdict:
    missing = database_server.missing_rights(patient.connection, patient.pipeline, reader=patient.reader)
    return access.postgres_rights(patient.postgres.user, missing, reader=patient.reader)


def _migrations(patient: Patient) -> Verdict:
    return access.migrations(database_server.migrations(patient.connection, patient.pipeline))


def _tables(patient: Patient) -> Verdict:
    return access.tables(problems(patient.connection, patient.pipeline), patient.pipeline.file.tables)


def _trimming(patient: Patient) -> Verdict:
    limits = patient.pipeline.file.pipeline
    kept_since = f"{server_ms(patient.client) - int(limits.retention_seconds * 1000)}-0"
    counters = patient.figures.counters
    found: list[Finding] = []
    for one in patient.streams:
        unsettled = smallest_open(patient.client, one.stage) or kept_since
        ours = [group.needed_id for group in one.groups if group.name == GROUP_OF_STAGE[one.stage]]
        limit = min([kept_since, unsettled, *ours], key=id_order)
        per_entry = counters.get(f"{one.stage}.added", 0) / max(counters.get(f"{one.stage}.entries", 0), 1)
        found += streams.trim_blockers(one, limit, max(per_entry, 1), limits.retention_events)
    return streams.blocked_verdict(found)


def _workers(patient: Patient) -> Verdict:
    live = {lease.kind for lease in live_workers(patient.client)}
    work = {one.group: f"{one.unsettled_events:,} events" for one in patient.groups if one.unsettled_events}
    if patient.figures.retry:
        work["janitor"] = f"{patient.figures.retry:,} retried events"
    elif live - {"janitor"}:
        work["janitor"] = "streams to trim, consumers to watch"
    return streams.missing_workers(live, work)


def _consumers(patient: Patient) -> Verdict:
    found: list[Finding] = []
    count = 0
    for group in patient.groups:
        for consumer in group.consumers:
            count += 1
            if not consumer.pending_entries:
                continue
            limit, finding = _patience(patient, group.stage, consumer.name, consumer.state)
            held = stuck(patient.client, group.stage, consumer.name, int(limit * 1000))
            if held is not None:
                found.append(finding(group.stage, held))
    return Verdict(f"{count} consumers, none holds what it should not", found)


def _patience(patient: Patient, stage: str, name: str, state: str) -> tuple[float, Callable[[str, Stuck], Finding]]:
    """How long a consumer may hold an entry, and what it is called when it does for longer."""
    if state == "pool":
        return streams.LIVE_HOLDS_SECONDS, streams.unclaimed
    if state != "dead":
        return streams.LIVE_HOLDS_SECONDS, streams.slow_consumer
    if was_leased(patient.client, stage, name):
        return streams.DEAD_HOLDS_SECONDS, streams.dead_consumer
    # The janitor lets a foreign consumer be for so long, by its own setting.
    return streams.DEAD_HOLDS_SECONDS + patient.foreign_idle_seconds, streams.dead_consumer


def _progress(patient: Patient) -> Verdict:
    return streams.progress(group_verdicts(patient.client))


def _dead_letters(patient: Patient) -> Verdict:
    return books.dead_letters(letters(patient.client))


def _retries(patient: Patient) -> Verdict:
    overdue = due_retries(patient.client, server_ms(patient.client) - books.RETRY_OVERDUE_SECONDS * 1000)
    return books.retries(patient.figures.retry, len(overdue))


def _ledger(patient: Patient) -> Verdict:
    return books.ledger(balance(patient.pipeline.name, patient.figures))


def _breakers(patient: Patient) -> Verdict:
    why = {group: open_because(patient.client, stage) for stage, group in GROUP_OF_STAGE.items()}
    return books.breakers({kind: text for kind, text in why.items() if text is not None})


def _high_water(patient: Patient) -> Verdict:
    unsettled = {"raw": patient.figures.open_raw, "clean": patient.figures.open_clean}
    unsettled |= {one.stage: one.unsettled_events for one in patient.groups}
    return books.high_water(unsettled, patient.pipeline.file.pipeline.high_water_events)


def _redis_clock(patient: Patient) -> Verdict:
    return clocks.skew("Redis", {"Redis": redis_server.clock(patient.client)})


def _postgres_clock(patient: Patient) -> Verdict:
    there = redis_server.read_clock(lambda: database_server.read_clock(patient.connection))
    both = {"PostgreSQL": there}
    if "redis" not in patient.failures:
        both["Redis"] = redis_server.clock(patient.client)
    return clocks.skew("PostgreSQL", both)


#: The server that it needs, its name, and the check. The first of each server says whether it answers at all.
CHECKS: tuple[tuple[str, str, Callable[[Patient], Verdict]], ...] = (
    ("redis", "redis connection", _redis_connection),
    ("redis", "redis version", lambda patient: servers.redis_version(patient.redis)),
    ("redis", "redis persistence", lambda patient: servers.redis_persistence(patient.redis)),
    ("redis", "eviction", lambda patient: servers.eviction(patient.redis)),
    ("redis", "redis memory", lambda patient: servers.head_room(patient.redis)),
    ("redis", "redis rights", _redis_rights),
    ("redis", "redis clock", _redis_clock),
    ("redis", "groups", lambda patient: streams.missing_groups(patient.streams)),
    ("redis", "trimming", _trimming),
    ("redis", "workers", _workers),
    ("redis", "consumers", _consumers),
    ("redis", "progress", _progress),
    ("redis", "breakers", _breakers),
    ("redis", "high water", _high_water),
    ("redis", "retries", _retries),
    ("redis", "dead letters", _dead_letters),
    ("redis", "ledger", _ledger),
    ("postgres", "postgres connection", _postgres_connection),
    ("postgres", "postgres version", lambda patient: servers.postgres_version(patient.postgres)),
    ("postgres", "postgres durability", lambda patient: servers.postgres_durability(patient.postgres)),
    ("postgres", "postgres rights", _postgres_rights),
    ("postgres", "migrations", _migrations),
    ("postgres", "tables", _tables),
    ("postgres", "clocks", _postgres_clock),
)

#: The same for the database that changes are read from.
SOURCE_CHECKS: tuple[tuple[str, str, Callable[[Patient], Verdict]], ...] = (
    ("source", "source connection", lambda patient: Verdict(f"answers, database {patient.source.server.database}")),
    ("source", "source server", lambda patient: source.decoding(patient.source)),
    ("source", "source publication", lambda patient: source.publication(patient.source)),
    ("source", "source slot", lambda patient: source.slot(patient.source)),
)


def patient_of(
    pipeline: Pipeline,
    redis_url: str,
    database_url: str,
    *,
    reader: bool = False,
    foreign_idle_seconds: float = 300,
    durability: str = "memory",
    cdc: CdcSource | None = None,
) -> Patient:
    """A pipeline and its servers, not asked anything yet."""
    client = Client(redis_url, Topology(pipeline.name), "bargeline-doctor")
    return Patient(pipeline, client, database_url, reader, foreign_idle_seconds, durability, cdc)
