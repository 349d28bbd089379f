"""Bring supervisord's processes in line with the files: only what differs is touched."""

import time
from collections.abc import Callable, Collection, Iterable
from itertools import groupby

from bargeline.embedded.state import write_private
from bargeline.fleet.paths import Paths
from bargeline.fleet.programs import (
    SERVER_STOP_SECONDS,
    SERVERS,
    Program,
    kind_of,
    render,
    stop_order,
)
from bargeline.fleet.rpc import ProcessState, Supervisor
from shared.errors import BargelineError

POLL_SECONDS = 0.1
Say = Callable[[str], None]


def write_programs(paths: Paths, programs: Iterable[Program], keep: Collection[str] = ()) -> None:
    """Write one file a program; files of others are removed, except those in ``keep``."""
    wanted = {f"{program.name}.conf": render(program, paths.logs) for program in programs}
    for path in paths.programs.iterdir():
        if path.name not in wanted and path.stem not in keep:
            path.unlink()
    for name, text in wanted.items():
        path = paths.programs / name
        if not path.exists() or path.read_text() != text:
            write_private(path, text)


def apply(supervisor: Supervisor, say: Say, worker_seconds: int) -> None:
    """Stop what the files no longer hold, restart what they hold otherwise, start what is new."""
    added, changed, removed = supervisor.reread()
    stop_and_wait(supervisor, [*changed, *removed], say, worker_seconds)
    for name in (*changed, *removed):
        supervisor.remove(name)
    for name in sorted((*added, *changed)):
        supervisor.add(name)
    if added or changed:
        say(f"started {', '.join(sorted((*added, *changed)))}")


def ensure_running(supervisor: Supervisor, names: Iterable[str]) -> None:
    """Start those that were stopped, that ended, or that supervisord gave up."""
    processes = supervisor.processes()
    for name in names:
        if name in processes and not processes[name].is_running:
            supervisor.start(name)


def stop_all(supervisor: Supervisor, say: Say, worker_seconds: int) -> None:
    """Stop every process: workers kind by kind, upstream first, then servers."""
    stop_and_wait(supervisor, list(supervisor.processes()), say, worker_seconds)


def stop_and_wait(supervisor: Supervisor, names: Collection[str], say: Say, worker_seconds: int) -> None:
    """Stop processes kind by kind and wait for each kind to end; says which had to be killed.

    ``worker_seconds`` is what supervisord gives a worker.
    """
    for _, group in groupby(sorted(names, key=lambda name: (stop_order(name), name)), key=stop_order):
        of_kind = list(group)
        is_server = kind_of(of_kind[0]) in SERVERS
        _stop_kind(supervisor, of_kind, say, SERVER_STOP_SECONDS if is_server else worker_seconds)


def _stop_kind(supervisor: Supervisor, names: list[str], say: Say, patience: int) -> None:
    before = supervisor.processes()
    running = [name for name in names if name in before and before[name].is_running]
    began = time.monotonic()
    for name in running:
        supervisor.stop(name)
    while any(now.is_running for name, now in supervisor.processes().items() if name in running):
        if time.monotonic() - began > patience + 15:
            raise BargelineError(f"{', '.join(running)} did not end, not even when killed. Try `bargeline down` again.")
        time.sleep(POLL_SECONDS)
    if running:
        say(f"stopped {', '.join(running)}")
    after = supervisor.processes()
    killed = [name for name in running if _was_killed(before[name], after.get(name), patience)]
    if killed:
        say(
            f"{', '.join(killed)} did not end within {patience} s and had to be killed: "
            "what was in hand is delivered again"
        )


def _was_killed(before: ProcessState, after: ProcessState | None, patience: int) -> bool:
    """supervisord reports any death by a signal as -1; ours can only come after all its patience."""
    return after is not None and after.exit_status == -1 and after.stopped - before.now >= patience - 1
