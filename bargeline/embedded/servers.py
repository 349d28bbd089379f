"""Prepare the embedded servers of a state folder: everything up to the command that starts them."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bargeline.embedded import postgres, valkey
from bargeline.embedded.accounts import Account, require_owner, server_account
from bargeline.embedded.locking import exclusive
from bargeline.embedded.places import home_of_servers, state_folder
from bargeline.embedded.ports import LOOPBACK, choose_port, holder, is_free
from bargeline.embedded.state import State, read_state, state_file, write_state
from bargeline.embedded.wheels import POSTGRES, VALKEY, program
from shared.errors import ConfigurationError, Refused

ENGINES = ("valkey", "postgres")


@dataclass(frozen=True)
class Server:
    """How to start and stop one embedded server."""

    name: str
    version: str
    port: int
    data: Path
    command: tuple[str, ...]
    stop_signal: str
    #: Added to the environment of the process.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Account to start it as; None is the caller's own.
    user: str | None = None


@dataclass(frozen=True)
class Servers:
    """The embedded servers of a state folder; None where the user has a server of his own."""

    valkey: Server | None
    postgres: Server | None
    redis_url: str | None
    database_url: str | None
    #: The psql beside the embedded PostgreSQL.
    psql: Path | None

    @property
    def all(self) -> tuple[Server, ...]:
        """Those that are embedded, in the order in which they start."""
        return tuple(server for server in (self.valkey, self.postgres) if server is not None)


def prepare(var: Path, engines: Sequence[str] = ENGINES) -> Servers:
    """Create or check the data of the embedded servers in ``var``; starts nothing.

    Ports and the password are chosen at the first call and remembered. Raises ConfigurationError if the
    folder cannot be written, a wheel does not run here, or data is of another engine or version.
    """
    state_folder(var)
    with exclusive(var / "state.lock"):
        home, account = _home_and_account(var)
        found_valkey = _valkey(var, home, account) if "valkey" in engines else None
        found_postgres, psql = _postgres(var, home, account) if "postgres" in engines else (None, None)
        state = read_state(var)
    return Servers(
        found_valkey,
        found_postgres,
        valkey.url(found_valkey.port) if found_valkey else None,
        _database_url(state) if found_postgres else None,
        psql,
    )


def remembered_urls(var: Path) -> tuple[str | None, str | None]:
    """URLs of Redis and PostgreSQL as remembered; None for one that was never prepared."""
    state = read_state(var)
    return (valkey.url(state.valkey_port) if state.valkey_port else None), _database_url(state)


def require_free_port(server: Server, var: Path) -> None:
    """Refuse to start a server, known not to be running, whose remembered port somebody else has taken."""
    if not is_free(server.port):
        raise Refused(
            f"Port {server.port} of {LOOPBACK}, remembered for the embedded {server.name}, is taken "
            f'by {holder(server.port)}. Stop that, or delete "{server.name}_port" from {state_file(var)} to '
            "have another port chosen."
        )


def delete_data(var: Path) -> list[Path]:
    """Delete the data of embedded servers that are not running, wherever it is; returns what was deleted."""
    state = read_state(var)
    home = Path(state.home) if state.home else var
    doomed = [home / name for name in ENGINES if (home / name).exists()] if home == var else [home]
    for directory in doomed:
        shutil.rmtree(directory)
    state_file(var).unlink(missing_ok=True)
    return doomed


def _home_and_account(var: Path) -> tuple[Path, Account | None]:
    state = read_state(var)
    home = Path(state.home) if state.home else var
    account = server_account(home / "postgres", home / "valkey")
    if state.home is None:
        home = home_of_servers(var, account)
        if home != var:
            _require_no_data(home, var)
            write_state(var, replace(state, home=str(home)))
    return home, account


def _require_no_data(home: Path, var: Path) -> None:
    """A second home outlives its state folder: never show the data of a fleet that was deleted as new."""
    if any((home / name).exists() for name in ENGINES):
        raise ConfigurationError(
            f"{home} holds data of an earlier fleet in {var}, whose {state_file(var).name} is gone. "
            f"Put that file back, or remove the data: `rm -r {home}`."
        )


def _valkey(var: Path, home: Path, account: Account | None) -> Server:
    found = program(VALKEY, account, home / "programs")
    data = home / "valkey"
    require_owner(account, data)
    valkey.prepare_data(data, found, account)
    state = read_state(var)
    port = state.valkey_port or choose_port({state.postgres_port})
    write_state(var, replace(state, valkey_port=port))
    return Server(
        name="valkey",
        version=found.version,
        port=port,
        data=data,
        command=valkey.command(found, data, port),
        stop_signal="TERM",
        user=account.name if account else None,
    )


def _postgres(var: Path, home: Path, account: Account | None) -> tuple[Server, Path]:
    found = program(POSTGRES, account, home / "programs")
    data = home / "postgres"
    require_owner(account, data)
    state = read_state(var)
    password = state.postgres_password or postgres.new_password()
    if data.exists() and state.postgres_password is None:
        postgres.reset_password(data, found, account, password)
    postgres.prepare_data(data, found, account, password)
    port = state.postgres_port or choose_port({state.valkey_port})
    write_state(var, replace(state, postgres_port=port, postgres_password=password))
    server = Server(
        name="postgres",
        version=found.version,
        port=port,
        data=data,
        command=postgres.command(found, data, port),
        # Fast shutdown; TERM would wait for the clients to leave.
        stop_signal="INT",
        environment=postgres.ENVIRONMENT,
        user=account.name if account else None,
    )
    return server, postgres.client(found, "psql")


def _database_url(state: State) -> str | None:
    if state.postgres_port is None or state.postgres_password is None:
        return None
    return postgres.url(state.postgres_port, state.postgres_password)
