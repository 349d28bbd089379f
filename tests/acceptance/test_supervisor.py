"""A fleet under its supervisor: what up, scale, restart, status and down do to real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import redis

from bargeline.embedded.ports import choose_port
from bargeline.fleet.orphans import find_supervisors
from bargeline.fleet.paths import Paths
from bargeline.fleet.rpc import Supervisor
from shared.generate import write_clicks
from tests.acceptance.fleet import COMMAND, Fleet
from tests.folders import open_folder
from tests.ordinary import as_ordinary_user
from tests.wait import until

WORKERS = ("ingest-01", "transform-01", "loader-01", "janitor-01")
SERVERS = ("valkey", "postgres")


@pytest.fixture(scope="module")
def shared_fleet() -> Iterator[Fleet]:
    """One fleet for most tests, whatever state they leave it in; its folder has a space in its name."""
    with open_folder() as folder:
        found = Fleet(folder / "state folder")
        found.run("up")
        yield found
        found.run("down")


@pytest.fixture
def running(shared_fleet: Fleet) -> Fleet:
    """The shared fleet, with one worker of each kind and everything ready."""
    shared_fleet.run("up", "--ingest", "1", "--transform", "1", "--loader", "1", "--janitor", "1")
    return shared_fleet


@pytest.fixture
def own_fleet() -> Iterator[Fleet]:
    """A fleet of the test's own that is not up yet."""
    with open_folder() as folder:
        found = Fleet(folder / "var")
        yield found
        found.run("down", check=False)


def pids(fleet: Fleet) -> dict[str, int]:
    """Pids of what runs, by name."""
    return {name: each.pid for name, each in fleet.processes().items() if each.pid}


def everything(fleet: Fleet) -> list[psutil.Process]:
    """supervisord and all its descendants."""
    (supervisord,) = find_supervisors(Paths(fleet.var))
    return [supervisord, *supervisord.children(recursive=True)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill_supervisor(fleet: Fleet) -> psutil.Process:
    (supervisord,) = find_supervisors(Paths(fleet.var))
    supervisord.kill()
    until(lambda: not is_alive(supervisord), what="the end of supervisord")
    return supervisord


def healthy(fleet: Fleet) -> bool:
    return fleet.run("status", check=False).returncode == 0


def test_status_shows_every_process_its_lease_and_its_metrics(running: Fleet) -> None:
    found = json.loads(running.run("status", "--json").stdout)
    assert found["healthy"] is True
    assert found["pipeline"] == "clickstream"
    assert [each["name"] for each in found["workers"]] == list(WORKERS)
    for each in found["workers"]:
        assert each["ready"], each
        assert each["consumer"].endswith(each["name"])
        assert each["address"].startswith("127.0.0.1:")
        assert psutil.Process(each["pid"]).cmdline()[-1] == f"workers.{each['kind']}"
    assert [each["state"] for each in found["servers"]] == ["RUNNING", "RUNNING"]
    shown = running.run("status").stdout
    assert all(name in shown for name in (*WORKERS, *SERVERS))


def test_a_second_up_changes_nothing(running: Fleet) -> None:
    before = pids(running)
    running.run("up")
    assert pids(running) == before


def test_scale_touches_only_the_difference(running: Fleet) -> None:
    before = pids(running)
    running.run("scale", "transform=3", "loader=2")
    larger = pids(running)
    assert larger.keys() - before.keys() == {"transform-02", "transform-03", "loader-02"}
    assert {name: larger[name] for name in before} == before
    said = running.run("scale", "transform=2").stdout
    assert "stopped transform-03" in said
    assert "kill" not in said
    assert pids(running) == {name: pid for name, pid in larger.items() if name != "transform-03"}
    running.run("up")
    assert pids(running).keys() == before.keys() | {"transform-02", "loader-02"}, "counts are remembered"
    running.run("scale", "transform=1", "loader=1")
    assert pids(running) == before


def test_scale_refuses_what_makes_no_sense(running: Fleet) -> None:
    for argument in ("transform", "transform=x", "rocket=1", "transform=100", "transform=-1"):
        done = running.run("scale", argument, check=False)
        assert done.returncode == 2, done.stderr
        assert argument.partition("=")[0] in done.stderr


@pytest.mark.slow
def test_restart_takes_a_name_a_kind_or_all_workers(running: Fleet) -> None:
    before = pids(running)
    running.run("restart", "loader-01")
    after = pids(running)
    assert {name for name in before if before[name] != after[name]} == {"loader-01"}
    running.run("restart", "transform")
    running.run("restart")
    last = pids(running)
    assert {name for name in after if after[name] != last[name]} == set(WORKERS)
    running.run("restart", "valkey")
    final = pids(running)
    assert {name for name in last if last[name] != final[name]} == {"valkey"}
    done = running.run("restart", "rocket", check=False)
    assert (done.returncode, "There are valkey, postgres, ingest-01" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_changed_setting_restarts_workers_and_not_servers(running: Fleet) -> None:
    before = pids(running)
    Fleet(running.var, {"LOG_LEVEL": "warning"}).run("up")
    after = pids(running)
    assert {name for name in before if before[name] != after[name]} == set(WORKERS)
    environment = psutil.Process(after["loader-01"]).environ()
    assert environment["LOG_LEVEL"] == "warning"
    running.run("up")
    assert "LOG_LEVEL" not in psutil.Process(pids(running)["loader-01"]).environ()


@pytest.mark.slow
def test_scale_in_another_shell_starts_workers_like_the_others(running: Fleet) -> None:
    other_shell = Fleet(running.var, {"LOG_LEVEL": "error"})
    other_shell.run("scale", "transform=2")
    assert "LOG_LEVEL" not in psutil.Process(pids(running)["transform-02"]).environ()


@pytest.mark.slow
def test_another_folder_and_another_name_of_python_change_nothing(running: Fleet) -> None:
    before = pids(running)
    python = Path(sys.executable).with_name(f"python{sys.version_info.major}.{sys.version_info.minor}")
    for arguments in (["scale", "transform=2"], ["up", "--transform", "1"]):
        environment = {**running.env(), "PYTHONPATH": str(Path.cwd())}
        command = [str(python), *COMMAND[1:], *arguments]
        subprocess.run(command, cwd=running.var, env=environment, check=True, capture_output=True)
    assert pids(running) == before


@pytest.mark.slow
def test_a_fixed_metrics_port_is_the_first_janitors_and_is_remembered(running: Fleet) -> None:
    port = choose_port(set())
    Fleet(running.var, {"METRICS_PORT": str(port)}).run("up", "--transform", "2")
    running.run("up")
    assert healthy(running)
    addresses = {name: process.address for name, process in running.processes().items()}
    assert [name for name, address in addresses.items() if address == f"127.0.0.1:{port}"] == ["janitor-01"]


def test_killed_processes_come_back_and_the_data_with_them(running: Fleet) -> None:
    with redis.Redis.from_url(running.url("REDIS_URL")) as client:
        client.xadd("{mine}:stream", {"n": "1"})
        client.execute_command("WAITAOF", 1, 0, 5_000)
    before = pids(running)
    for name in (*SERVERS, "transform-01"):
        os.kill(before[name], signal.SIGKILL)
    until(lambda: pids(running).keys() == before.keys() and healthy(running), seconds=90, what="a healthy fleet")
    after = pids(running)
    changed = {name for name in before if before[name] != after[name]}
    assert changed >= {*SERVERS, "transform-01"}
    with redis.Redis.from_url(running.url("REDIS_URL")) as client:
        assert client.xlen("{mine}:stream") == 1
        client.delete("{mine}:stream")


def test_a_stopped_worker_is_a_finding_and_up_starts_it(running: Fleet) -> None:
    Supervisor(Paths(running.var).socket).stop("janitor-01")
    until(lambda: running.processes()["janitor-01"].state == "STOPPED", what="the janitor's end")
    done = running.run("status", check=False)
    assert done.returncode == 1
    assert "janitor-01 is not ready: it is STOPPED" in done.stdout
    running.run("up")
    assert healthy(running)


def test_files_in_the_inbox_are_ingested_and_shown(running: Fleet) -> None:
    name = "put here.ndjson"
    write_clicks(running.var / "inbox" / f".{name}", 1, 500)
    (running.var / "inbox" / f".{name}").rename(running.var / "inbox" / name)
    source = str(running.var / "inbox" / name)

    def read() -> bool:
        # A worker may still be coming back from the kills of the test before: then status exits with 1.
        sources = json.loads(running.run("status", "--json", check=False).stdout)["sources"]
        return bool(source in sources and sources[source]["lines"] == 500)

    until(read, seconds=60, what="the checkpoint of the file")
    assert source in running.run("status", check=False).stdout


def test_logs_carry_the_name_of_their_process(running: Fleet) -> None:
    shown = running.run("logs", "transform", "-n", "1").stdout.splitlines()
    assert shown
    assert {line.split()[0].rstrip("0123456789") for line in shown} == {"transform-"}
    with running.start("logs", "janitor-01", "-f", "-n", "1") as following:
        assert following.stdout is not None
        assert following.stdout.readline(), "it follows from here on"
        running.run("restart", "janitor-01")
        assert following.stdout.readline().startswith("janitor-01 ")
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=30)


def test_env_can_be_evaluated_whatever_the_folder_is_called(running: Fleet) -> None:
    script = 'eval "$("$@" env)" && "$0" -c "import os; print(os.environ[\'REDIS_URL\'], os.environ[\'DATABASE_URL\'])"'
    answer = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, *COMMAND],
        env=running.env(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == [running.url("REDIS_URL"), running.url("DATABASE_URL")]


def test_the_supervisor_outlives_the_terminal(running: Fleet) -> None:
    (supervisord,) = find_supervisors(Paths(running.var))
    assert os.getsid(supervisord.pid) != os.getsid(0)
    assert supervisord.terminal() is None


def test_no_secret_in_a_command_line_or_a_log(running: Fleet) -> None:
    password = running.url("DATABASE_URL").split(":")[2].partition("@")[0]
    for process in everything(running):
        assert not any(password in part for part in process.cmdline())
    for log in Paths(running.var).logs.iterdir():
        assert password not in log.read_text(errors="replace"), log


@pytest.mark.slow
def test_two_ups_at_once_take_turns(own_fleet: Fleet) -> None:
    first, second = own_fleet.start("up"), own_fleet.start("up", "--transform", "2")
    outputs = [process.communicate(timeout=240) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert sum("waiting for another bargeline command" in out for out, _ in outputs) == 1
    assert len(find_supervisors(Paths(own_fleet.var))) == 1
    assert pids(own_fleet).keys() == {*WORKERS, *SERVERS, "transform-02"}
    assert healthy(own_fleet)


def test_orphans_of_a_killed_supervisor_are_stopped_before_the_next(running: Fleet) -> None:
    running.run("up", "--transform", "2")
    old = everything(running)
    with redis.Redis.from_url(running.url("REDIS_URL")) as client:
        client.set("kept", "1")
    kill_supervisor(running)
    done = running.run("status", check=False)
    assert done.returncode == 1
    assert "left behind" in done.stdout
    said = running.run("up").stdout
    for name in ("ingest-01", "transform-02", *SERVERS):
        assert name in said.partition("supervisord runs")[0]
    assert not [process for process in old if is_alive(process)]
    assert healthy(running)
    with redis.Redis.from_url(running.url("REDIS_URL")) as client:
        assert client.get("kept") == b"1"
    kill_supervisor(running)
    orphans = [
        psutil.Process(pid) for pid in json.loads(running.run("status", "--json", check=False).stdout)["orphans"]
    ]
    assert len(orphans) >= len(WORKERS) + len(SERVERS)
    running.run("down")
    assert not [process for process in orphans if is_alive(process)]


@pytest.mark.slow
def test_a_supervisor_without_its_socket_is_replaced(running: Fleet) -> None:
    old = everything(running)
    Paths(running.var).socket.unlink()
    running.run("up")
    assert not [process for process in old if is_alive(process)]
    assert healthy(running)


@pytest.mark.slow
def test_stale_pid_files_and_sockets_confuse_nobody(running: Fleet) -> None:
    running.run("down")
    paths = Paths(running.var)
    (paths.folder / "supervisord.pid").write_text(f"{os.getpid()}\n")
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(paths.socket))
    running.run("up")
    assert healthy(running)


def test_down_leaves_nothing_and_says_what_it_did(running: Fleet) -> None:
    running.run("up", "--transform", "2")
    everybody = everything(running)
    assert len(everybody) > len(WORKERS) + len(SERVERS)
    said = running.run("down").stdout
    stopped = [line.removeprefix("stopped ") for line in said.splitlines() if line.startswith("stopped")]
    assert stopped == ["ingest-01", "transform-01, transform-02", "loader-01", "janitor-01", *SERVERS]
    assert "kill" not in said
    assert not [process for process in everybody if is_alive(process)]
    assert not Paths(running.var).socket.exists()
    again = running.run("down")
    assert "nothing was running" in again.stdout
    assert running.run("status", check=False).returncode == 1
    assert running.url("REDIS_URL").startswith("redis://")
    refused = running.run("scale", "transform=2", check=False)
    assert (refused.returncode, "bargeline up" in refused.stderr) == (3, True)


@pytest.mark.slow
def test_down_deletes_data_only_when_told(running: Fleet) -> None:
    running.run("down")
    assert (running.var / "postgres").exists()
    assert f"deleted {running.var / 'valkey'}" in running.run("down", "--delete-data").stdout
    assert not (running.var / "postgres").exists()
    assert not (running.var / "valkey").exists()


@pytest.mark.slow
def test_down_interrupted_twice_is_finished_by_another(running: Fleet) -> None:
    everybody = everything(running)
    interrupted = running.start("down")
    assert interrupted.stdout is not None
    assert interrupted.stdout.readline() == "stopped ingest-01\n"
    for _ in range(2):
        interrupted.send_signal(signal.SIGINT)
    interrupted.communicate(timeout=60)
    running.run("down")
    assert not [process for process in everybody if is_alive(process)]


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_a_worker_that_does_not_drain_is_killed_and_named(running: Fleet) -> None:
    everybody = everything(running)
    os.kill(pids(running)["loader-01"], signal.SIGSTOP)
    said = running.run("down").stdout
    assert "loader-01 did not end within 40 s and had to be killed" in said
    assert "transform-01 did not" not in said
    assert not [process for process in everybody if is_alive(process)]


@pytest.mark.slow
def test_a_taken_port_is_refused_by_name(running: Fleet) -> None:
    port = int(running.url("REDIS_URL").rpartition(":")[2].partition("/")[0])
    running.run("down")
    with closing(socket.socket()) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        done = running.run("up", check=False)
    assert done.returncode == 3
    assert f"Port {port} " in done.stderr


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_named_with_its_log(own_fleet: Fleet) -> None:
    pipeline = own_fleet.var.parent / "broken"
    pipeline.mkdir()
    (pipeline / "pipeline.toml").write_text(
        '[pipeline]\nname = "broken"\n[transform]\nfunction = "transform:f"\n'
        '[[table]]\nname = "t"\nevent_types = ["e"]\ncolumns = { event_id = "$id" }\n'
    )
    (pipeline / "transform.py").write_text("raise RuntimeError('a mistake in my code')\n")
    (pipeline / "migrations").mkdir()
    (pipeline / "migrations" / "0001_t.sql").write_text("CREATE TABLE t (event_id uuid PRIMARY KEY);\n")
    done = Fleet(own_fleet.var, {"PIPELINE": str(pipeline)}).run("up", "--timeout", "45", check=False)
    assert done.returncode == 1
    assert "transform-01 is not ready" in done.stderr
    assert "a mistake in my code" in done.stderr


@pytest.mark.parametrize(
    ("environment", "code", "shown"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, 4, "REDIS_URL"),
        ({"REDIS_URL": "http://localhost"}, 2, "REDIS_URL"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, 4, "DATABASE_URL"),
        ({"PIPELINE": "no-such"}, 2, "PIPELINE=no-such"),
        ({"BARGELINE_VAR": "/proc/no"}, 2, "BARGELINE_VAR=/proc/no"),
        ({"TRANSFORM_TIMEOUT_SECOND": "3"}, 2, "TRANSFORM_TIMEOUT_SECONDS"),
    ],
)
def test_a_wrong_setting_is_named(own_fleet: Fleet, environment: Mapping[str, str], code: int, shown: str) -> None:
    done = Fleet(own_fleet.var, environment).run("up", check=False)
    assert (done.returncode, shown in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_servers_of_the_users_own_are_used_and_not_started(own_fleet: Fleet, redis_url: str, database_url: str) -> None:
    environment = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    with_servers = Fleet(own_fleet.var, environment)
    with_servers.run("up")
    assert pids(with_servers).keys() == set(WORKERS)
    assert {each.state for name, each in with_servers.processes().items() if name in SERVERS} == {"EXTERNAL"}
    assert own_fleet.url("REDIS_URL") == redis_url, "the plan remembers them"
    own_fleet.run("up")
    assert pids(own_fleet).keys() == {*WORKERS, *SERVERS}
    with_servers.run("up")
    assert pids(with_servers).keys() == set(WORKERS)
    with redis.Redis.from_url(redis_url) as client:
        own_fleet.run("down")
        client.unlink(*client.scan_iter("{clickstream}*"))


@pytest.mark.slow
def test_a_state_folder_with_a_long_path_works(own_fleet: Fleet) -> None:
    deep = Fleet(own_fleet.var / ("x" * 100))
    own_fleet.var.mkdir()
    deep.run("up")
    assert healthy(deep)
    everybody = everything(deep)
    deep.run("down")
    assert not [process for process in everybody if is_alive(process)]


def test_without_a_fleet_commands_say_how_to_start_one(tmp_path: Path) -> None:
    nowhere = Fleet(tmp_path / "none")
    assert (nowhere.run("down").returncode, nowhere.var.exists()) == (0, False)
    for command, code in (("status", 1), ("env", 2), ("logs", 2), ("restart", 3)):
        done = nowhere.run(command, check=False)
        assert done.returncode == code, (command, done.stderr)
        assert "bargeline up" in done.stdout + done.stderr


def test_an_ordinary_user_has_a_fleet() -> None:
    with open_folder() as folder:

        def run(*command: str) -> subprocess.CompletedProcess[str]:
            environment = {"BARGELINE_VAR": str(folder / "var")}
            return as_ordinary_user([*COMMAND, *command], folder, supervised=True, **environment)

        try:
            done = [run("up"), run("status")]
        finally:
            done_last = run("down")
        assert [each.returncode for each in (*done, done_last)] == [0, 0, 0], (done, done_last)
