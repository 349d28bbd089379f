"""Commands that start, watch and stop a fleet on this machine."""

import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bargeline.fleet.status import FleetStatus, ProcessStatus
    from shared.settings import Settings

TIMEOUT = click.option(
    "--timeout",
    type=float,
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for workers to be ready.",
)


@click.command()
@click.option("--ingest", type=int, metavar="N", help="Number of ingest workers.")
@click.option("--transform", type=int, metavar="N", help="Number of transform workers.")
@click.option("--loader", type=int, metavar="N", help="Number of loader workers.")
@click.option("--janitor", type=int, metavar="N", help="Number of janitors.")
@TIMEOUT
def up(timeout: float, **counts: int | None) -> None:
    """Start the fleet, or bring a running one in line; return when every worker is ready.

    Numbers not given stay as they were, at first one of each kind. Without REDIS_URL or DATABASE_URL the
    embedded servers are started too. Files put into the inbox folder are ingested.
    """
    from bargeline.fleet import control
    from bargeline.target import chosen_pipeline
    from shared.settings import load_settings

    settings = load_settings()
    if (pipeline := chosen_pipeline(settings)) != settings.pipeline:
        # From another folder, or without its .env: the fleet goes on with what it has, not with the default.
        settings = settings.model_copy(update={"pipeline": pipeline})
    _warn_of_another_pipeline(settings)
    control.up(settings, {kind: count for kind, count in counts.items() if count is not None}, click.echo, timeout)
    click.echo(f"{_what_ingest_takes(settings)}; `bargeline status` shows the fleet")


def _warn_of_another_pipeline(settings: "Settings") -> None:
    from shared.pipeline import find_pipeline

    if Path("pipeline.toml").is_file() and find_pipeline(settings.pipeline) != Path.cwd():
        click.echo(
            f"note: this folder has a pipeline.toml, but PIPELINE={settings.pipeline}; PIPELINE=. would run it",
            err=True,
        )


def _what_ingest_takes(settings: "Settings") -> str:
    if settings.ingest_source != "file":
        return f"ingest takes events by INGEST_SOURCE={settings.ingest_source}"
    if settings.ingest_path:
        return f"ingest reads {' '.join(settings.ingest_path.split())}"
    return f"drop files into {settings.var / 'inbox'}"


@click.command()
@click.option("--delete-data", is_flag=True, help="Then delete everything that the embedded servers hold.")
def down(delete_data: bool) -> None:
    """Stop the fleet: workers finish what they hold, then the embedded servers end. The data stays."""
    from bargeline.fleet import control
    from shared.settings import load_settings

    control.down(load_settings().var, click.echo, deleting_data=delete_data)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(as_json: bool) -> None:
    """Show every process of the fleet and how each group does.

    Exit with 1 if a process does not run or is not ready, or if events wait and nothing is done. Where `bargeline up`
    started no fleet, REDIS_URL and PIPELINE say which one to show.
    """
    from bargeline.fleet.status import remote_status
    from bargeline.fleet.status import status as read_status
    from shared.pipeline import load_pipeline
    from shared.settings import load_settings

    settings = load_settings()
    found = read_status(settings.var)
    if found.pipeline is None and (settings.redis_url or settings.redis_host):
        found = remote_status(settings.var, settings.require_redis_url(), load_pipeline(settings.pipeline).name)
    if as_json:
        import msgspec

        click.echo(json.dumps({**msgspec.to_builtins(found), "healthy": found.healthy}, indent=2))
    else:
        _print_status(found)
    if not found.healthy:
        sys.exit(1)


@click.command()
@click.argument("name", metavar="[KIND|NAME]", default="all")
@TIMEOUT
def restart(name: str, timeout: float) -> None:
    """Restart a process (transform-01), all of a kind (transform), or all workers, one after the other."""
    from bargeline.fleet import control
    from shared.settings import load_settings

    control.restart(load_settings().var, name, click.echo, timeout)


@click.command()
@click.argument("counts", metavar="KIND=N...", nargs=-1, required=True)
@TIMEOUT
def scale(counts: tuple[str, ...], timeout: float) -> None:
    """Change how many workers of a kind run, as in `bargeline scale transform=4 loader=2`."""
    from bargeline.fleet import control
    from shared.settings import load_settings

    control.scale(load_settings().var, _counts(counts), click.echo, timeout)


@click.command()
@click.argument("name", metavar="[KIND|NAME]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=20, show_default=True, help="Last lines of each log."
)
def logs(name: str | None, follow: bool, lines: int) -> None:
    """Print the logs of the fleet's processes, each line with the name of its process."""
    from bargeline.fleet.logs import logs as read_logs
    from bargeline.fleet.paths import paths_of
    from shared.settings import load_settings
    from shared.text import printable

    for process, line in read_logs(paths_of(load_settings().var), name, lines, follow=follow):
        # A worker's output holds what user code prints, which may be event data.
        click.echo(f"{process:<14} {printable(line)}")


@click.command()
def env() -> None:
    """Print REDIS_URL and DATABASE_URL for a shell: eval "$(bargeline env)".

    Also REDIS_HOST, REDIS_PORT and REDIS_PASSWORD, for programs that take a server so, and with the embedded
    PostgreSQL POSTGRES_TOOLS, the folder of its psql and pg_dump.
    """
    from bargeline.embedded.servers import prepare, remembered_urls
    from bargeline.fleet import control
    from shared.settings import load_settings
    from shared.urls import parts

    settings = load_settings()
    variables = control.urls(settings)
    variables |= parts(variables["REDIS_URL"])
    if variables["DATABASE_URL"] == remembered_urls(settings.var)[1]:
        variables["POSTGRES_TOOLS"] = str(Path(str(prepare(settings.var, ["postgres"]).psql)).parent)
    for name, value in variables.items():
        click.echo(f"{name}={shlex.quote(value)}")
    click.echo(f"export {' '.join(variables)}")


def _counts(arguments: Iterable[str]) -> Mapping[str, int]:
    counts = {}
    for argument in arguments:
        kind, _, number = argument.partition("=")
        if not number.isdecimal():
            raise click.BadParameter(f"{argument}: write KIND=N, as in transform=4.", param_hint="KIND=N")
        counts[kind] = int(number)
    return counts


def _print_status(found: "FleetStatus") -> None:
    from shared.text import printable

    if found.pipeline is None:
        click.echo(f"There is no fleet in {found.var}. Start one with `bargeline up`, or set REDIS_URL to see another.")
        return
    running = f"supervisord runs as pid {found.supervisor_pid}" if found.supervisor_pid else "the fleet is down"
    where = "live workers as Redis knows them" if found.remote else f"{running}, state in {found.var}"
    click.echo(f"pipeline {found.pipeline}: {where}\n")
    rows = [_row(process) for process in (*found.servers, *found.workers, *found.others)]
    click.echo(_table(rows) if rows else "no worker is alive")
    for process in (*found.servers, *found.workers):
        if process.problem and found.supervisor_pid:
            click.echo(f"{process.name} is not ready: {process.problem}")
    if found.orphans:
        click.echo(f"left behind by an earlier supervisord: pids {', '.join(map(str, found.orphans))}")
    if found.groups:
        click.echo()
    for group in found.groups:
        click.echo(printable(f"{group.group}: {group.verdict}: {group.cause}"))
    if found.sources:
        click.echo("\n" + _table([_source(name, checkpoint) for name, checkpoint in found.sources.items()]))


def _row(process: "ProcessStatus") -> dict[str, str]:
    return {
        "NAME": process.name,
        "STATE": process.state.lower(),
        "READY": "yes" if process.ready else "no",
        "PID": str(process.pid or "-"),
        "UPTIME": "-" if process.uptime_seconds is None else _duration(process.uptime_seconds),
        "ADDRESS": process.address or "-",
        "CONSUMER": process.consumer or "-",
    }


def _position(checkpoint: Mapping[str, Any]) -> str:
    """Bytes of a file, or whatever a source of the user's own takes for a position."""
    from shared.text import printable

    found = checkpoint.get("position", checkpoint.get("offset", 0))
    return f"{found:,}" if isinstance(found, int) else printable(json.dumps(found, ensure_ascii=False))[:40]


def _source(name: str, checkpoint: Mapping[str, Any]) -> dict[str, str]:
    size = checkpoint.get("size")
    if "lsn" in checkpoint:
        return _database(name, checkpoint)
    return {
        "SOURCE": name,
        "LINES": f"{checkpoint.get('lines', 0):,}",
        "OFFSET": _position(checkpoint) + (f" of {size:,}" if size is not None else ""),
        "DONE": "yes" if checkpoint.get("done") else "no",
    }


def _database(name: str, checkpoint: Mapping[str, Any]) -> dict[str, str]:
    from shared.database.replication import lsn_text

    snapshot = checkpoint.get("snapshot")
    rows = f"{snapshot.get('rows', 0):,} so far" if snapshot else "-"
    return {"SOURCE": name, "LINES": rows, "OFFSET": lsn_text(checkpoint["lsn"]), "DONE": "-"}


def _duration(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock


def _table(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
