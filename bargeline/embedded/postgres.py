"""An embedded PostgreSQL: its data directory, its command line and its one user.

It listens on the loopback address only, with a generated password, and has no Unix socket: the path of
a socket is limited to 107 bytes and its access to file permissions.
"""

import os
import pwd
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

from bargeline.embedded.accounts import PLAIN_ENVIRONMENT, Account, give, run_as
from bargeline.embedded.ports import LOOPBACK
from bargeline.embedded.stamp import Stamp, check_stamp, read_stamp, write_stamp
from bargeline.embedded.wheels import Program
from shared.errors import BargelineError, ConfigurationError

NAME = "bargeline"
#: LC_ALL keeps the macOS libraries from starting a thread, which the postmaster refuses.
ENVIRONMENT = {"LC_ALL": "C"}
INITDB_OPTIONS = (
    *("--username", NAME, "--encoding", "UTF8", "--locale", "C"),
    # C.UTF-8 sorts by code point on every platform, and upper() knows more than ASCII.
    *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
    *("--auth-local", "trust", "--auth-host", "scram-sha-256"),
)


def new_password() -> str:
    """A password that needs no escaping in SQL, URLs or shells."""
    return secrets.token_urlsafe(24)


def prepare_data(data: Path, program: Program, account: Account | None, password: str, *, sync: bool = True) -> None:
    """Create the database cluster, or check that this PostgreSQL can read what is there.

    The cluster appears under its name only when it is complete, so a kill in the middle leaves
    nothing that a later start could mistake for one.
    """
    stamp = Stamp("PostgreSQL", program.version)
    if data.exists():
        _check(data, stamp)
        return
    _require_named_user()
    partial = data.with_name(f".{data.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    give(account, partial)
    fast = () if sync else ("--no-sync",)
    _must_succeed(run_as(account, [_tool(program, "initdb"), "-D", partial, *INITDB_OPTIONS, *fast]), "initdb", partial)
    with (partial / "postgresql.conf").open("a") as file:
        file.write("\n# Logical decoding (INGEST_SOURCE=cdc) needs it.\nwal_level = logical\n")
    _single_user(partial, program, account, f"CREATE DATABASE {NAME};\n{_set_password(password)}")
    write_stamp(partial, stamp)
    partial.rename(data)


def reset_password(data: Path, program: Program, account: Account | None, password: str) -> None:
    """Give an existing cluster, not running now, a new password."""
    _single_user(data, program, account, _set_password(password))


def command(program: Program, data: Path, port: int, settings: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The server's command line; everything else is in postgresql.conf or in ``settings``."""
    ours = {"listen_addresses": LOOPBACK, "port": str(port), "unix_socket_directories": ""}
    options = (part for name, value in {**ours, **(settings or {})}.items() for part in ("-c", f"{name}={value}"))
    return (str(program.path), "-D", str(data), *options)


def url(port: int, password: str) -> str:
    """The URL for psycopg and psql."""
    return f"postgresql://{NAME}:{password}@{LOOPBACK}:{port}/{NAME}"


def client(program: Program, name: str) -> Path:
    """A client program, such as ``psql``, beside the server."""
    return _tool(program, name)


def _check(data: Path, stamp: Stamp) -> None:
    version_file = data / "PG_VERSION"
    if read_stamp(data) is None and version_file.exists():
        # PostgreSQL stamps its major version itself, so a directory restored from a copy is as good.
        write_stamp(data, Stamp("PostgreSQL", version_file.read_text().strip()))
    check_stamp(data, stamp, same_major=True)


def _require_named_user() -> None:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise ConfigurationError(
            f"DATABASE_URL is not set, and the embedded PostgreSQL needs a user with a name: uid {os.geteuid()} has "
            "none in /etc/passwd. Add one, or set DATABASE_URL to a server of your own."
        ) from None


def _tool(program: Program, name: str) -> Path:
    return program.path.with_name(name)


def _set_password(password: str) -> str:
    return f"ALTER ROLE {NAME} PASSWORD '{password}';\n"


def _single_user(data: Path, program: Program, account: Account | None, sql: str) -> None:
    """Run statements without a server: over standard input, so that no argument shows a password."""
    answer = run_as(
        account,
        [program.path, "--single", "-j", "-D", data, "postgres"],
        stdin=sql.replace(";\n", ";\n\n"),
        environment={**PLAIN_ENVIRONMENT, **ENVIRONMENT},
    )
    if "is another postmaster" in answer.stdout:
        raise ConfigurationError(
            f"A PostgreSQL is running in {data}, but the state file no longer has its password. "
            "Stop that server, then try again."
        )
    _must_succeed(answer, "postgres --single", data)


def _must_succeed(answer: CompletedProcess[str], what: str, data: Path) -> None:
    # The single-user server reports a failed statement, and ends with 0.
    if answer.returncode != 0 or "ERROR:" in answer.stdout:
        tail = "\n".join(answer.stdout.strip().splitlines()[-8:])
        raise BargelineError(f"{what} failed in {data} (exit code {answer.returncode}):\n{tail}")
