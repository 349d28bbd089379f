"""Supervised processes as supervisord's configuration: one file for each.

With one file a process, a change of one leaves the others running (`numprocs` would restart them all).
"""

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bargeline.embedded.servers import Server
from shared.errors import ConfigurationError
from shared.run import DRAIN_SECONDS
from shared.settings import ENDLESS_SOURCES, Settings
from shared.topology import KINDS

#: What a worker needs after its drain to settle, give its lease back and end, on a machine that is busy.
STOP_MARGIN_SECONDS = 10
SERVER_STOP_SECONDS = 60
SERVERS = ("valkey", "postgres")
UNREADABLE_VALUE = re.compile(r"\r|\n\s*\n|\s[;#]")
#: Why a setting is as it is, for whoever reads the files.
_REASONS = {
    "files": "One process a file: `supervisorctl update` touches only what was added, changed or removed.",
    "chmod": "Who may use it controls the workers.",
    "minfds": "Workers inherit it; one that follows many files holds each of them open.",
    "umask": "What user code prints may be event data: logs are not for everybody.",
    "priority": "Asked to end, supervisord stops the highest first: upstream, so that what is in flight can go down.",
    "startsecs": "One that ends earlier did not start (2: a wrong setting, 3: its name is taken; its log says which).\n"
    "It is tried again after 1, 2, 3 s and so on; after startretries it is FATAL, until somebody starts it.",
    "stopwaitsecs": "It ends by itself when what it holds is settled; killed, another has to do that again.",
}


@dataclass(frozen=True)
class Program:
    """One process as supervisord is told about it."""

    name: str
    command: tuple[str, ...]
    directory: Path
    #: After so many seconds it is killed.
    stop_seconds: int
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Variables whose values supervisord fills in, such as ``%(program_name)s``.
    filled_in: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    priority: int = 999
    #: It ends by itself, with 0, when it is done.
    ends: bool = False
    stop_signal: str = "TERM"

    @property
    def kind(self) -> str:
        """``transform`` of ``transform-01``; a server is its own kind."""
        return kind_of(self.name)


@dataclass(frozen=True)
class Daemon:
    """supervisord itself; ``include`` are files of programs, by a glob that starts at its configuration's folder."""

    socket: Path
    socket_mode: str
    pid_file: Path
    logs: Path
    include: str
    #: Given to it by root, or whom it runs as anyway.
    user: str | None
    open_files: int = 1024


def kind_of(name: str) -> str:
    """Kind of the process with this name."""
    return name.partition("-")[0]


def stop_order(name: str) -> tuple[int, int]:
    """Sort key: upstream first, so that what is in flight can still go down the line; servers last."""
    kind = kind_of(name)
    if kind in SERVERS:
        return len(KINDS), SERVERS.index(kind)
    return (KINDS.index(kind) if kind in KINDS else 0), 0


def worker_priority(kind: str) -> int:
    """supervisord starts the lowest first and, when it ends, stops the highest first; a server has 100."""
    return 100 * (1 + len(KINDS) - KINDS.index(kind))


def worker_stop_seconds(settings: Settings) -> int:
    """Seconds that a worker is given to end: it waits for a server that is away, or for user code, not for both."""
    return math.ceil(max(DRAIN_SECONDS, settings.transform_timeout_seconds)) + STOP_MARGIN_SECONDS


def ends_by_itself(kind: str, settings: Settings) -> bool:
    """Whether a worker of this kind ends, with 0, when it has read its files or its source has ended."""
    if kind != "ingest" or settings.ingest_source in ENDLESS_SOURCES:
        return False
    return settings.ingest_source != "file" or not (settings.ingest_watch or settings.ingest_follow)


def server_program(server: Server) -> Program:
    """An embedded server as a supervised process; it starts before the workers."""
    return Program(
        name=server.name,
        command=server.command,
        directory=server.data,
        environment=server.environment,
        user=server.user,
        priority=100,
        stop_signal=server.stop_signal,
        stop_seconds=SERVER_STOP_SECONDS,
    )


def render(program: Program, logs: Path) -> str:
    """The program's configuration file; ``logs`` is the folder of its log."""
    settings = {
        "command": _escape(shlex.join(program.command)),
        "directory": _escape(str(program.directory)),
        "user": program.user,
        "environment": _environment(program),
        "priority": str(program.priority),
        "autostart": "true",
        "autorestart": "unexpected" if program.ends else "true",
        "startsecs": "0" if program.ends else "2",
        # A server killed with its clients may refuse the first start; the waits between retries grow by 1 s.
        "startretries": "10",
        "stopsignal": program.stop_signal,
        "stopwaitsecs": str(program.stop_seconds),
        "redirect_stderr": "true",
        # A copy of the file under another name has its own log.
        "stdout_logfile": f"{_escape(str(logs))}/%(program_name)s.log",
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "5",
    }
    return _section(f"program:{program.name}", settings)


def render_supervisord(daemon: Daemon) -> str:
    """The configuration of supervisord itself, and of supervisorctl."""
    supervisord = {
        "identifier": "bargeline",
        "user": daemon.user,
        "pidfile": _escape(str(daemon.pid_file)),
        "umask": "027",
        "minfds": str(daemon.open_files),
        "logfile": _escape(str(daemon.logs / "supervisord.log")),
        "logfile_maxbytes": "10MB",
        "logfile_backups": "5",
        "childlogdir": _escape(str(daemon.logs)),
    }
    factory = "supervisor.rpcinterface:make_main_rpcinterface"
    return "\n".join(
        [
            _section("unix_http_server", {"file": _escape(str(daemon.socket)), "chmod": daemon.socket_mode}),
            _section("supervisord", supervisord),
            _section("rpcinterface:supervisor", {"supervisor.rpcinterface_factory": factory}),
            _section("supervisorctl", {"serverurl": _escape(f"unix://{daemon.socket}")}),
            _section("include", {"files": daemon.include}),
        ]
    )


def _section(name: str, settings: Mapping[str, str | None]) -> str:
    lines = [f"[{name}]"]
    for key, value in settings.items():
        if value is not None:
            lines += [f"; {reason}" for reason in _REASONS.get(key, "").splitlines()]
            lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"


def _environment(program: Program) -> str | None:
    variables = {name: _assignment(name, value) for name, value in program.environment.items()}
    variables |= {name: f'{name}="{value}"' for name, value in program.filled_in.items()}
    return ",".join(variables[name] for name in sorted(variables)) or None


def _escape(value: str) -> str:
    return value.replace("%", "%%").replace("\n", "\n    ")


def _assignment(name: str, value: str) -> str:
    """``NAME="value"`` as supervisord reads it: either quote will do, but there is no escape."""
    quote = "'" if '"' in value else '"'
    if quote in value or value != value.strip("'\"") or UNREADABLE_VALUE.search(value):
        raise ConfigurationError(
            f"{name} has a value that supervisord cannot pass on: it must have no empty line, not both kinds "
            "of quotes, none at either end, and no blank before ; or #."
        )
    return f"{name}={quote}{_escape(value)}{quote}"
