"""Configuration of supervisord, plans and logs, without starting anything."""

import importlib.util
import os
import platform
import re
import socket
import stat
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from bargeline.embedded.state import write_private
from bargeline.fleet.apply import write_programs
from bargeline.fleet.control import urls
from bargeline.fleet.launch import daemon, start_supervisor
from bargeline.fleet.logs import last_lines, log_names, logs
from bargeline.fleet.paths import SOCKET_PATH_BYTES, Paths
from bargeline.fleet.plan import Plan, make_plan, read_plan, worker_program, write_plan
from bargeline.fleet.programs import Program, render, render_supervisord, stop_order, worker_priority
from bargeline.fleet.readiness import worker_readiness
from bargeline.fleet.rpc import ProcessState, Supervisor
from shared.errors import ConfigurationError, Unreachable
from shared.run import DRAIN_SECONDS
from shared.settings import load_settings
from shared.topology import KINDS

HARD_VALUES = {
    "COMMA": "a,b=c",
    "EMPTY": "",
    "HASH": "a#b;c",
    "LINES": "first one\nsecond",
    "PERCENT": "100%(x)s %%",
    "QUOTE": "it's",
    "QUOTES": 'say "this" twice',
    "URL": "postgresql://user:p%40ss%27@host/db?options=-c%20a%3Db",
}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path / "a folder")
    found.create()
    return found


def plan_of(environment: dict[str, str], remembered: Plan | None = None, **counts: int) -> Plan:
    return make_plan(load_settings(environment), counts, remembered, Path.cwd(), is_running=False)


def test_supervisord_reads_what_was_written(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    filled_in = {"CONSUMER_NAME": "%(host_node_name)s-%(program_name)s"}
    program = Program("transform-01", ("/bin/echo", "a b", "%", ""), paths.var, 40, HARD_VALUES, filled_in)
    write_programs(paths, [program])
    write_private(paths.configuration, render_supervisord(daemon(paths)))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # supervisord warns root
    options = ServerOptions()
    options.realize(["-c", str(paths.configuration)])
    ((process,),) = [group.process_configs for group in options.process_group_configs]
    assert process.environment == HARD_VALUES | {"CONSUMER_NAME": f"{platform.node()}-transform-01"}
    assert process.command == "/bin/echo 'a b' % ''"
    assert process.directory == str(paths.var)
    assert process.stdout_logfile == str(paths.log("transform-01"))
    assert process.stopwaitsecs == 40
    assert options.configroot.supervisord.logfile == str(paths.logs / "supervisord.log")


@pytest.mark.parametrize("value", ["both \" and '", "'quoted'", "a #comment", "a ;comment", "a\n\nb", "a\rb"])
def test_a_value_that_supervisord_would_misread_is_refused_by_name_only(paths: Paths, value: str) -> None:
    with pytest.raises(ConfigurationError, match="SECRET has a value") as refused:
        render(Program("transform-01", ("true",), paths.var, 40, {"SECRET": value}), paths.logs)
    assert value not in str(refused.value)


@pytest.mark.parametrize("name", ["100%", "a[b]", "a*", "it's", "a #b", "trailing "])
def test_a_state_folder_that_supervisord_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="BARGELINE_VAR="):
        Paths(tmp_path / name).create()


def test_files_with_passwords_are_private(paths: Paths) -> None:
    write_plan(paths, plan_of({"DATABASE_URL": "postgresql://u:secret@host/db"}))
    write_programs(paths, [Program("loader-01", ("true",), paths.var, 40, {"A": "b"})])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (paths.plan, *paths.programs.iterdir())}
    assert modes == {0o600}
    assert stat.S_IMODE(paths.folder.stat().st_mode) == 0o700


def test_writing_programs_touches_only_what_differs(paths: Paths) -> None:
    programs = [Program(f"transform-{number:02}", ("true",), paths.var, 40) for number in (1, 2, 3)]
    write_programs(paths, programs)
    first = paths.programs / "transform-01.conf"
    before = first.stat().st_ino
    write_programs(paths, programs[:1], keep=["transform-03"])
    assert sorted(path.stem for path in paths.programs.iterdir()) == ["transform-01", "transform-03"]
    assert first.stat().st_ino == before


def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    short, long = Paths(tmp_path), Paths(tmp_path / ("x" * SOCKET_PATH_BYTES))
    assert short.socket.is_relative_to(tmp_path)
    assert not long.socket.is_relative_to(tmp_path)
    assert len(os.fsencode(long.socket)) <= SOCKET_PATH_BYTES
    assert long.socket == Paths(long.var).socket != Paths(long.var / "y").socket


def test_counts_are_remembered_and_changed_one_by_one(paths: Paths) -> None:
    plan = plan_of({}, transform=3)
    assert plan.counts == {"ingest": 1, "transform": 3, "loader": 1, "janitor": 1}
    write_plan(paths, plan)
    again = plan_of({}, read_plan(paths), loader=2)
    assert again.counts == {"ingest": 1, "transform": 3, "loader": 2, "janitor": 1}
    assert again.workers[:2] == ["ingest-01", "transform-01"]


@pytest.mark.parametrize("counts", [{"transform": -1}, {"transform": 100}, {"rocket": 1}])
def test_impossible_counts_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="0 to 99 workers of the kinds ingest, transform"):
        make_plan(load_settings({}), counts, None, Path.cwd(), is_running=False)


def test_what_the_user_set_goes_to_every_worker_and_the_fleet_sets_the_rest(paths: Paths) -> None:
    plan = plan_of({"LOADER_BATCH_EVENTS": "77", "METRICS_PORT": "9100", "CONSUMER_NAME": "me", "REDIS_HOST": "r"})
    assert plan.embedded == ("postgres",)
    found = worker_program("loader-02", plan, paths, {"DATABASE_URL": "postgresql://x"}).environment
    assert found["LOADER_BATCH_EVENTS"] == "77"
    assert found["REDIS_HOST"] == "r"
    assert found["DATABASE_URL"] == "postgresql://x"
    assert found["METRICS_PORT"] == "0"
    assert found["CONSUMER_NAME"].endswith("-loader-02")
    assert "REDIS_URL" not in found
    assert "INGEST_PATH" not in found
    assert load_settings(found).loader_batch_events == 77


def test_ingest_watches_the_inbox_unless_told_otherwise(paths: Paths) -> None:
    inbox = worker_program("ingest-01", plan_of({}), paths, {})
    assert set(inbox.environment["INGEST_PATH"].splitlines()) == {f"{paths.inbox}/*"}
    assert inbox.environment["INGEST_WATCH"] == "true"
    own = worker_program("ingest-01", plan_of({"INGEST_PATH": "/data/*.gz"}), paths, {})
    assert (own.environment["INGEST_PATH"], own.environment["INGEST_WATCH"]) == ("/data/*.gz", "true")
    followed = worker_program("ingest-01", plan_of({"INGEST_PATH": "/log/*", "INGEST_FOLLOW": "true"}), paths, {})
    assert "INGEST_WATCH" not in followed.environment
    assert not followed.ends
    once = worker_program("ingest-01", plan_of({"INGEST_PATH": "/data/a", "INGEST_WATCH": "false"}), paths, {})
    assert once.ends
    text = render(once, paths.logs)
    assert "\nautorestart = unexpected\n" in text
    assert "\nstartsecs = 0\n" in text
    for source, ends in [("pubsub", False), ("generator", True), ("feed:read", True)]:
        program = worker_program("ingest-01", plan_of({"INGEST_SOURCE": source}), paths, {})
        assert not {"INGEST_PATH", "INGEST_WATCH"} & program.environment.keys()
        assert program.ends is ends


def test_what_env_prints_of_the_embedded_redis_is_not_taken_for_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "redis://127.0.0.1:7000/0"
    monkeypatch.setattr("bargeline.fleet.plan.remembered_urls", lambda _: (url, None))
    printed = {"REDIS_URL": url, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": "7000"}
    assert not plan_of(printed).environment.keys() & printed.keys()
    assert plan_of({**printed, "REDIS_URL": ""}).brings_redis


def test_a_supervised_worker_has_no_standard_input() -> None:
    with pytest.raises(ConfigurationError, match="INGEST_SOURCE=stdin"):
        plan_of({"INGEST_SOURCE": "stdin"})


def test_a_pipeline_folder_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    text = '[pipeline]\nname = "own"\n[[table]]\nname = "t"\nevent_types = ["e"]\ncolumns = { event_id = "$id" }\n'
    (tmp_path / "mine" / "pipeline.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    plan = plan_of({"PIPELINE": "mine"})
    assert (plan.pipeline, plan.environment["PIPELINE"]) == ("own", str(tmp_path / "mine"))


def test_a_running_fleet_keeps_its_names_and_its_folder(tmp_path: Path) -> None:
    first = replace(plan_of({}), host="old-name", directory="/somewhere")
    again = make_plan(load_settings({}), {}, first, tmp_path, is_running=True)
    assert again == first
    assert again.consumer("loader-01") == "old-name-loader-01"
    changed = make_plan(load_settings({"LOG_LEVEL": "debug"}), {}, first, tmp_path, is_running=True)
    assert (changed.directory, changed.host) == (str(tmp_path), "old-name")
    restarted = make_plan(load_settings({}), {}, first, tmp_path, is_running=False)
    assert (restarted.directory, restarted.host) == (str(tmp_path), socket.gethostname())


def test_a_damaged_plan_is_named(paths: Paths) -> None:
    paths.plan.write_text("{")
    with pytest.raises(ConfigurationError, match=r"plan\.json is damaged"):
        read_plan(paths)


def test_servers_that_are_given_are_taken_whatever_lies_in_the_folder(paths: Paths) -> None:
    paths.plan.write_text("{")
    servers = {"REDIS_URL": "redis://r/0", "DATABASE_URL": "postgresql://d/x"}
    assert urls(load_settings({**servers, "BARGELINE_VAR": str(paths.var)})) == servers


def test_without_a_fleet_the_server_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="or DATABASE_URL to what your workers use"):
        urls(load_settings({"REDIS_URL": "redis://r/0", "BARGELINE_VAR": str(tmp_path)}))


def test_upstream_stops_first_and_servers_last() -> None:
    names = ["postgres", "valkey", "janitor-01", "loader-02", "transform-01", "ingest-01"]
    assert sorted(names, key=stop_order) == [
        "ingest-01",
        "transform-01",
        "loader-02",
        "janitor-01",
        "valkey",
        "postgres",
    ]


def test_supervisord_that_ends_stops_upstream_first() -> None:
    assert sorted(KINDS, key=worker_priority) == ["janitor", "loader", "transform", "ingest"]


@pytest.mark.parametrize(("timeout", "seconds"), [("1", DRAIN_SECONDS + 10), ("30", 40), ("119.5", 130)])
def test_a_worker_may_finish_what_user_code_does(paths: Paths, timeout: str, seconds: int) -> None:
    plan = plan_of({"TRANSFORM_TIMEOUT_SECONDS": timeout})
    assert worker_program("transform-01", plan, paths, {}).stop_seconds == seconds


def process(state: str, exit_status: int = 0, error: str = "") -> ProcessState:
    return ProcessState("ingest-01", state, 1, exit_status, 0, 0, 0, error)


@pytest.mark.parametrize(
    ("found", "ready", "problem"),
    [
        (None, False, "not supervised"),
        (process("FATAL", error="Exited too quickly"), False, r"FATAL \(Exited too quickly\)"),
        (process("EXITED", 2), False, "EXITED"),
        (process("EXITED", 0), True, None),
        (process("RUNNING"), False, "no lease"),
    ],
)
def test_why_a_worker_is_not_ready(found: ProcessState | None, ready: bool, problem: str | None) -> None:
    readiness = worker_readiness(found, "host-ingest-01", {})
    assert readiness.ready is ready
    assert problem == readiness.problem or re.search(problem or "^$", readiness.problem or "")


def test_nothing_listens_on_a_socket_that_is_not_there(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / "socket")
    assert supervisor.pid() is None
    with pytest.raises(Unreachable, match="does not answer"):
        supervisor.processes()


def test_logs_are_followed_across_a_rotation(paths: Paths) -> None:
    log = paths.log("loader-01")
    log.write_text("old\nlast\n")
    lines = logs(paths, "loader", 1, follow=True)
    assert isinstance(lines, Generator)
    assert next(lines) == ("loader-01", "last")
    with log.open("a") as file:
        file.write("one\ntw")
        file.flush()
        assert next(lines) == ("loader-01", "one")
        file.write("o\n")
    log.rename(paths.logs / "loader-01.log.1")
    log.write_text("three\n")
    assert [next(lines), next(lines)] == [("loader-01", "two"), ("loader-01", "three")]
    lines.close()


def test_logs_of_one_of_a_kind_or_all(paths: Paths) -> None:
    for name in ("valkey", "transform-02", "transform-01", "ingest-01"):
        paths.log(name).write_text(f"{name} 1\n{name} 2\n")
    assert log_names(paths, None) == ["ingest-01", "transform-01", "transform-02", "valkey"]
    assert log_names(paths, "transform") == ["transform-01", "transform-02"]
    assert list(logs(paths, "valkey", 1)) == [("valkey", "valkey 2")]
    assert list(logs(paths, "valkey", 0)) == []
    with pytest.raises(ConfigurationError, match=r"no log of rocket\. There are logs of ingest-01"):
        log_names(paths, "rocket")


def test_the_last_lines_of_nothing(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none.log", 5) == []


def test_without_supervisord_the_command_says_what_to_install(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "supervisor" else find_spec(name))
    with pytest.raises(ConfigurationError, match=r"supervisord.*is not installed.*extra `embedded`"):
        start_supervisor(paths)
    assert not paths.configuration.exists()
