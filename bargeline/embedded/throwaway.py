"""Servers for tests and measurements: started directly, without a supervisor, and thrown away.

Starting one again in the same directory, after ``stop`` or a kill, gives the same data and the same URL.
"""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bargeline.embedded import postgres, valkey
from bargeline.embedded.accounts import Account, identity, reaches, server_account
from bargeline.embedded.health import postgres_answers, valkey_answers
from bargeline.embedded.places import short_hash
from bargeline.embedded.ports import choose_port
from bargeline.embedded.state import read_state, write_state
from bargeline.embedded.wheels import POSTGRES, VALKEY, program
from shared.errors import BargelineError

START_SECONDS = 30
STOP_SECONDS = 20


def start_valkey(directory: Path, *args: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a Valkey with its data in ``directory``; ``args`` are more options, such as ``--maxmemory 10mb``.

    Returns its process and its URL once it answers.
    """
    home, account = _home(directory)
    found = program(VALKEY, account, _copies())
    valkey.prepare_data(home / "valkey", found, account)
    state = read_state(home)
    port = state.valkey_port or choose_port(set())
    write_state(home, replace(state, valkey_port=port))
    command = valkey.command(found, home / "valkey", port, args)
    return _start(command, home / "valkey.log", account, lambda: valkey_answers(port)), valkey.url(port)


def start_postgres(directory: Path, **settings: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a PostgreSQL with its data in ``directory``; ``settings`` are those of postgresql.conf.

    Returns its process and its URL once it takes connections.
    """
    home, account = _home(directory)
    found = program(POSTGRES, account, _copies())
    state = read_state(home)
    password = state.postgres_password or postgres.new_password()
    port = state.postgres_port or choose_port(set())
    write_state(home, replace(state, postgres_port=port, postgres_password=password))
    postgres.prepare_data(home / "postgres", found, account, password, sync=False)
    command = postgres.command(found, home / "postgres", port, settings)
    return _start(command, home / "postgres.log", account, lambda: postgres_answers(port)), postgres.url(port, password)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server as its operator would (SIGINT suits both); kill it if it does not end."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _home(directory: Path) -> tuple[Path, Account | None]:
    """``directory``, or for root a folder that the servers' account can reach, removed at exit."""
    directory.mkdir(parents=True, exist_ok=True)
    account = server_account(directory / "postgres")
    if reaches(account, directory):
        return directory, account
    home = Path(tempfile.gettempdir()) / f"bargeline-{os.getpid()}-{short_hash(directory)}"
    if not home.exists():
        home.mkdir(mode=0o755)
        atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home, account


def _copies() -> Path:
    return Path(tempfile.gettempdir()) / f"bargeline-programs-{os.geteuid()}"


def _start(
    command: tuple[str, ...], log: Path, account: Account | None, answers: Callable[[], bool]
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", **identity(account)
        )
    deadline = time.monotonic() + START_SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise BargelineError(f"{command[0]} did not start (exit code {process.wait()}):\n{tail}")
        time.sleep(0.01)
    return process
