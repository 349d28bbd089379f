"""Start and end supervisord itself."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from bargeline.embedded.state import write_private
from bargeline.embedded.wheels import EXTRA
from bargeline.fleet.orphans import end, find_supervisors
from bargeline.fleet.paths import Paths
from bargeline.fleet.programs import SERVER_STOP_SECONDS, Daemon, render_supervisord
from bargeline.fleet.rpc import Supervisor
from shared.errors import BargelineError, ConfigurationError
from shared.settings import VARIABLES

START_SECONDS = 20


def start_supervisor(paths: Paths) -> None:
    """Start supervisord, in a session of its own that outlives the terminal; returns when it answers."""
    if importlib.util.find_spec("supervisor") is None:
        raise ConfigurationError(
            f"supervisord, which keeps the fleet's processes, is not installed. Install {EXTRA}, "
            "or start `python -m workers.<kind>` for each kind under a supervisor of your own."
        )
    write_private(paths.configuration, render_supervisord(daemon(paths)))
    # It hands its own environment to every process, for ever; settings must come from the plan alone.
    unset = [part for name in VARIABLES for part in ("-u", name, "-u", f"{name}_FILE")]
    started = subprocess.run(
        ["env", *unset, sys.executable, "-m", "supervisor.supervisord", "-c", str(paths.configuration)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    supervisor = Supervisor(paths.socket)
    deadline = time.monotonic() + START_SECONDS
    while supervisor.pid() is None:
        if started.returncode != 0 or time.monotonic() > deadline:
            raise BargelineError(
                f"supervisord did not start (exit code {started.returncode}): {started.stdout.strip()} "
                f"See {paths.logs / 'supervisord.log'}."
            )
        time.sleep(0.05)


def daemon(paths: Paths) -> Daemon:
    """What supervisord of the fleet that lies there is told about itself."""
    return Daemon(
        socket=paths.socket,
        socket_mode="0700",
        pid_file=paths.folder / "supervisord.pid",
        logs=paths.logs,
        include=f"{paths.programs.name}/*.conf",
        user="root" if os.geteuid() == 0 else None,
    )


def stop_supervisors(paths: Paths, say: Callable[[str], None], worker_seconds: int) -> bool:
    """End every supervisord of this fleet, with what still runs under it; says whether there was one."""
    found = find_supervisors(paths)
    for process in found:
        say(f"stopping supervisord (pid {process.pid})")
    # Asked to end, it stops its processes itself, one after the other; those that it does not get to are orphans then.
    killed = end(found, signal.SIGTERM, worker_seconds + SERVER_STOP_SECONDS)
    for pid in killed:
        say(f"supervisord (pid {pid}) did not end and was killed")
    return bool(found)
