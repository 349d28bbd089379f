"""Start, change and stop a fleet. Commands that change it take turns, by a lock that dies with its holder.

Every function takes ``say``, which is given one line for each thing done.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bargeline.embedded.locking import exclusive
from bargeline.embedded.servers import Server, delete_data, prepare, remembered_urls, require_free_port
from bargeline.fleet.apply import apply, ensure_running, stop_all, stop_and_wait, write_programs
from bargeline.fleet.launch import start_supervisor, stop_supervisors
from bargeline.fleet.leases import check_redis
from bargeline.fleet.orphans import stop_orphans
from bargeline.fleet.paths import Paths, paths_of
from bargeline.fleet.plan import Plan, check_counts, make_plan, read_plan, worker_program, write_plan
from bargeline.fleet.programs import SERVERS, Program, kind_of, render, server_program, worker_stop_seconds
from bargeline.fleet.readiness import wait_for_server, wait_for_workers
from bargeline.fleet.rpc import Supervisor
from shared.database import migrate
from shared.errors import ConfigurationError, Refused, TransientError, Unreachable
from shared.pipeline import load_pipeline
from shared.settings import Settings, load_settings

Say = Callable[[str], None]
READY_SECONDS = 60
VARIABLES = ("REDIS_URL", "DATABASE_URL")


@dataclass(frozen=True)
class Fleet:
    """What every change of a fleet works on; ``urls`` are those of the embedded servers, as variables."""

    paths: Paths
    plan: Plan
    supervisor: Supervisor
    urls: Mapping[str, str]

    @property
    def redis_url(self) -> str:
        """Redis as the workers see it."""
        return self.urls.get("REDIS_URL") or self.plan.settings.require_redis_url()

    @property
    def database_url(self) -> str:
        """PostgreSQL as the workers see it."""
        return self.urls.get("DATABASE_URL") or self.plan.settings.require_database_url()

    @property
    def worker_programs(self) -> list[Program]:
        """The workers as supervised processes."""
        return [worker_program(worker, self.plan, self.paths, self.urls) for worker in self.plan.workers]


def up(settings: Settings, counts: Mapping[str, int], say: Say, timeout: float = READY_SECONDS) -> None:
    """Start the fleet, or change a running one to what is asked; returns when every worker is ready.

    Kinds not in ``counts`` keep their number. Raises BargelineError that says what is not ready and why.
    """
    paths = paths_of(settings.var)
    paths.create()
    with _my_turn(paths, say):
        supervisor = Supervisor(paths.socket)
        pid = supervisor.pid()
        plan = make_plan(settings, counts, read_plan(paths), Path.cwd(), is_running=pid is not None)
        if pid is None:
            stop_supervisors(paths, say, plan.stop_seconds)
        stop_orphans(paths, pid, say, plan.stop_seconds)
        servers = prepare(paths.var, plan.embedded)
        fleet = Fleet(paths, plan, supervisor, _embedded_urls(paths, plan))
        for program in fleet.worker_programs:
            render(program, paths.logs)  # raises for a value that cannot be passed on, before anything starts
        write_plan(paths, plan)
        _start_servers(fleet, servers.all, say, timeout)
        _check_servers(fleet, say)
        write_programs(paths, [*map(server_program, servers.all), *fleet.worker_programs])
        _start_workers(fleet, say, timeout)


def down(var: Path, say: Say, *, deleting_data: bool = False) -> None:
    """Stop everything: workers drain, upstream first; then servers; then supervisord. Safe to repeat.

    With ``deleting_data`` the embedded servers lose all they hold.
    """
    paths = paths_of(var)
    if not paths.folder.is_dir():
        say(f"there is no fleet in {var}")
        return
    with _my_turn(paths, say):
        supervisor = Supervisor(paths.socket)
        seconds = _stop_seconds(paths)
        if supervisor.pid() is not None:
            stop_all(supervisor, say, seconds)
        stopped = stop_supervisors(paths, say, seconds)
        orphans = stop_orphans(paths, None, say, seconds)
        say("the fleet is down" if stopped or orphans else "nothing was running")
        for directory in delete_data(paths.var) if deleting_data else ():
            say(f"deleted {directory}")


def scale(var: Path, counts: Mapping[str, int], say: Say, timeout: float = READY_SECONDS) -> None:
    """Change how many workers of some kinds run; the others, and those that stay, are not touched."""
    with _running_fleet(var, say) as fleet:
        plan = replace(fleet.plan, counts=check_counts({**fleet.plan.counts, **counts}))
        write_plan(fleet.paths, plan)
        changed = replace(fleet, plan=plan)
        present = {path.stem for path in fleet.paths.programs.iterdir()}
        missing = [program for program in changed.worker_programs if program.name not in present]
        write_programs(fleet.paths, missing, keep={*SERVERS, *plan.workers})
        _start_workers(changed, say, timeout)


def restart(var: Path, name: str, say: Say, timeout: float = READY_SECONDS) -> list[str]:
    """Restart a process, a kind, or ``all`` workers, one after the other; returns their names."""
    with _running_fleet(var, say) as fleet:
        workers = fleet.plan.workers
        every = [*fleet.plan.embedded, *workers]
        chosen = workers if name == "all" else [each for each in every if name in (each, kind_of(each))]
        if not chosen:
            raise ConfigurationError(f"There is no process {name}. There are {', '.join(every)}, and all.")
        for each in chosen:
            stop_and_wait(fleet.supervisor, [each], say, fleet.plan.stop_seconds)
            fleet.supervisor.start(each)
            if each in SERVERS:
                wait_for_server(fleet.supervisor, each, fleet.paths, timeout)
            else:
                wait_for_workers(fleet.supervisor, fleet.plan, [each], fleet.redis_url, fleet.paths, seconds=timeout)
            say(f"{each} was restarted")
        return chosen


def urls(settings: Settings) -> dict[str, str]:
    """REDIS_URL and DATABASE_URL of the fleet: the user's own, or of the embedded servers, running or not."""
    given = {}
    if settings.redis_url or settings.redis_host:
        given["REDIS_URL"] = settings.require_redis_url()
    if settings.database_url:
        given["DATABASE_URL"] = settings.require_database_url()
    if len(given) == len(VARIABLES):
        return given  # whatever lies in the folder, which may be somebody else's
    paths = paths_of(settings.var)
    plan = read_plan(paths)
    own = dict(zip(VARIABLES, plan.urls if plan else (None, None), strict=True))
    embedded = dict(zip(VARIABLES, remembered_urls(paths.var), strict=True))
    found = {name: url for name in VARIABLES if (url := given.get(name) or own[name] or embedded[name])}
    if missing := [name for name in VARIABLES if name not in found]:
        raise ConfigurationError(
            f"There is no fleet in {settings.var} yet: run `bargeline up` first, or set BARGELINE_VAR to its folder, "
            f"or {' and '.join(missing)} to what your workers use."
        )
    return found


def _stop_seconds(paths: Paths) -> int:
    """Seconds that each worker is given to end; a fleet whose plan is damaged can be stopped as well."""
    with contextlib.suppress(ConfigurationError):
        plan = read_plan(paths)
        if plan is not None:
            return plan.stop_seconds
    return worker_stop_seconds(load_settings({}))


def _embedded_urls(paths: Paths, plan: Plan) -> dict[str, str]:
    redis_url, database_url = remembered_urls(paths.var)
    remembered = {"valkey": ("REDIS_URL", redis_url), "postgres": ("DATABASE_URL", database_url)}
    return {name: url for engine, (name, url) in remembered.items() if engine in plan.embedded and url}


@contextmanager
def _my_turn(paths: Paths, say: Say) -> Iterator[None]:
    with exclusive(paths.lock, lambda: say("waiting for another bargeline command on this fleet")):
        yield


@contextmanager
def _running_fleet(var: Path, say: Say) -> Iterator[Fleet]:
    paths = paths_of(var)
    if not paths.folder.is_dir():
        raise Refused(
            f"There is no fleet in {var}. Start it with `bargeline up`, or set BARGELINE_VAR to its folder. Workers "
            "that a supervisord of your own runs are changed with supervisorctl."
        )
    with _my_turn(paths, say):
        supervisor = Supervisor(paths.socket)
        plan = read_plan(paths)
        if plan is None or supervisor.pid() is None:
            raise Refused(f"The fleet in {var} is down. Start it with `bargeline up`.")
        yield Fleet(paths, plan, supervisor, _embedded_urls(paths, plan))


def _start_servers(fleet: Fleet, servers: Sequence[Server], say: Say, timeout: float) -> None:
    running = fleet.supervisor.pid() is not None
    processes = fleet.supervisor.processes() if running else {}
    for server in servers:
        found = processes.get(server.name)
        if found is None or not found.pid:
            require_free_port(server, fleet.paths.var)
    write_programs(fleet.paths, map(server_program, servers), keep=processes)
    if running:
        apply(fleet.supervisor, say, fleet.plan.stop_seconds)
    else:
        start_supervisor(fleet.paths)
        say(f"supervisord runs as pid {fleet.supervisor.pid()}")
    ensure_running(fleet.supervisor, [server.name for server in servers])
    for server in servers:
        wait_for_server(fleet.supervisor, server.name, fleet.paths, timeout)
        say(f"{server.name} {server.version} answers on port {server.port}, data in {server.data}")


def _check_servers(fleet: Fleet, say: Say) -> None:
    """Check the servers that the workers will use, and bring the tables up to date."""
    try:
        name = check_redis(fleet.redis_url, fleet.plan.pipeline)
        if fleet.plan.brings_redis:
            say(f"{name} answers at REDIS_URL")
        for migration in migrate(fleet.database_url, load_pipeline(fleet.plan.settings.pipeline)):
            say(f"applied migration {migration}")
    except TransientError as error:
        raise Unreachable(
            f"{error} Check REDIS_URL and DATABASE_URL. No worker was started; `bargeline down` stops what was."
        ) from None


def _start_workers(fleet: Fleet, say: Say, timeout: float) -> None:
    """Make the workers what their files say, and wait until all are ready."""
    workers = fleet.plan.workers
    apply(fleet.supervisor, say, fleet.plan.stop_seconds)
    ensure_running(fleet.supervisor, workers)
    wait_for_workers(fleet.supervisor, fleet.plan, workers, fleet.redis_url, fleet.paths, seconds=timeout)
    counts = ", ".join(f"{kind} {count}" for kind, count in fleet.plan.counts.items())
    say(f"every worker is ready: {counts}")
