"""The operator's command. Subcommands are imported when they are called: `bargeline --help` stays quick."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from shared.version import VERSION

#: Command → where it lives and what `--help` says of it, so that listing them imports none.
COMMANDS = {
    "init": ("bargeline.commands.init", "Make a pipeline folder out of a sample of your events."),
    "demo": ("bargeline.commands.demo", "Start a fleet, load 200,000 clicks through it, and show the result."),
    "up": ("bargeline.commands.fleet", "Start the fleet, or bring a running one in line."),
    "down": ("bargeline.commands.fleet", "Drain and stop the fleet; the data stays."),
    "status": ("bargeline.commands.fleet", "Show every process of the fleet and what was read."),
    "restart": ("bargeline.commands.fleet", "Restart one process, a kind, or all workers."),
    "scale": ("bargeline.commands.fleet", "Change the number of workers of a kind: scale transform=4."),
    "logs": ("bargeline.commands.fleet", "Show the logs of the fleet."),
    "env": ("bargeline.commands.fleet", "Print REDIS_URL and DATABASE_URL for a shell to eval."),
    "supervisor": ("bargeline.commands.supervisor", "Write the configuration of a supervisord of your own."),
    "pipeline": ("bargeline.commands.pipeline", "Check a pipeline folder, line by line, and against the database."),
    "migrate": ("bargeline.commands.migrate", "Apply the migrations that are missing."),
    "ingest": ("bargeline.commands.ingest", "Carry files into the running fleet, with a progress bar."),
    "produce": ("bargeline.commands.produce", "Emit events: '{…}', files, or lines of standard input."),
    "cdc": ("bargeline.commands.cdc", "Make or drop what INGEST_SOURCE=cdc reads: a publication and a slot."),
    "tail": ("bargeline.commands.tail", "Print events of a stream as lines of JSON."),
    "resume": ("bargeline.commands.resume", "Let workers go on that stopped because of too many dead letters."),
    "reconcile": ("bargeline.commands.reconcile", "Show where every accepted event is; exit 1 if one is missing."),
    "doctor": ("bargeline.commands.doctor", "Say what is wrong with servers and pipeline, why it matters, what to do."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.version_option(VERSION, prog_name="bargeline")
@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def root() -> None:
    """Carry events through Redis streams into PostgreSQL, and lose none.

    Settings come from the environment, then from the file .env of this folder.

    Exit codes: 0 all is well, 1 a finding, 2 wrong usage or configuration, 3 refused, 4 a server does not answer.
    """
    env_file = Path.cwd() / ".env"
    if env_file.is_file():
        from shared.settings import use_env_file

        use_env_file(env_file)


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command and end the process with its exit code."""
    from shared.errors import BargelineError, TransientError

    try:
        root.main(arguments, prog_name="bargeline", standalone_mode=False)
    except click.exceptions.Abort:
        _end("interrupted; what was accepted goes on without this command", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except TransientError as error:
        _end(f"error: {error}", 4)
    except BargelineError as error:
        _end(f"error: {error}", error.exit_code)
    except BrokenPipeError:
        # `| head` closed the pipe: Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _end(text: str, code: int) -> None:
    from shared.text import printable

    click.echo(printable(text, lines=True), err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
