"""Processes of the fleet that no supervisord looks after.

When supervisord is killed its children live on, and new ones beside them would claim the same names,
ports and data directories. They are recognised by what supervisord put into their environment: the URL
of its socket, which no other process has. No pid file is needed that could be stale.
"""

import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from bargeline.fleet.paths import Paths
from bargeline.fleet.programs import SERVER_STOP_SECONDS, SERVERS, kind_of, stop_order


@dataclass(frozen=True)
class Orphan:
    """A process of the fleet and the name it had in it."""

    name: str
    process: psutil.Process


def find_orphans(paths: Paths, supervisor_pid: int | None) -> list[Orphan]:
    """Processes of this fleet that do not descend from ``supervisor_pid``, upstream first."""
    url = f"unix://{paths.socket}"
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get("SUPERVISOR_SERVER_URL") != url:
                continue
            ancestors = [parent.pid for parent in process.parents()]
        except (psutil.Error, OSError):
            continue
        if supervisor_pid not in ancestors:
            found.append(Orphan(environment["SUPERVISOR_PROCESS_NAME"], process))
    found_pids = {orphan.process.pid for orphan in found}
    heads = [orphan for orphan in found if _parent_pid(orphan.process) not in found_pids]
    return sorted(heads, key=lambda orphan: stop_order(orphan.name))


def find_supervisors(paths: Paths) -> list[psutil.Process]:
    """Every supervisord that runs this fleet's configuration, whether or not its socket answers."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except (psutil.Error, OSError):
            continue
        if "supervisor.supervisord" in command and str(paths.configuration) in command:
            found.append(process)
    return found


def stop_orphans(
    paths: Paths, supervisor_pid: int | None, say: Callable[[str], None], worker_seconds: int
) -> list[str]:
    """Stop what no supervisord looks after: workers drain first, then servers. Returns their names."""
    orphans = find_orphans(paths, supervisor_pid)
    for kind in dict.fromkeys(kind_of(orphan.name) for orphan in orphans):
        of_kind = [orphan for orphan in orphans if kind_of(orphan.name) == kind]
        names = ", ".join(f"{orphan.name} (pid {orphan.process.pid})" for orphan in of_kind)
        say(f"stopping {names}: left behind by a supervisord that was killed")
        is_server = kind in SERVERS
        ask = signal.SIGINT if kind == "postgres" else signal.SIGTERM
        killed = end(
            [orphan.process for orphan in of_kind],
            ask,
            SERVER_STOP_SECONDS if is_server else worker_seconds,
        )
        for pid in killed:
            say(f"pid {pid} did not end and was killed")
    return [orphan.name for orphan in orphans]


def end(processes: Iterable[psutil.Process], ask: signal.Signals, seconds: float) -> list[int]:
    """Signal processes, children or not; kill what outlasts ``seconds``, and return those pids."""
    asked = [process for process in processes if _signal(process, ask)]
    alive = _outlasting(asked, seconds)
    for process in alive:
        _signal(process, signal.SIGKILL)
    _outlasting(alive, 10)
    return [process.pid for process in alive]


def _signal(process: psutil.Process, number: signal.Signals) -> bool:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def _outlasting(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while (alive := [process for process in processes if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def _lives(process: psutil.Process) -> bool:
    """A zombie does not: in a container, the first process may never reap it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _parent_pid(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.Error:
        return None
