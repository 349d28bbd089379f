"""CPU time by process, and memory: what everything started from here has spent, servers, workers and tools."""

import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil

#: Whatever is neither a server nor a worker: psql, and the processes of the floor and of the naive loop.
TOOLS = "tools"


def cpu_seconds() -> dict[str, float]:
    """CPU seconds so far by role: ``valkey``, ``postgres``, the kinds of workers, and ``tools``.

    The role ``postgres`` holds all its processes, those that ended too. Of what was started from here and has ended,
    only tools end while something is measured.
    """
    while True:
        # One that ends before its turn, like PostgreSQL's process of a client that has just left, is missing from
        # both sums: its parent was read while it was alive.
        with suppress(psutil.NoSuchProcess):
            return _spent()


def _spent() -> dict[str, float]:
    own = os.times()
    spent = defaultdict[str, float](float, {TOOLS: own.children_user + own.children_system})
    for child in psutil.Process().children(recursive=True):
        # A worker that was killed, and that nobody has waited for yet, has no role.
        with suppress(psutil.ZombieProcess):
            spent[_role(child)] += sum(child.cpu_times()[:4])  # user, system, and of its own children that ended
    return dict(spent)


def _role(process: psutil.Process) -> str:
    name = process.name()
    if name in ("postgres", "valkey-server", "redis-server"):
        return "postgres" if name == "postgres" else "valkey"
    kinds = [word.removeprefix("workers.") for word in process.cmdline() if word.startswith("workers.")]
    return kinds[0] if kinds else TOOLS


def peak_bytes(pid: int) -> int:
    """The most resident memory that a process has had; where the system does not say, what it has now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return int(psutil.Process(pid).memory_info().rss)
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak) * 1024
