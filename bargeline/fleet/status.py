"""What the fleet is doing now."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

from bargeline.embedded.ports import LOOPBACK
from bargeline.embedded.servers import ENGINES, remembered_urls
from bargeline.embedded.state import read_state
from bargeline.fleet.leases import read_checkpoints, read_leases, read_verdicts
from bargeline.fleet.orphans import find_orphans
from bargeline.fleet.paths import paths_of
from bargeline.fleet.plan import Plan, read_plan
from bargeline.fleet.programs import kind_of
from bargeline.fleet.readiness import leases_or_reason, server_answers, worker_readiness
from bargeline.fleet.rpc import ProcessState, Supervisor
from shared.errors import BargelineError
from shared.streams import Lease
from shared.topology import KINDS
from shared.verdicts import GroupVerdict


@dataclass(frozen=True)
class ProcessStatus:
    """One worker or server."""

    name: str
    kind: str
    state: str
    pid: int | None
    uptime_seconds: int | None
    ready: bool
    problem: str | None
    consumer: str | None
    #: Address of a worker's metrics, or of a server.
    address: str | None


@dataclass(frozen=True)
class FleetStatus:
    """The whole fleet; ``sources`` maps each source to its checkpoint.

    One that was not started by `bargeline up` on this machine is ``remote``: its workers are those that hold a lease.
    """

    var: str
    pipeline: str | None
    supervisor_pid: int | None = None
    servers: tuple[ProcessStatus, ...] = ()
    workers: tuple[ProcessStatus, ...] = ()
    orphans: tuple[int, ...] = ()
    groups: tuple[GroupVerdict, ...] = ()
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    remote: bool = False
    #: Workers of the pipeline that something else started: by hand, or on another machine.
    others: tuple[ProcessStatus, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether everything that should run runs and is ready, and no group stands still with work before it."""
        if not self.remote and self.supervisor_pid is None:
            return False
        all_ready = all(process.ready for process in (*self.servers, *self.workers))
        return all_ready and not self.orphans and not any(group.is_finding for group in self.groups)


def remote_status(var: Path, redis_url: str, pipeline: str) -> FleetStatus:
    """Status of a fleet that something else supervises, as far as Redis knows it. Raises TransientError."""
    return FleetStatus(
        str(var),
        pipeline,
        workers=_live(read_leases(redis_url, pipeline), known=set()),
        groups=tuple(read_verdicts(redis_url, pipeline)),
        sources=_sources(redis_url, pipeline),
        remote=True,
    )


def _live(leases: Mapping[str, Lease], known: Collection[str]) -> tuple[ProcessStatus, ...]:
    """The workers that hold a lease, but for those whose consumer name is known."""
    workers = (
        ProcessStatus(lease.name, lease.kind, "LIVE", lease.pid, None, True, None, lease.name, lease.metrics)
        for lease in leases.values()
        if lease.name not in known
    )
    return tuple(sorted(workers, key=lambda one: (KINDS.index(one.kind), one.name)))


def status(var: Path, *, judging: bool = True) -> FleetStatus:
    """Status of the fleet in ``var``, running or not; its pipeline is None where there is none.

    ``judging`` how its groups do takes some seconds where events wait.
    """
    paths = paths_of(var)
    plan = read_plan(paths)
    if plan is None:
        return FleetStatus(str(var), None)
    supervisor = Supervisor(paths.socket)
    pid = supervisor.pid()
    processes = supervisor.processes() if pid is not None else {}
    redis_url, redis_down = _redis(plan, var, processes)
    leases = redis_down or leases_or_reason(redis_url, plan.pipeline)
    return FleetStatus(
        var=str(var),
        pipeline=plan.pipeline,
        supervisor_pid=pid,
        servers=tuple(_server(name, plan, var, processes) for name in ENGINES),
        workers=tuple(_worker(name, processes.get(name), plan.consumer(name), leases) for name in plan.workers),
        orphans=tuple(orphan.process.pid for orphan in find_orphans(paths, pid)),
        others=() if isinstance(leases, str) else _live(leases, {plan.consumer(name) for name in plan.workers}),
        groups=() if redis_down or not judging else _groups(redis_url, plan.pipeline),
        sources={} if redis_down else _sources(redis_url, plan.pipeline),
    )


def _redis(plan: Plan, var: Path, processes: Mapping[str, ProcessState]) -> tuple[str, str | None]:
    """URL of Redis, and why there is no point in asking it."""
    own_redis, _ = plan.urls
    if own_redis is not None:
        return own_redis, None
    valkey = processes.get("valkey")
    down = valkey is None or not valkey.pid
    return remembered_urls(var)[0] or "", "the embedded valkey is not running" if down else None


def _worker(name: str, process: ProcessState | None, consumer: str, leases: dict[str, Lease] | str) -> ProcessStatus:
    found = worker_readiness(process, consumer, leases)
    return ProcessStatus(
        name=name,
        kind=kind_of(name),
        ready=found.ready,
        problem=found.problem,
        consumer=consumer,
        address=found.lease.metrics if found.lease else None,
        **_process(process),
    )


def _server(name: str, plan: Plan, var: Path, processes: Mapping[str, ProcessState]) -> ProcessStatus:
    own = dict(zip(ENGINES, plan.urls, strict=True))[name]
    if own is not None:
        parts = urlsplit(own)
        return ProcessStatus(name, name, "EXTERNAL", None, None, True, None, None, f"{parts.hostname}:{parts.port}")
    state = read_state(var)
    port = state.valkey_port if name == "valkey" else state.postgres_port
    process = processes.get(name)
    ready = process is not None and port is not None and server_answers(name, var)
    problem = None if ready else "it does not answer"
    return ProcessStatus(
        name=name,
        kind=name,
        ready=ready,
        problem=problem,
        consumer=None,
        address=f"{LOOPBACK}:{port}",
        **_process(process),
    )


class _Process(TypedDict):
    state: str
    pid: int | None
    uptime_seconds: int | None


def _process(process: ProcessState | None) -> _Process:
    if process is None:
        return {"state": "DOWN", "pid": None, "uptime_seconds": None}
    uptime = process.now - process.started if process.pid else None
    return {"state": process.state, "pid": process.pid or None, "uptime_seconds": uptime}


def _groups(redis_url: str, pipeline: str) -> tuple[GroupVerdict, ...]:
    try:
        return tuple(read_verdicts(redis_url, pipeline))
    except BargelineError:
        return ()


def _sources(redis_url: str, pipeline: str) -> dict[str, dict[str, Any]]:
    try:
        return read_checkpoints(redis_url, pipeline)
    except BargelineError:
        return {}
