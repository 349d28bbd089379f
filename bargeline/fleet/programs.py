"""Supervised processes as supervisord's configuration: one file for each.

With one file a process, a change of one leaves the others running (`numprocs` would restart them all).
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bargeline.embedded.servers import Server
from bargeline.fleet.paths import Paths
from shared.errors import ConfigurationError
from shared.topology import KINDS

#: A worker drains within 30 s; after this many it is killed.
WORKER_STOP_SECONDS = 40
SERVER_STOP_SECONDS = 60
SERVERS = ("valkey", "postgres")
UNREADABLE_VALUE = re.compile(r"\r|\n\s*\n|\s[;#]")


@dataclass(frozen=True)
class Program:
    """One process as supervisord is told about it."""

    name: str
    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    priority: int = 999
    #: It ends by itself, with 0, when it is done.
    ends: bool = False
    stop_signal: str = "TERM"
    stop_seconds: int = WORKER_STOP_SECONDS

    @property
    def kind(self) -> str:
        """``transform`` of ``transform-01``; a server is its own kind."""
        return kind_of(self.name)


def kind_of(name: str) -> str:
    """Kind of the process with this name."""
    return name.partition("-")[0]


def stop_order(name: str) -> tuple[int, int]:
    """Sort key: upstream first, so that what is in flight can still go down the line; servers last."""
    kind = kind_of(name)
    if kind in SERVERS:
        return len(KINDS), SERVERS.index(kind)
    return (KINDS.index(kind) if kind in KINDS else 0), 0


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


def render(program: Program, paths: Paths) -> str:
    """The program's configuration file."""
    lines = {
        "command": shlex.join(program.command),
        "directory": str(program.directory),
        "user": program.user,
        "priority": str(program.priority),
        "autostart": "true",
        "autorestart": "unexpected" if program.ends else "true",
        "startsecs": "0" if program.ends else "2",
        # A server killed with its clients may refuse the first start; the waits between retries grow by 1 s.
        "startretries": "10",
        "stopsignal": program.stop_signal,
        "stopwaitsecs": str(program.stop_seconds),
        "redirect_stderr": "true",
        "stdout_logfile": str(paths.log(program.name)),
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "3",
    }
    settings = [f"{key} = {_escape(value)}" for key, value in lines.items() if value is not None]
    environment = ",".join(_assignment(name, value) for name, value in sorted(program.environment.items()))
    if environment:
        settings.append(f"environment = {environment}")
    return f"[program:{program.name}]\n" + "\n".join(settings) + "\n"


def render_supervisord(paths: Paths, user: str | None) -> str:
    """The configuration of supervisord itself; ``user`` is root's name, if it runs as root."""
    settings = {
        "logfile": str(paths.logs / "supervisord.log"),
        "logfile_maxbytes": "10MB",
        "logfile_backups": "3",
        "pidfile": str(paths.folder / "supervisord.pid"),
        "childlogdir": str(paths.logs),
        "identifier": "bargeline",
        "user": user,
    }
    lines = "\n".join(f"{key} = {_escape(value)}" for key, value in settings.items() if value is not None)
    return (
        f"[unix_http_server]\nfile = {_escape(str(paths.socket))}\nchmod = 0700\n\n"
        f"[supervisord]\n{lines}\n\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\n"
        f"[include]\nfiles = {paths.programs.name}/*.conf\n"
    )


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
