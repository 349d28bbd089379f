"""A fleet as its operator runs it: the command line, real processes, and a truth kept beside it."""

import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from bargeline.embedded.servers import remembered_urls
from bargeline.fleet.status import ProcessStatus, status
from shared.accounting import Balance, balance
from shared.errors import TransientError
from shared.generate import clicks, write_clicks
from shared.pipeline import load_pipeline
from shared.streams import Client
from shared.streams.inspect import figures, group_state
from shared.topology import STAGES, Topology
from tests.wait import until

COMMAND = (sys.executable, "-m", "bargeline.cli")


@dataclass(frozen=True)
class Fleet:
    """One state folder and the environment of its commands."""

    var: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, check: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """Run the operator's command to its end; with ``check`` it has to exit with 0."""
        done = subprocess.run(
            [*COMMAND, *arguments], env=self.env(), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the operator's command in the background."""
        return subprocess.Popen(
            [*COMMAND, *arguments], env=self.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def env(self) -> dict[str, str]:
        """Environment of a command."""
        return {**os.environ, "BARGELINE_VAR": str(self.var), **self.environment}

    def processes(self) -> dict[str, ProcessStatus]:
        """What `status` says of each process, by name."""
        found = status(self.var, judging=False)
        return {process.name: process for process in (*found.servers, *found.workers)}

    def pid(self, name: str) -> int:
        """Process id of a process that runs now."""
        return until(lambda: self.processes()[name].pid or 0, what=f"a process {name}")

    def url(self, name: str) -> str:
        """REDIS_URL or DATABASE_URL, as `env` prints it."""
        lines = self.run("env").stdout.splitlines()
        return next(shlex.split(line)[0].removeprefix(f"{name}=") for line in lines if line.startswith(f"{name}="))

    def balance(self) -> Balance:
        """The law in figures, as `reconcile` states it."""
        client = self.client()
        try:
            return balance(client.topology.partition, figures(client))
        finally:
            client.close()

    def client(self) -> Client:
        """A connection to the fleet's Redis."""
        url = self.environment.get("REDIS_URL") or remembered_urls(self.var)[0]
        assert url
        name = load_pipeline(self.environment.get("PIPELINE", "clickstream")).name
        return Client(url, Topology(name))

    def has_loaded(self, events: int) -> bool:
        """Whether more than so many events are in PostgreSQL; False while Redis is away."""
        try:
            return self.balance().loaded > events
        except TransientError:
            return False

    def settled(self, accepted: int) -> Balance | None:
        """The balance once so many events were accepted and none is in flight."""
        try:
            found = self.balance()
        except TransientError:
            return None
        return found if found.accepted >= accepted and not found.in_flight else None


@contextmanager
def fleet(var: Path, *counts: str, environment: Mapping[str, str] | None = None) -> Iterator[Fleet]:
    """A fleet that is up; afterwards it is down, and nothing of it runs."""
    found = Fleet(var, environment or {})
    try:
        found.run("up", *counts)
        yield found
    finally:
        found.run("down", "--delete-data", check=False)


@dataclass(frozen=True)
class Truth:
    """What has to be in PostgreSQL, known from the generated events alone."""

    events: int
    by_timezone: dict[str, tuple[int, int]]

    def __add__(self, other: "Truth") -> "Truth":
        zones = dict.fromkeys((*self.by_timezone, *other.by_timezone), (0, 0))
        for truth in (self, other):
            for zone, (mobile, total) in truth.by_timezone.items():
                zones[zone] = (zones[zone][0] + mobile, zones[zone][1] + total)
        return Truth(self.events + other.events, zones)


NOTHING = Truth(0, {})


def generated(path: Path, seed: int, count: int) -> Truth:
    """Write clicks to a file and say what has to come of them."""
    write_clicks(path, seed, count)
    mobile: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for click in clicks(seed, count):
        total[click["os_timezone"]] += 1
        mobile[click["os_timezone"]] += click["device_is_mobile"]
    return Truth(count, {zone: (mobile[zone], total[zone]) for zone in total})


def loaded(database_url: str) -> Truth:
    """What is in PostgreSQL; the rollup has to equal a recount of the rows."""
    with psycopg.connect(database_url) as connection:
        rollup = connection.execute(
            "SELECT os_timezone, sum(num_mobile_users)::int, sum(events)::int FROM mobile_users_by_timezone GROUP BY 1"
        ).fetchall()
        recount = connection.execute(
            "SELECT os_timezone, count(*) FILTER (WHERE device_is_mobile)::int, count(*)::int FROM clicks GROUP BY 1"
        ).fetchall()
        (rows,) = connection.execute("SELECT count(*) FROM clicks").fetchone() or (0,)
    assert sorted(rollup) == sorted(recount), "the rollup differs from a recount of the rows"
    return Truth(rows, {zone: (mobile, events) for zone, mobile, events in rollup})


def assert_exact(found: Fleet, truth: Truth, database_url: str, seconds: float = 180) -> None:
    """Every event is settled: each in its table once, the rollup right, nothing dead, lost or pending."""
    done = until(lambda: found.settled(truth.events), seconds=seconds, what="every event to be settled")
    assert done
    assert (done.accepted, done.loaded, done.duplicates) == (truth.events, truth.events, 0)
    assert (done.dead, done.lost, done.imbalance, done.findings) == (0, 0, 0, [])
    client = found.client()
    assert all(group_state(client, stage).pending_entries == 0 for stage in STAGES)
    client.close()
    assert loaded(database_url) == truth
