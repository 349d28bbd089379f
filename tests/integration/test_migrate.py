"""Migrations on a real PostgreSQL: each file once, whoever applies them at the same time or dies in the middle."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from shared.database import migrate
from shared.errors import ConfigurationError, TransientError
from shared.pipeline import Pipeline, load_pipeline
from tests import workers
from tests.wait import until

CODE = """
import sys
from shared.database import migrate
from shared.pipeline import load_pipeline
print(*migrate(sys.argv[1], load_pipeline(sys.argv[2])), sep="\\n")
"""
SLEEPING: LiteralString = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'
"""
SHIPPED = ["core/0001_load_ledger.sql", "core/0002_epochs.sql"]


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return load_pipeline(str(workers.make_pipeline(tmp_path / "p", "p")))


def _add(pipeline: Pipeline, name: str, text: str) -> Path:
    path = pipeline.migrations / name
    path.write_text(text)
    return path


def _rows(url: str, statement: LiteralString) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()


def _applied(url: str) -> list[str]:
    rows = _rows(url, "SELECT component || '/' || name FROM bargeline_migrations ORDER BY component, name")
    return [row[0] for row in rows]


@contextmanager
def _process(url: str, pipeline: Pipeline) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", CODE, url, str(pipeline.folder)]
    with subprocess.Popen(command, cwd=workers.ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_each_file_is_applied_once_in_order(empty_database_url: str, pipeline: Pipeline) -> None:
    _add(pipeline, "0003_c.sql", "INSERT INTO clicks_log VALUES (3);")
    _add(pipeline, "0002_b.sql", "CREATE TABLE clicks_log (n int); INSERT INTO clicks_log VALUES (2);")
    expected = [*SHIPPED, "p/0001_clicks.sql", "p/0002_b.sql", "p/0003_c.sql"]
    assert migrate(empty_database_url, pipeline) == expected
    assert migrate(empty_database_url, pipeline) == []
    assert _rows(empty_database_url, "SELECT n FROM clicks_log ORDER BY n") == [(2,), (3,)]
    _add(pipeline, "0004_d.sql", "INSERT INTO clicks_log VALUES (4);")
    assert migrate(empty_database_url, pipeline) == ["p/0004_d.sql"]
    assert _applied(empty_database_url) == [*expected, "p/0004_d.sql"]


def test_ten_processes_at_once_apply_each_file_once(empty_database_url: str, pipeline: Pipeline) -> None:
    _add(pipeline, "0002_slow.sql", "SELECT pg_sleep(0.3); CREATE TABLE once (n int); INSERT INTO once VALUES (1);")
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(empty_database_url, pipeline)) for _ in range(10)]
        applied = [process.communicate(timeout=60)[0].split() for process in processes]
        assert [process.returncode for process in processes] == [0] * 10
    assert sorted(applied)[:9] == [[]] * 9
    assert max(applied) == [*SHIPPED, "p/0001_clicks.sql", "p/0002_slow.sql"]
    assert _rows(empty_database_url, "SELECT n FROM once") == [(1,)]


def test_killed_in_the_middle_nothing_of_the_file_is_left_and_the_next_run_applies_it(
    empty_database_url: str, pipeline: Pipeline
) -> None:
    long = _add(pipeline, "0002_long.sql", "CREATE TABLE half (n int); SELECT pg_sleep(600);")
    with _process(empty_database_url, pipeline) as process:
        until(lambda: _rows(empty_database_url, SLEEPING), what="the migration to be in the middle")
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    assert _applied(empty_database_url) == [*SHIPPED, "p/0001_clicks.sql"]
    long.write_text("CREATE TABLE half (n int); SELECT 1;")
    with _process(empty_database_url, pipeline) as again:
        # The server ends the statement of the client that is gone, and with it the lock.
        assert again.communicate(timeout=30)[0].split() == ["p/0002_long.sql"]
        assert again.returncode == 0
    assert _rows(empty_database_url, "SELECT count(*) FROM half") == [(0,)]


def test_a_file_that_fails_is_named_and_leaves_nothing(empty_database_url: str, pipeline: Pipeline) -> None:
    path = _add(pipeline, "0002_bad.sql", "CREATE TABLE half (n int); SELECT * FROM nowhere;")
    with pytest.raises(ConfigurationError, match=r'relation "nowhere" does not exist \(SQLSTATE 42P01\)') as caught:
        migrate(empty_database_url, pipeline)
    assert str(path) in str(caught.value)
    assert _applied(empty_database_url) == [*SHIPPED, "p/0001_clicks.sql"]
    assert _rows(empty_database_url, "SELECT to_regclass('half') IS NULL") == [(True,)]
    path.write_text("CREATE TABLE half (n int);")
    assert migrate(empty_database_url, pipeline) == ["p/0002_bad.sql"]


@pytest.mark.parametrize("text", ["INSERT INTO clicks (event_id) VALUES (NULL);", "CREATE TABL x;", "SELECT 1/0;"])
def test_every_kind_of_failure_names_the_file(empty_database_url: str, pipeline: Pipeline, text: str) -> None:
    _add(pipeline, "0002_bad.sql", text)
    with pytest.raises(ConfigurationError, match=r"0002_bad\.sql: .*SQLSTATE"):
        migrate(empty_database_url, pipeline)


def test_a_changed_file_is_refused(empty_database_url: str, pipeline: Pipeline) -> None:
    path = _add(pipeline, "0002_b.sql", "CREATE TABLE b (n int);")
    migrate(empty_database_url, pipeline)
    path.write_text("CREATE TABLE b (n bigint);")
    _add(pipeline, "0003_c.sql", "CREATE TABLE c (n int);")
    with pytest.raises(ConfigurationError, match=r"0002_b\.sql: .*changed after it was applied\. Restore it"):
        migrate(empty_database_url, pipeline)
    assert "p/0003_c.sql" not in _applied(empty_database_url)
    path.write_text("CREATE TABLE b (n int);")
    assert migrate(empty_database_url, pipeline) == ["p/0003_c.sql"]


@pytest.mark.parametrize("name", ["1_a.sql", "0002-a.sql", "0002_A.sql", "a.sql", "00002_a.sql"])
def test_a_bad_name_is_refused_before_anything_is_applied(
    empty_database_url: str, pipeline: Pipeline, name: str
) -> None:
    _add(pipeline, name, "SELECT 1;")
    with pytest.raises(ConfigurationError, match=f"{name}: a migration is named like 0001_what.sql"):
        migrate(empty_database_url, pipeline)
    assert _rows(empty_database_url, "SELECT to_regclass('load_ledger') IS NULL") == [(True,)]


def test_two_pipelines_share_a_database(empty_database_url: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        found = load_pipeline(str(workers.make_pipeline(tmp_path / name, name)))
        (found.migrations / "0001_clicks.sql").write_text(f"CREATE TABLE clicks_of_{name} (n int);")
        assert migrate(empty_database_url, found)[-1] == f"{name}/0001_clicks.sql"
    assert _applied(empty_database_url) == [*SHIPPED, "one/0001_clicks.sql", "two/0001_clicks.sql"]


def test_a_server_that_is_away_is_transient(pipeline: Pipeline) -> None:
    with pytest.raises(TransientError):
        migrate("postgresql://u:p@127.0.0.1:1/d", pipeline)


def test_the_command_says_what_it_applied(empty_database_url: str, redis_url: str, pipeline: Pipeline) -> None:
    given: dict[str, Any] = {
        "redis_url": redis_url, "database_url": empty_database_url, "pipeline_folder": pipeline.folder
    }  # fmt: skip
    first = workers.bargeline("migrate", **given)
    applied = [*SHIPPED, "p/0001_clicks.sql"]
    assert (first.code, first.out) == (0, "".join(f"applied {name}\n" for name in applied))
    assert workers.bargeline("migrate", **given).out == "nothing to apply\n"
    _add(pipeline, "0001_clicks.sql", "SELECT 1;")
    refused = workers.bargeline("migrate", **given)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: ")
    assert "Traceback" not in refused.err
