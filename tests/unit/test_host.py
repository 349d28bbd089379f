"""Files for a host's own supervisord: what they say, and what is refused before they are written."""

import getpass
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from bargeline.fleet.host import STANDARD, Host, committed, files, host_in
from bargeline.fleet.host_files import write_host
from bargeline.fleet.plan import DEFAULT_COUNTS
from shared.errors import ConfigurationError, Refused
from shared.run import DRAIN_SECONDS
from shared.settings import load_settings
from shared.topology import KINDS

DEPLOY = Path(__file__).parents[2] / "deploy" / "supervisor"
SETTINGS = {
    "REDIS_URL": "redis://:red-secret@127.0.0.1/0",
    "DATABASE_URL": "postgresql://u:blue-secret@127.0.0.1/db",
    "PIPELINE": "clickstream",
    "INGEST_PATH": "/data/*",
}


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host of which nothing is there but a good file of settings; its path is short, for the socket's sake."""
    folder = tmp_path_factory.mktemp("h") / "host"
    folder.mkdir()
    found = host_in(folder, Path(sys.executable), getpass.getuser())
    settle(found)
    return found


def settle(host: Host, **changes: str | None) -> None:
    """Write the file of settings, with these changes (None: without it)."""
    lines = [f"{name}={value}\n" for name, value in {**SETTINGS, **changes}.items() if value is not None]
    host.env_file.write_text("".join(lines))
    host.env_file.chmod(0o600)


def write(host: Host, *, overwrite: bool = False, **counts: int) -> list[str]:
    said: list[str] = []
    write_host(host, {**DEFAULT_COUNTS, **counts}, said.append, overwrite=overwrite)
    return said


def read(host: Host, monkeypatch: pytest.MonkeyPatch) -> ServerOptions:
    """The configuration as supervisord understands it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # supervisord warns root
    options = ServerOptions()
    options.realize(["-c", str(host.configuration)])
    return options


def test_what_is_committed_is_current() -> None:
    found = {str(path.relative_to(DEPLOY)): path.read_text() for path in DEPLOY.rglob("*") if path.is_file()}
    assert found == committed(), "run `make reference`"


def test_a_copied_file_with_another_name_in_its_first_line_is_another_worker(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(host)
    original = host.folder / "conf.d" / "transform-01.ini"
    assert original.read_text().count("transform-01") == 1
    original.with_name("transform-02.ini").write_text(original.read_text().replace("transform-01", "transform-02"))
    groups = {group.name: group.process_configs for group in read(host, monkeypatch).process_group_configs}
    assert groups.keys() == {*(f"{kind}-01" for kind in KINDS), "transform-02"}
    for name in ("transform-01", "transform-02"):
        (process,) = groups[name]
        assert process.environment == {
            "BARGELINE_ENV_FILE": str(host.env_file),
            "CONSUMER_NAME": f"{platform.node()}-{name}",
            "METRICS_PORT": "0",
        }
        assert process.stdout_logfile == str(host.logs / f"{name}.log")
        assert process.command == f"{sys.executable} -m workers.transform"


def test_supervisord_is_told_who_runs_it_and_who_may_use_its_socket(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(host)
    options = read(host, monkeypatch)
    assert options.configroot.supervisord.user == host.user
    assert options.configroot.supervisord.pidfile == str(host.run / "supervisord.pid")
    (server,) = options.configroot.supervisord.server_configs
    assert (server["file"], server["chmod"]) == (str(host.socket), 0o770)
    stops = {group.name: group.priority for group in options.process_group_configs}
    assert sorted(stops, key=lambda name: -stops[name]) == [f"{kind}-01" for kind in KINDS]


def test_the_first_janitor_has_the_port_that_prometheus_is_told(host: Host) -> None:
    def port(name: str) -> list[str]:
        return re.findall(r'METRICS_PORT="(\d+)"', (host.folder / "conf.d" / f"{name}.ini").read_text())

    write(host, janitor=2)
    assert (port("janitor-01"), port("janitor-02")) == (["9400"], ["0"])
    settle(host, METRICS_PORT="9555")
    write(host, janitor=2, overwrite=True)
    assert (port("janitor-01"), port("janitor-02"), port("loader-01")) == (["9555"], ["0"], ["0"])


@pytest.mark.parametrize(("timeout", "seconds"), [("5", DRAIN_SECONDS + 10), ("90", 100)])
def test_nobody_is_killed_before_it_had_time_to_drain(timeout: str, seconds: int) -> None:
    texts = files(STANDARD, DEFAULT_COUNTS, load_settings({"TRANSFORM_TIMEOUT_SECONDS": timeout}))
    assert all(f"\nstopwaitsecs = {seconds}\n" in text for name, text in texts.items() if name.startswith("conf.d"))
    assert f"\nTimeoutStopSec={seconds + 20}\n" in texts["bargeline.service"]


def test_an_ingest_that_ends_by_itself_is_not_started_again() -> None:
    once, watching = (
        files(STANDARD, DEFAULT_COUNTS, load_settings({"INGEST_WATCH": value}))["conf.d/ingest-01.ini"]
        for value in ("false", "true")
    )
    assert "\nautorestart = unexpected\n" in once
    assert "\nautorestart = true\n" in watching


def test_without_settings_an_example_is_written_that_only_its_readers_may_read(host: Host) -> None:
    host.env_file.unlink()
    said = write(host)
    assert said[0] == f"wrote {host.env_file}: an example, to be edited"
    assert host.env_file.stat().st_mode & 0o007 == 0
    host.env_file.write_text(host.env_file.read_text().replace("password@", "other@"))
    assert all(line.endswith(" is as it has to be") for line in write(host))
    assert "other@" in host.env_file.read_text()


def test_no_secret_leaves_the_file_of_settings(host: Host) -> None:
    write(host)
    written = [path for path in host.folder.rglob("*") if path.is_file() and path != host.env_file]
    assert len(written) == len(committed()) - 1
    for path in written:
        assert not re.search("red-secret|blue-secret", path.read_text())
        assert path.stat().st_mode & 0o777 == 0o644


def test_files_that_differ_are_overwritten_only_when_told(host: Host) -> None:
    write(host, transform=2)
    changed, mine = (host.folder / "conf.d" / name for name in ("loader-01.ini", "mine.ini"))
    changed.write_text("mine")
    mine.write_text("mine too")
    with pytest.raises(Refused, match=r"loader-01\.ini: there already, and different"):
        write(host)
    assert changed.read_text() == "mine"
    said = write(host, overwrite=True)
    assert f"wrote {changed}" in said
    assert f"left {mine} as it is" in said
    assert f"left {host.folder / 'conf.d' / 'transform-02.ini'} as it is" in said
    assert mine.read_text() == "mine too"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LOADER_BATCH_EVENT": "7"}, r"bargeline\.env:5: LOADER_BATCH_EVENT\b.* Did you mean LOADER_BATCH_EVENTS"),
        ({"LOG_LEVEL": "loud"}, r"bargeline\.env:5: LOG_LEVEL='loud'"),
        ({"REDIS_URL": None}, r"bargeline\.env: REDIS_URL is not set"),
        ({"DATABASE_URL": None}, r"bargeline\.env: DATABASE_URL is not set"),
        ({"DATABASE_URL": None, "DATABASE_URL_FILE": "/no/such"}, r"bargeline\.env:4: DATABASE_URL_FILE=/no/such"),
        ({"PIPELINE": "no-such"}, r"bargeline\.env: .*no-such"),
        ({"INGEST_PATH": None}, r"bargeline\.env: INGEST_PATH is not set"),
        ({"INGEST_SOURCE": "stdin"}, r"bargeline\.env: INGEST_SOURCE=stdin"),
        ({"CONSUMER_NAME": "me"}, r"bargeline\.env: CONSUMER_NAME"),
    ],
)
def test_settings_that_no_fleet_can_use_are_named_with_their_place(
    host: Host, changes: dict[str, str | None], message: str
) -> None:
    settle(host, **changes)
    with pytest.raises(ConfigurationError, match=message):
        write(host)
    assert not host.configuration.exists()


def test_without_ingest_no_path_is_needed(host: Host) -> None:
    settle(host, INGEST_PATH=None)
    write(host, ingest=0)
    assert not (host.folder / "conf.d" / "ingest-01.ini").exists()


def test_paths_in_the_settings_start_where_the_settings_lie(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.folder / "redis-url").write_text("redis://127.0.0.1/0\n")
    shutil.copytree(DEPLOY.parents[1] / "config" / "pipelines" / "clickstream", host.folder / "mine")
    settle(host, REDIS_URL=None, REDIS_URL_FILE="redis-url", PIPELINE="mine")
    monkeypatch.chdir("/")
    write(host)
    assert f"directory = {host.folder}\n" in (host.folder / "conf.d" / "loader-01.ini").read_text()


def test_a_password_that_everybody_may_read_is_refused(host: Host) -> None:
    host.env_file.chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"bargeline\.env holds a password, and everybody may read it"):
        write(host)
    settle(host, REDIS_URL="redis://127.0.0.1/0", DATABASE_URL=None, DATABASE_URL_FILE="url")
    host.env_file.chmod(0o644)
    (host.folder / "url").write_text("postgresql://u:blue-secret@127.0.0.1/db")
    (host.folder / "url").chmod(0o604)
    with pytest.raises(ConfigurationError, match="url holds a password, and everybody") as refused:
        write(host)
    assert "blue-secret" not in str(refused.value)
    (host.folder / "url").chmod(0o600)
    write(host)


def test_settings_that_the_user_may_not_read_are_refused(host: Host) -> None:
    other = replace(host, user="nobody")
    with pytest.raises(ConfigurationError, match=r"bargeline\.env: nobody may not read it"):
        write(other)


def test_a_folder_that_cannot_be_written_is_named(host: Host) -> None:
    folder = host.env_file / "x"
    with pytest.raises(ConfigurationError, match=rf"{folder}: Not a directory\. Run this as root"):
        write(host_in(folder, host.python, host.user))


def test_a_user_and_places_that_cannot_be_are_refused(host: Host) -> None:
    with pytest.raises(ConfigurationError, match="There is no user bargeline-nobody"):
        write(replace(host, user="bargeline-nobody"))
    with pytest.raises(ConfigurationError, match="too long for a socket's path"):
        write(replace(host, run=host.folder / ("x" * 100)))
    with pytest.raises(ConfigurationError, match="supervisord cannot read a path with"):
        write(replace(host, logs=host.folder / "100%"))


@pytest.mark.needs_program("systemd-analyze")
def test_systemd_accepts_the_unit(host: Host) -> None:
    write(host)
    standard = DEPLOY / STANDARD.unit.name
    checks = {host.unit: ("verify", "--man=no"), standard: ("security", "--offline=true", "--threshold=20")}
    for unit, arguments in checks.items():
        done = subprocess.run(["systemd-analyze", *arguments, str(unit)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ".service:" not in done.stderr


def test_each_pipeline_of_a_host_has_places_of_its_own() -> None:
    orders = host_in(Path("/etc/orders"), STANDARD.python, "carrier")
    assert (orders.run, orders.logs, orders.unit) == (
        Path("/run/orders"),
        Path("/var/log/orders"),
        Path("/etc/orders/orders.service"),
    )
    texts = files(orders, DEFAULT_COUNTS, load_settings({}))
    assert not [name for name, text in texts.items() if "/bargeline/" in text.replace(str(STANDARD.python), "")]
    assert "\nUser=carrier\n" in texts["orders.service"]
    assert "\nRuntimeDirectory=orders\n" in texts["orders.service"]
    at_home = host_in(Path("/home/me/host"), STANDARD.python, "me")
    assert (at_home.run, at_home.logs) == (Path("/home/me/host/run"), Path("/home/me/host/log"))


def test_the_unit_makes_the_folders_that_lie_where_systemd_makes_them(host: Host) -> None:
    standard = committed()["bargeline.service"]
    assert "\nRuntimeDirectory=bargeline\n" in standard
    assert "\nLogsDirectory=bargeline\n" in standard
    assert "ReadWritePaths" not in standard
    write(host)
    assert f"\nReadWritePaths={host.run}\nReadWritePaths={host.logs}\n" in host.unit.read_text().replace("\n\n", "\n")
