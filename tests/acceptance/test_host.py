"""A fleet on a host, as docs/host.md has it: rendered files, supervisord, and supervisorctl alone."""

import getpass
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from bargeline.fleet.rpc import Supervisor
from shared.generate import write_clicks
from shared.streams import live_workers
from shared.streams.inspect import group_state
from shared.topology import STAGES
from tests import conftest
from tests.acceptance.fleet import Fleet, assert_exact, generated
from tests.folders import open_folder
from tests.ordinary import as_ordinary_user
from tests.wait import until
from tests.workers import make_pipeline

EVENTS = 20_000
WORKERS = ("ingest-01", "transform-01", "loader-01", "janitor-01")
#: Who owns the processes: root hands them to this one.
USER = "nobody" if os.geteuid() == 0 else getpass.getuser()


@dataclass(frozen=True)
class Host:
    """A folder with the rendered files, and the commands of its operator."""

    folder: Path
    fleet: Fleet

    @property
    def configuration(self) -> Path:
        return self.folder / "supervisord.conf"

    @property
    def env_file(self) -> Path:
        return self.folder / "bargeline.env"

    @property
    def inbox(self) -> Path:
        return self.folder.parent / "inbox"

    def ctl(self, *arguments: str) -> str:
        """What supervisorctl says; it is all that changes this fleet."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.configuration), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def pids(self) -> dict[str, int]:
        """Pids of what runs, by name; asked for over the socket, since supervisorctl takes long to start."""
        processes = Supervisor(self.folder / "run" / "supervisor.sock").processes()
        return {name: process.pid for name, process in processes.items() if process.state == "RUNNING"}

    def live(self) -> set[str]:
        """The workers that hold a lease, by the names of their programs."""
        client = self.fleet.client()
        found = {lease.name.removeprefix(f"{os.uname().nodename}-") for lease in live_workers(client)}
        client.close()
        return found

    def logs(self, name: str) -> str:
        """What a worker wrote, rotated or not."""
        return "".join(path.read_text() for path in (self.folder / "log").glob(f"{name}.log*"))

    def program(self, name: str) -> Path:
        return self.folder / "conf.d" / f"{name}.ini"

    def copy(self, name: str, new: str) -> None:
        """One more worker, as docs/scale.md has it."""
        subprocess.run(
            f"sed s/{name}/{new}/ {name}.ini > {new}.ini", shell=True, check=True, cwd=self.program(name).parent
        )

    def drop(self, file: Path) -> None:
        """Hand a file to the fleet, whole."""
        file.rename(self.inbox / file.name)


@pytest.fixture(scope="module")
def database_url(database_server_url: str, migrated_template: str) -> Iterator[str]:
    yield from conftest._database(database_server_url, migrated_template)


@pytest.fixture(scope="module")
def host(redis_url: str, database_url: str) -> Iterator[Host]:
    """A fleet that an ordinary user's supervisord runs, with one worker of each kind."""
    with open_folder() as folder, redis.Redis.from_url(redis_url) as client:
        for name in conftest._namespace(client):
            pipeline = make_pipeline(folder / "pipeline", name)
            servers = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "PIPELINE": str(pipeline)}
            found = Host(folder / "host", Fleet(folder / "no-fleet-here", servers))
            _prepare(found)
            with _supervised(found):
                yield found


def _prepare(host: Host) -> None:
    host.folder.mkdir()
    host.inbox.mkdir()
    lines = {**host.fleet.environment, "INGEST_PATH": f"{host.inbox}/*.ndjson", "INGEST_WATCH": "true"}
    host.env_file.touch(0o600)
    host.env_file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    shutil.chown(host.env_file, USER)
    # supervisord looks at the file's modes only, and an ordinary user may be let through to this Python by more.
    python = host.folder.parent / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    host.fleet.run("supervisor", "render", "--output", str(host.folder), "--user", USER, "--python", str(python))
    _edit(host.program("janitor-01"), 'METRICS_PORT="9400"', 'METRICS_PORT="0"')
    _edit(host.program("loader-01"), "maxbytes = 10MB", "maxbytes = 100")


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@contextmanager
def _supervised(host: Host) -> Iterator[None]:
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(host.configuration)]
    started = as_ordinary_user(command, host.folder)
    assert started.returncode == 0, started.stderr
    try:
        until(lambda: host.pids().keys() == set(WORKERS), what="the workers to run")
        yield
    finally:
        host.ctl("shutdown")
        until(lambda: not (host.folder / "run" / "supervisord.pid").exists(), seconds=60, what="supervisord's end")
    assert _ends(host)[-len(WORKERS) :] == [(name, "exit status 0") for name in WORKERS], "not upstream first"


def _ends(host: Host) -> list[tuple[str, str]]:
    """How workers ended that were stopped, in order."""
    return re.findall(r"stopped: (\S+) \((.*)\)", host.logs("supervisord"))


@pytest.mark.timeout(240)
def test_supervisorctl_alone_scales_under_load_and_the_count_is_exact(
    host: Host, database_url: str, tmp_path: Path
) -> None:
    first, second = (generated(tmp_path / f"{seed}.ndjson", seed, EVENTS) for seed in (1, 2))
    before = host.pids()
    host.drop(tmp_path / "1.ndjson")
    until(lambda: host.fleet.has_loaded(0), what="events to flow")

    for new in ("transform-02", "transform-03"):
        host.copy("transform-01", new)
    assert "transform-02: available" in host.ctl("reread")
    assert "transform-03: added process group" in host.ctl("update")
    until(lambda: host.live() == {*WORKERS, "transform-02", "transform-03"}, what="two more to join")
    assert {name: pid for name, pid in host.pids().items() if name in before} == before

    host.drop(tmp_path / "2.ndjson")
    until(lambda: host.fleet.has_loaded(EVENTS), seconds=120, what="the second file to flow")
    for gone in ("transform-02", "transform-03"):
        assert f"{gone}: stopped" in host.ctl("stop", gone)
        host.program(gone).unlink()
    assert "transform-03: removed process group" in host.ctl("update")
    assert host.pids() == before
    assert host.live() == set(WORKERS)
    assert_exact(host.fleet, first + second, database_url)


def test_stopped_by_supervisorctl_every_worker_drains(host: Host, tmp_path: Path) -> None:
    accepted = host.fleet.balance().accepted
    write_clicks(tmp_path / "3.ndjson", 3, EVENTS)
    host.drop(tmp_path / "3.ndjson")
    until(lambda: host.fleet.balance().accepted > accepted, what="events to flow")
    host.ctl("stop", "all")
    client = host.fleet.client()
    assert all(group_state(client, stage).pending_entries == 0 for stage in STAGES), "something was left in hand"
    client.close()
    assert dict(_ends(host)[-len(WORKERS) :]) == dict.fromkeys(WORKERS, "exit status 0")
    assert host.live() == set()
    host.ctl("start", "all")
    done = until(lambda: host.fleet.settled(accepted + EVENTS), seconds=120, what="the rest to be loaded")
    assert done
    assert (done.loaded, done.imbalance) == (accepted + EVENTS, 0)


def test_workers_run_as_the_ordinary_user_and_share_no_secret_with_others(host: Host) -> None:
    for pid in (*host.pids().values(), int((host.folder / "run" / "supervisord.pid").read_text())):
        assert Path(f"/proc/{pid}").owner() == USER
    password = host.fleet.environment["DATABASE_URL"].split(":")[2].partition("@")[0]
    for path in (
        host.configuration,
        *host.configuration.parent.glob("conf.d/*.ini"),
        host.folder / "host.service",
    ):
        assert password not in path.read_text(), path
    assert {path.stat().st_mode & 0o007 for path in (host.folder / "log").glob("*-01.log")} == {0}


def test_commands_know_a_fleet_that_they_did_not_start(host: Host) -> None:
    assert "balanced" in host.fleet.run("reconcile").stdout
    stranger = Fleet(host.fleet.var, {"BARGELINE_ENV_FILE": str(host.env_file)})
    shown = stranger.run("status").stdout
    assert all(f"{os.uname().nodename}-{name}" in shown for name in WORKERS)
    assert stranger.run("doctor", check=False).stdout.count("ok: workers") == 1
    assert stranger.run("tail", "dead").stdout == ""


def test_a_log_that_has_reached_its_size_is_rotated(host: Host) -> None:
    until((host.folder / "log" / "loader-01.log.1").exists, what="a second log file")
    assert "started" in host.logs("loader-01")
    assert not (host.folder / "log" / "ingest-01.log.1").exists()


def test_a_setting_is_taken_up_by_a_restart_and_a_wrong_one_is_named_in_the_log(host: Host) -> None:
    good = host.env_file.read_text()
    before = host.pids()
    _edit(host.env_file, "INGEST_WATCH", "INGEST_WACTH")
    host.ctl("restart", "loader-01")
    # On a machine this busy a start may take longer than startsecs: then it is not BACKOFF that it is in.
    until(lambda: "exited: loader-01 (exit status 2; not expected)" in host.logs("supervisord"), what="its end")
    assert "bargeline.env:5: INGEST_WACTH" in host.logs("loader-01")
    host.env_file.write_text(good)
    until(lambda: host.pids().keys() == before.keys(), seconds=60, what="the loader to start by itself")
    assert {name for name, pid in host.pids().items() if before[name] != pid} == {"loader-01"}
