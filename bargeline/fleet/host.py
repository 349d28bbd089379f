"""A fleet on a host under a supervisord that its administrators run, as files: what `deploy/supervisor` holds.

`python -m bargeline.fleet.host deploy/supervisor` writes those anew; a test holds them current.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bargeline.fleet.plan import DEFAULT_COUNTS, TARGETS_WORKER
from bargeline.fleet.programs import (
    Daemon,
    Program,
    ends_by_itself,
    render,
    render_supervisord,
    worker_priority,
    worker_stop_seconds,
)
from shared.settings import Settings, load_settings
from shared.topology import KINDS

#: Where the first janitor serves `/targets`, unless METRICS_PORT says otherwise.
TARGETS_PORT = 9400
#: What systemd needs beyond the longest drain: supervisord and supervisorctl themselves.
UNIT_MARGIN_SECONDS = 20
PROGRAMS = "conf.d"


@dataclass(frozen=True)
class Host:
    """Where things lie, and who runs them; all paths are absolute."""

    python: Path
    folder: Path
    run: Path
    logs: Path
    env_file: Path
    user: str

    @property
    def configuration(self) -> Path:
        """Configuration of supervisord."""
        return self.folder / "supervisord.conf"

    @property
    def socket(self) -> Path:
        """Socket of supervisord."""
        return self.run / "supervisor.sock"

    @property
    def unit(self) -> Path:
        """The systemd unit, which has the folder's name: a host may have several pipelines."""
        return self.folder / f"{self.folder.name}.service"


def host_in(folder: Path, python: Path, user: str) -> Host:
    """Where things lie by themselves: below the folder, unless it is one of /etc."""
    is_standard = folder.parent == Path("/etc")
    return Host(
        python=python,
        folder=folder,
        run=Path("/run") / folder.name if is_standard else folder / "run",
        logs=Path("/var/log") / folder.name if is_standard else folder / "log",
        env_file=folder / "bargeline.env",
        user=user,
    )


#: What docs/host.md uses.
STANDARD = host_in(Path("/etc/bargeline"), Path("/opt/bargeline/bin/python3"), "bargeline")


def files(host: Host, counts: Mapping[str, int], settings: Settings) -> dict[str, str]:
    """Text of each file by its path below the host's folder; none of them holds a secret."""
    programs = [
        worker(host, f"{kind}-{number:02}", settings) for kind in KINDS for number in range(1, counts[kind] + 1)
    ]
    return {
        host.configuration.name: render_supervisord(daemon(host)),
        **{f"{PROGRAMS}/{program.name}.ini": render(program, host.logs) for program in programs},
        host.unit.name: unit(host, worker_stop_seconds(settings) + UNIT_MARGIN_SECONDS),
    }


def daemon(host: Host) -> Daemon:
    """What supervisord of this host is told about itself."""
    return Daemon(
        socket=host.socket,
        socket_mode="0770",
        pid_file=host.run / "supervisord.pid",
        logs=host.logs,
        include=f"{PROGRAMS}/*.ini",
        user=host.user,
        open_files=4096,
    )


def worker(host: Host, name: str, settings: Settings) -> Program:
    """A worker, such that a copy of its file with another name in the first line is another worker."""
    kind = name.partition("-")[0]
    port = (settings.metrics_port or TARGETS_PORT) if name == TARGETS_WORKER else 0
    return Program(
        name=name,
        command=(str(host.python), "-m", f"workers.{kind}"),
        # Relative paths in the settings start where the settings lie.
        directory=host.env_file.parent,
        environment={"BARGELINE_ENV_FILE": str(host.env_file), "METRICS_PORT": str(port)},
        filled_in={"CONSUMER_NAME": "%(host_node_name)s-%(program_name)s"},
        priority=worker_priority(kind),
        stop_seconds=worker_stop_seconds(settings),
        ends=ends_by_itself(kind, settings),
    )


def unit(host: Host, stop_seconds: int) -> str:
    """The systemd unit that runs supervisord."""
    ctl = f"{_quoted(host.python)} -m supervisor.supervisorctl --configuration {_quoted(host.configuration)}"
    return f"""\
[Unit]
Description=Bargeline workers under supervisord
After=network-online.target
Wants=network-online.target
# Where the servers run on this host too, workers end before them. (They start in any order: workers wait.)
After=redis.service redis-server.service valkey.service valkey-server.service postgresql.service

[Service]
# The settings are not here: each worker reads {host.env_file} when it starts, so a restart of one takes up a change.
User={host.user}
Type=exec
ExecStart={_quoted(host.python)} -m supervisor.supervisord --nodaemon --configuration {_quoted(host.configuration)}
# Starts, stops and restarts only what was added, removed or changed. SIGHUP would restart everything.
ExecReload={ctl} update
# All at once, which takes as long as the slowest. Ended by SIGTERM alone, supervisord stops one after the other.
ExecStop=-{ctl} stop all
TimeoutStopSec={stop_seconds}
# Should supervisord be killed, its workers are asked to end and drain, before the next one starts its own.
KillMode=control-group
Restart=on-failure
RestartSec=2
# Exit code 2 is a mistake in the configuration: trying again does not heal it.
RestartPreventExitStatus=2
# A worker that the kernel kills for its memory is supervisord's to restart; the others go on.
OOMPolicy=continue
LimitNOFILE=65536
UMask=0027

{_folders(host)}
# Workers open connections, and read files: their code, the pipeline, and INGEST_PATH.
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
# Files to ingest cannot lie in /tmp or /var/tmp.
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
"""


def _folders(host: Host) -> str:
    """systemd makes what lies where it makes such things; what lies elsewhere is there, and may be written."""
    lines = []
    for setting, parent, folder in (
        ("RuntimeDirectory", Path("/run"), host.run),
        ("LogsDirectory", Path("/var/log"), host.logs),
    ):
        if folder.parent == parent:
            lines += [f"{setting}={folder.name}", f"{setting}Mode=0750"]
        else:
            lines.append(f"ReadWritePaths={_quoted(folder)}")
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)


def example(host: Host) -> str:
    """A file of settings to begin with."""
    return f"""\
# What all workers on this host have in common: NAME=value lines; docs/settings.md lists the names. A worker reads
# them when it starts: after a change, `supervisorctl restart` one after the other.
# Passwords are in here: let nobody but root and {host.user} read it.

REDIS_URL=redis://127.0.0.1:6379/0
DATABASE_URL=postgresql://bargeline_loader:password@127.0.0.1:5432/bargeline
# Or files that hold one URL each:
# REDIS_URL_FILE={host.folder}/redis-url
# DATABASE_URL_FILE={host.folder}/database-url

# A name of those that come along, or the absolute path of a folder.
PIPELINE=clickstream

# Files that appear here are read. For files that others write to and rotate: INGEST_FOLLOW instead of INGEST_WATCH.
INGEST_PATH=/var/spool/bargeline/*
INGEST_WATCH=true

# For a Prometheus on another machine (no password protects it: open it to that machine only).
# METRICS_HOST=0.0.0.0

LOG_FORMAT=json
"""


def main(folder: Path) -> None:
    """Write the files with the standard paths into a folder."""
    (folder / PROGRAMS).mkdir(parents=True, exist_ok=True)
    for name, text in committed().items():
        (folder / name).write_text(text)


def committed() -> dict[str, str]:
    """What `deploy/supervisor` has to hold."""
    return {
        **files(STANDARD, DEFAULT_COUNTS, load_settings({"INGEST_WATCH": "true"})),
        "bargeline.env": example(STANDARD),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
