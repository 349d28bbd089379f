"""Rights of the two users, migrations, and whether the tables can take the pipeline's rows."""

from collections.abc import Sequence

from bargeline.doctor.report import Finding, Verdict, unknown
from shared.database.server import Migrations
from shared.database.tables import Problem
from shared.streams.server import Rights


def redis_rights(rights: Rights, *, reader: bool) -> Verdict:
    """Whether the user of REDIS_URL may run what is needed."""
    if rights.refused is not None:
        return Verdict(
            "",
            [
                unknown(
                    "redis_rights",
                    f"{rights.user} may not ask for its own rights: {rights.refused}",
                    "Grant it +acl|whoami +acl|dryrun, or compare its rights with deploy/redis-users.acl.",
                )
            ],
        )
    if rights.denied:
        return Verdict(
            "",
            [
                Finding(
                    "redis_rights",
                    "error",
                    f"Redis refuses user {rights.user} {len(rights.denied)} commands that {_who(reader)}: "
                    f"{'; '.join(rights.denied)}.",
                    "A worker ends with exit code 2 when it needs one of them." if not reader else "Commands fail.",
                    "Grant them; deploy/redis-users.acl has users with the least rights."
                    + ("" if reader else " Is this user only to look? Then pass --reader."),
                    {"user": rights.user, "denied": rights.denied},
                )
            ],
        )
    return Verdict(f"user {rights.user} may run all that {_who(reader)}")


def postgres_rights(user: str, missing: Sequence[str], *, reader: bool) -> Verdict:
    """Whether the role of DATABASE_URL may do what is needed."""
    if missing:
        return Verdict(
            "",
            [
                Finding(
                    "postgres_rights",
                    "error",
                    f"Role {user} lacks rights that {_who(reader)}: {'; '.join(missing)}.",
                    "The loader ends with exit code 2 when it needs one of them." if not reader else "Commands fail.",
                    "GRANT them; deploy/postgresql-roles.sql has roles with the least rights."
                    + ("" if reader else " Is this role only to look? Then pass --reader."),
                    {"role": user, "missing": list(missing)},
                )
            ],
        )
    return Verdict(f"role {user} may do all that {_who(reader)}")


def _who(reader: bool) -> str:
    return "looking needs" if reader else "workers need"


def migrations(found: Migrations) -> Verdict:
    """Whether every migration was applied, unchanged."""
    findings = []
    if found.missing:
        findings.append(
            Finding(
                "migrations_missing",
                "error",
                f"{len(found.missing)} migrations were not applied: {', '.join(found.missing)}.",
                "Tables or columns that the workers write may be missing.",
                "Run `bargeline migrate`.",
                {"missing": found.missing},
            )
        )
    if found.changed:
        findings.append(
            Finding(
                "migrations_changed",
                "error",
                f"{len(found.changed)} migrations were changed after they were applied: {', '.join(found.changed)}.",
                "The database is not what the files say, and `bargeline migrate` refuses to go on.",
                "Restore the files, and put the change into a new one.",
                {"changed": found.changed},
            )
        )
    return Verdict(f"all {found.applied} applied", findings)


def tables(problems: Sequence[Problem], names: Sequence[str]) -> Verdict:
    """Whether the tables can take the pipeline's rows."""
    findings = [
        Finding(
            one.code,
            "warning" if one.code == "table_unlogged" else "error",
            one.what,
            one.why,
            one.fix,
            {"table": one.table},
        )
        for one in problems
    ]
    return Verdict(f"{', '.join(names)} match the pipeline", findings)
