"""Commands for hosts on which administrators run supervisord themselves."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bargeline.fleet.host import Host

_PATH = click.Path(path_type=Path)


@click.group()
def supervisor() -> None:
    """A fleet under a supervisord of your own: its configuration for this host."""


@supervisor.command()
@click.option("--env-file", type=_PATH, metavar="FILE", help="Settings of all workers [default: DIR/bargeline.env].")
@click.option("--output", type=_PATH, metavar="DIR", help="Where to write [default: /etc/bargeline].")
@click.option("--user", metavar="NAME", help="Who runs it [default: bargeline for root, else you].")
@click.option(
    "--run",
    type=_PATH,
    metavar="DIR",
    help="For socket and pid file [default: /run/<name> for a DIR of /etc, else DIR/run].",
)
@click.option(
    "--logs", type=_PATH, metavar="DIR", help="For logs [default: /var/log/<name> for a DIR of /etc, else DIR/log]."
)
@click.option("--python", type=_PATH, metavar="FILE", help="The Python that runs workers [default: this one].")
@click.option("--ingest", type=int, default=1, metavar="N", help="Number of ingest workers [default: 1].")
@click.option("--transform", type=int, default=1, metavar="N", help="Number of transform workers [default: 1].")
@click.option("--loader", type=int, default=1, metavar="N", help="Number of loader workers [default: 1].")
@click.option("--janitor", type=int, default=1, metavar="N", help="Number of janitors [default: 1].")
@click.option("--force", is_flag=True, help="Overwrite files that are there and different.")
def render(output: Path | None, user: str | None, force: bool, **others: Any) -> None:
    """Write supervisord.conf, one file a worker, and a systemd unit, for this host.

    The settings are checked; they stay in their own file, which each worker reads when it starts. What is written holds
    no password. From then on supervisorctl is all that is needed. Starts and stops nothing.
    """
    from bargeline.fleet.host_files import write_host
    from shared.topology import KINDS

    host = _host(output, user, {name: others[name] for name in ("env_file", "run", "logs", "python")})
    write_host(host, {kind: others[kind] for kind in KINDS}, click.echo, overwrite=force)
    click.echo(_next(host))


def _host(output: Path | None, user: str | None, places: Mapping[str, Path | None]) -> "Host":
    """Where things lie by themselves, but for what was named."""
    import getpass
    import os
    from dataclasses import replace

    from bargeline.fleet.host import STANDARD, host_in
    from bargeline.fleet.plan import this_python

    user = user or (STANDARD.user if os.geteuid() == 0 else getpass.getuser())
    host = host_in((output or STANDARD.folder).absolute(), Path(this_python()), user)
    named: dict[str, Any] = {name: path.absolute() for name, path in places.items() if path is not None}
    return replace(host, **named)


def _next(host: "Host") -> str:
    import shlex

    def program(name: str, module: str) -> str:
        script = host.python.with_name(name)
        return shlex.quote(str(script)) if script.exists() else f"{shlex.quote(str(host.python))} -m {module}"

    configuration, env_file, unit = (shlex.quote(str(each)) for each in (host.configuration, host.env_file, host.unit))
    return f"""
tables:       BARGELINE_ENV_FILE={env_file} {program("bargeline", "bargeline.cli")} migrate
start:        systemctl enable --now {unit}
  or          {program("supervisord", "supervisor.supervisord")} -c {configuration}
look, scale:  {program("supervisorctl", "supervisor.supervisorctl")} -c {configuration} status"""
