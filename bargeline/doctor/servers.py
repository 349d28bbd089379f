"""Versions, persistence, durability, eviction and memory: what the two servers are and promise."""

from bargeline.doctor.report import Finding, Verdict, unknown
from shared.database.server import DatabaseFacts
from shared.streams.server import ServerFacts

OLDEST = {"Redis": (7, 0), "Valkey": (7, 2)}
OLDEST_POSTGRES = 140_000
#: Writers begin to be refused at the limit; from here on there is a tenth of it left to react in.
MEMORY_RATIO_HIGH = 0.9
#: Without a limit the machine's memory is one, and a fork for a rewrite of the AOF may need a copy of a part of it.
SYSTEM_RATIO_HIGH = 0.75


def redis_version(facts: ServerFacts) -> Verdict:
    """Whether the server has the commands that the scripts need."""
    version = ".".join(map(str, facts.version))
    found = []
    if facts.version[:2] < OLDEST[facts.name]:
        found.append(
            Finding(
                "redis_too_old",
                "error",
                f"{facts.name} {version} is too old.",
                "The scripts need commands that Redis 7.0 and Valkey 7.2 brought; workers refuse to start.",
                "Upgrade to Redis 7.0 or Valkey 7.2, or newer.",
                {"version": version},
            )
        )
    if facts.role not in ("", "master"):
        found.append(
            Finding(
                "redis_replica",
                "error",
                f"REDIS_URL leads to a {facts.role}, which takes no writes.",
                "Workers hold what they have in hand until they can write.",
                "Point REDIS_URL to the primary.",
                {"role": facts.role},
            )
        )
    waitaof = {True: "with WAITAOF", False: "without WAITAOF", None: "WAITAOF unknown"}[facts.waitaof]
    return Verdict(f"{facts.name} {version} with streams, {waitaof}, {facts.replicas} replicas", found)


def redis_persistence(facts: ServerFacts) -> Verdict:
    """Whether what was accepted survives the end of the server's process."""
    found = []
    if facts.aof_enabled is None:
        found.append(unknown("appendonly", "INFO does not say whether appendonly is on.", "Ask whoever runs it."))
    elif not facts.aof_enabled:
        found.append(
            Finding(
                "appendonly_off",
                "error",
                "appendonly is no.",
                "Events that were accepted and not yet loaded are lost with the server's process.",
                "CONFIG SET appendonly yes, and the same in its configuration file.",
            )
        )
    elif facts.appendfsync is None:
        found.append(
            unknown(
                "appendfsync",
                "This user may not read appendfsync (CONFIG GET).",
                "See that it is everysec or always, then pass --ignore appendfsync_unknown; or let this user run "
                "CONFIG GET (it shows passwords too).",
            )
        )
    elif facts.appendfsync == "no":
        found.append(
            Finding(
                "appendfsync_no",
                "error",
                "appendfsync is no.",
                "When the machine ends, up to half a minute of accepted events is lost.",
                "CONFIG SET appendfsync everysec (or always), and the same in its configuration file.",
            )
        )
    found += [_failed_write(name, status) for name, status in facts.failed_writes.items()]
    return Verdict(f"appendonly yes, appendfsync {facts.appendfsync}, last writes to disk well", found)


def _failed_write(name: str, status: str) -> Finding:
    return Finding(
        "redis_write_failed",
        "error",
        f"The server's last write to disk failed: {name} is {status}.",
        "It refuses writes, or loses on its next end what is not on disk; most often the disk is full.",
        "Look into the server's log, and free space on its disk.",
        {name: status},
    )


def eviction(facts: ServerFacts) -> Verdict:
    """Whether the server may delete keys by itself."""
    if facts.maxmemory_policy is None:
        return Verdict("", [unknown("eviction", "INFO does not say the maxmemory-policy.", "Ask whoever runs it.")])
    if facts.maxmemory_policy != "noeviction":
        return Verdict(
            "",
            [
                Finding(
                    "eviction_policy",
                    "error",
                    f"maxmemory-policy is {facts.maxmemory_policy}.",
                    "At its limit the server deletes whole streams, ledgers and leases, without a word.",
                    "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file.",
                    {"maxmemory_policy": facts.maxmemory_policy, "maxmemory": facts.maxmemory},
                )
            ],
        )
    return Verdict("maxmemory-policy noeviction")


def head_room(facts: ServerFacts) -> Verdict:
    """Whether the server's memory is nearly used up."""
    used, limit, system = facts.used_memory, facts.maxmemory, facts.system_memory
    if used is None or (not limit and not system):
        return Verdict("", [unknown("memory", "INFO does not say how much memory there is.", "Ask whoever runs it.")])
    figures = {"used_memory": used, "maxmemory": limit or 0, "system_memory": system}
    if limit and used / limit >= MEMORY_RATIO_HIGH:
        what, why = f"{used / limit:.0%} of maxmemory is used.", "At the limit writes are refused, and ingest waits."
    elif not limit and system and used / system >= SYSTEM_RATIO_HIGH:
        what = f"There is no maxmemory, and {used / system:.0%} of the machine's memory is used."
        why = "The kernel ends the server when there is no more; a limit would make writers wait instead."
    else:
        of = f"{used / limit:.0%} of maxmemory" if limit else f"{used / (system or 1):.0%} of the machine's memory"
        return Verdict(f"{used / 2**20:,.0f} MiB used, {of}")
    fix = "See which stream grows (`bargeline reconcile`); lower high_water_events or the retention, or add memory."
    return Verdict("", [Finding("memory_low", "warning", what, why, fix, figures)])


def postgres_version(facts: DatabaseFacts) -> Verdict:
    """Version, encoding, and whether the database takes writes at all."""
    found = []
    version = f"{facts.version // 10_000}.{facts.version % 10_000}"
    if facts.version < OLDEST_POSTGRES:
        found.append(
            Finding(
                "postgres_too_old",
                "error",
                f"PostgreSQL {version} is too old.",
                "It is no longer looked after by its makers, nor tested with Bargeline.",
                "Upgrade to PostgreSQL 14 or newer.",
                {"version": version},
            )
        )
    if facts.encoding != "UTF8":
        found.append(
            Finding(
                "postgres_encoding",
                "error",
                f"Database {facts.database} has the encoding {facts.encoding}.",
                "Text that it cannot hold makes rows fail, and their events become dead letters.",
                "Create the database anew with ENCODING 'UTF8'.",
                {"encoding": facts.encoding},
            )
        )
    if facts.in_recovery or facts.read_only == "on":
        found.append(
            Finding(
                "postgres_read_only",
                "error",
                f"Database {facts.database} takes no writes ({'a standby' if facts.in_recovery else 'read only'}).",
                "The loader cannot load; what was accepted waits in Redis until the high-water mark.",
                "Point DATABASE_URL to the primary (target_session_attrs=read-write), or end the read-only mode.",
            )
        )
    return Verdict(f"PostgreSQL {version}, {facts.encoding}", found)


def postgres_durability(facts: DatabaseFacts) -> Verdict:
    """Whether what was committed stays committed."""
    given = {
        "fsync": (facts.fsync, "After a crash of the machine the database may be corrupt beyond repair."),
        "full_page_writes": (facts.full_page_writes, "A page half written in a crash of the machine stays corrupt."),
        "synchronous_commit": (
            facts.synchronous_commit,
            "A crash undoes commits of the last moments, and the events in them were already settled in Redis.",
        ),
    }
    found = [
        Finding(
            f"postgres_{name}_off",
            "error",
            f"PostgreSQL's {name} is off.",
            why,
            f"Set {name} = on (for this role: ALTER ROLE {facts.user} RESET {name})."
            if name == "synchronous_commit"
            else f"Set {name} = on in postgresql.conf and reload.",
        )
        for name, (value, why) in given.items()
        if value == "off"
    ]
    return Verdict(f"fsync, full_page_writes on, synchronous_commit {facts.synchronous_commit}", found)
