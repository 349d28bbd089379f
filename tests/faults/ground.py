"""What the kit stands on: two servers of its own behind two proxies, and a whole fleet as its operator runs it.

The kit itself talks to the servers directly, past the proxies. Everything it starts ends with it, by pid.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg

from bargeline.embedded import throwaway
from bargeline.fleet.orphans import find_orphans, find_supervisors
from bargeline.fleet.paths import Paths, paths_of
from bargeline.fleet.rpc import ProcessState, Supervisor
from shared.errors import BargelineError
from shared.pipeline import load_pipeline
from shared.streams import Client
from shared.topology import Topology
from tests.proxy import Proxy, through
from tests.workers import ROOT

PIPELINE = Path(__file__).parent / "pipeline"
WORKERS = ("ingest-01", "transform-01", "transform-02", "loader-01", "loader-02", "janitor-01")
COUNTS = ("--ingest", "1", "--transform", "2", "--loader", "2", "--janitor", "1")
#: Small batches and quick sweeps: more happens in a minute.
SETTINGS = {
    "LOG_FORMAT": "json",
    "INGEST_BATCH_EVENTS": "100",
    "TRANSFORM_BATCH_EVENTS": "200",
    "LOADER_BATCH_EVENTS": "400",
    "JANITOR_REPAIR_SECONDS": "3",
    "JANITOR_FOREIGN_IDLE_SECONDS": "4",
    "STALL_SECONDS": "60",
}
DISK_MEGABYTES = {"redis": 512, "postgres": 768}


@dataclass
class Server:
    """A throw-away server: its folder (a small disk of its own where mounting is allowed), process and direct URL."""

    engine: str
    folder: Path
    process: subprocess.Popen[bytes]
    url: str
    proxy: Proxy
    mounted: bool

    @property
    def alive(self) -> bool:
        """Whether its process has not ended."""
        return self.process.poll() is None

    def end(self) -> None:
        """Kill it, with what is left of its children."""
        self.process.kill()
        end_children(self.folder)
        self.process.wait()

    def restart(self) -> None:
        """Start it again with its data; what its former process left behind ends first."""
        self.end()
        self.process, url = start_server(self.engine, self.folder, mounted=self.mounted)
        assert url == self.url


@dataclass
class Ground:
    """The fleet, its servers, and direct connections to them."""

    folder: Path
    code: Path
    redis: Server
    postgres: Server
    environment: dict[str, str]
    twins: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def paths(self) -> Paths:
        """Files of the fleet."""
        return paths_of(self.folder / "var")

    @property
    def pipeline(self) -> Path:
        """The folder of the pipeline, also of the marks that user code leaves."""
        return self.folder / "pipeline"

    @property
    def topology(self) -> Topology:
        """Keys of the pipeline."""
        return Topology(load_pipeline(str(self.pipeline)).name)

    @property
    def supervisor(self) -> Supervisor:
        """The fleet's supervisord."""
        return Supervisor(self.paths.socket)

    def processes(self) -> dict[str, ProcessState]:
        """The fleet's workers by name; none while supervisord is away."""
        with contextlib.suppress(BargelineError):
            return self.supervisor.processes()
        return {}

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the operator's command, with its output in a log."""
        with (self.folder / "commands.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "bargeline.cli", *arguments],
                cwd=self.code,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def run(self, *arguments: str, seconds: float = 120) -> None:
        """Run the operator's command to its end; it has to exit with 0."""
        command = self.command(*arguments)
        try:
            code: int | None = command.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            command.kill()
            command.wait()
        log = (self.folder / "commands.log").read_text()[-2_000:]
        assert code == 0, f"bargeline {arguments}: exit {code} (None: not within {seconds:g} s)\n{log}"

    def client(self) -> Client:
        """A client of ours, past the proxy."""
        return Client(self.redis.url, self.topology)

    def database(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection, past the proxy."""
        return psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=10)

    def hurry(self) -> None:
        """From now on neither user code nor the tables take their time."""
        (self.pipeline / "hurry").touch()
        with self.database() as connection:
            connection.execute("UPDATE pace SET seconds = 0")


@contextmanager
def ground(folder: Path, code: Path = ROOT, *, disks: bool = True) -> Iterator[Ground]:
    """A fleet that is up, running the code in ``code``; afterwards nothing of it runs."""
    shutil.copytree(PIPELINE, folder / "pipeline")
    with ExitStack() as stack:
        redis, postgres = (_server(stack, folder, engine, disks=disks) for engine in ("redis", "postgres"))
        found = Ground(folder, code, redis, postgres, _environment(folder, redis, postgres))
        stack.callback(_end, found)
        found.run("up", *COUNTS)
        yield found


def _environment(folder: Path, redis: Server, postgres: Server) -> dict[str, str]:
    return {
        **os.environ,
        **SETTINGS,
        "REDIS_URL": through(redis.url, redis.proxy),
        "DATABASE_URL": through(postgres.url, postgres.proxy),
        "PIPELINE": str(folder / "pipeline"),
        "BARGELINE_VAR": str(folder / "var"),
    }


def _server(stack: ExitStack, folder: Path, engine: str, *, disks: bool) -> Server:
    home = folder / engine
    home.mkdir(mode=0o755)
    mounted = disks and mount(home, DISK_MEGABYTES[engine])
    if mounted:
        stack.callback(subprocess.run, ["umount", str(home)], check=False)
    process, url = start_server(engine, home, mounted=mounted)
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = stack.enter_context(Proxy(parts.hostname, parts.port, postgres=engine == "postgres"))
    found = Server(engine, home, process, url, proxy, mounted)
    stack.callback(found.end)
    return found


def start_server(engine: str, folder: Path, *, mounted: bool) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server with its data in ``folder``."""
    if engine == "redis":
        # With `everysec` Valkey answers before it writes while the disk is slow to sync. A disk in memory never
        # is; on another one a kill would now and then take what was acknowledged, which is no fault of the fleet.
        return throwaway.start_valkey(folder, "--appendfsync", "everysec" if mounted else "always")
    # The settings that a crash is to be survived with; a small log, since its disk is small.
    return throwaway.start_postgres(folder, fsync="on", max_wal_size="128MB", max_connections="60")


def mount(folder: Path, megabytes: int) -> bool:
    """Make ``folder`` a small disk of its own; False where that is not allowed."""
    options = f"size={megabytes}m,mode=0755"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def end_children(folder: Path) -> None:
    """Kill what a PostgreSQL left behind: its children stay in its data directory."""
    found = [process for process in psutil.process_iter() if _is_in(process, folder / "postgres")]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=20)


def _is_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):
        return False


def _end(found: Ground) -> None:
    """End the fleet as its operator would, then whatever is left of it."""
    for process in found.processes().values():
        if process.pid:
            signal_process(process.pid, signal.SIGCONT)
    for twin in found.twins:
        if twin.poll() is None:
            twin.kill()
            twin.wait()
    with contextlib.suppress(AssertionError):
        found.run("down", seconds=60)
    left = [*find_supervisors(found.paths), *(orphan.process for orphan in find_orphans(found.paths, None))]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def signal_process(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if the process has just ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def clock() -> str:
    """The time of day, as the logs of the fleet have it."""
    return time.strftime("%H:%M:%S", time.gmtime())
