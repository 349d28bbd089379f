"""Settings: what the environment may say, and what an error tells about it."""

import errno
import importlib
from pathlib import Path

import pytest

from shared import database, settings, streams
from shared.errors import BargelineError, ConfigurationError
from shared.settings import ENDLESS_SOURCES, INGEST_SOURCES, VARIABLES, Settings, load_settings
from shared.streams.client import connect
from shared.topology import Topology
from workers.ingest.__main__ import _MODULES

SECRET = "s3cr3t-word"


def test_defaults_need_no_variable_at_all() -> None:
    found = load_settings({})
    assert found.pipeline == "clickstream"
    assert found.metrics_host == "127.0.0.1"
    assert found.redis_url is None
    assert found.var == Path("var").absolute()


@pytest.mark.parametrize(
    ("misspelt", "right"),
    [
        ("INGEST_PTH", "INGEST_PATH"),
        ("TRANSFORM_TIMEOUT", "TRANSFORM_TIMEOUT_SECONDS"),
        ("LOADER_BATCH_EVENT", "LOADER_BATCH_EVENTS"),
        ("JANITOR_SWEEP_SECOND", "JANITOR_SWEEP_SECONDS"),
        ("METRICS_PROT", "METRICS_PORT"),
        ("BARGELINE_VARS", "BARGELINE_VAR"),
        ("REDIS_ULR", "REDIS_URL"),
        ("LOG_LEVLE", "LOG_LEVEL"),
        ("DATABASE_URLS", "DATABASE_URL"),
        ("STALL_SECOND", "STALL_SECONDS"),
        ("INGEST_PATH_FILES", "INGEST_PATH"),
    ],
)
def test_a_misspelt_variable_names_the_right_one(misspelt: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{misspelt} is set, .* Did you mean {right}\?"):
        load_settings({misspelt: "1"})


@pytest.mark.parametrize("name", ["REDIS_COMMANDER_PORT", "LOG_DIR", "DATABASE_POOL_SIZE", "PIPELINE_ID", "HOME"])
def test_variables_of_other_programs_are_left_alone(name: str) -> None:
    assert load_settings({name: "anything"}) == load_settings({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_PORT", "tcp://10.96.0.11:6379"),
        ("METRICS_PORT", "tcp://10.96.0.12:9100"),
        ("LOADER_PORT", "udp://10.96.0.13:80"),
        ("LOADER_SERVICE_HOST", "10.96.0.13"),
        ("INGEST_SERVICE_PORT", "80"),
        ("INGEST_SERVICE_PORT_METRICS", "9100"),
        ("TRANSFORM_PORT_9100_TCP_PROTO", "tcp"),
        ("JANITOR_PORT_80_TCP", "tcp://10.96.0.14:80"),
        ("METRICS_PORT_80_TCP_ADDR", "10.96.0.14"),
    ],
)
def test_what_kubernetes_injects_is_ignored(name: str, value: str) -> None:
    assert load_settings({name: value}) == load_settings({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("METRICS_PORT", "99999"),
        ("LOG_LEVEL", "loud"),
        ("INGEST_WATCH", "perhaps"),
        ("INGEST_BATCH_EVENTS", "501"),
        ("TRANSFORM_TIMEOUT_SECONDS", "0"),
        ("STALL_SECONDS", "soon"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}='{value}': "):
        load_settings({name: value})


def test_each_source_that_may_be_named_has_a_module_with_a_start() -> None:
    assert _MODULES.keys() == set(INGEST_SOURCES)
    assert set(ENDLESS_SOURCES) < set(INGEST_SOURCES)
    for name in _MODULES.values():
        assert callable(importlib.import_module(f"workers.ingest.{name}").start)


@pytest.mark.parametrize("value", [*INGEST_SOURCES, "feed:read", "my.feeds.till:read_all", "ünï:f"])
def test_sources(value: str) -> None:
    assert load_settings({"INGEST_SOURCE": value}).ingest_source == value


@pytest.mark.parametrize(
    ("value", "hint"),
    [("pub-sub", " Did you mean pubsub?"), ("HTTP", " Did you mean http?"), ("files", " Did you mean file?"),
     ("kafka", ""), ("a:b:c", ""), ("1a:b", ""), ("a:", ""), (":a", "")],
)  # fmt: skip
def test_what_is_no_source_names_those_there_are_and_the_nearest(value: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"INGEST_SOURCE": value})
    assert str(caught.value) == (
        f"INGEST_SOURCE={value!r}: it is one of {', '.join(INGEST_SOURCES)}, or a source of your own as "
        f"module:callable.{hint}"
    )


@pytest.mark.parametrize(
    "value", ["beginning", "latest", "0", "1763720000000-12", "2026-11-21", "2026-11-21T10:00:00Z"]
)
def test_where_a_source_may_begin(value: str) -> None:
    assert load_settings({"INGEST_START": value}).ingest_start == value
    with pytest.raises(ConfigurationError, match=r"INGEST_START='.*': it is beginning, latest, an entry's id"):
        load_settings({"INGEST_START": f"{value}x"})


def test_every_bad_value_is_named() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"METRICS_PORT": "x", "LOG_FORMAT": "xml"})
    assert "METRICS_PORT='x'" in str(caught.value)
    assert "LOG_FORMAT='xml'" in str(caught.value)


def test_an_empty_variable_is_an_unset_one() -> None:
    assert load_settings(dict.fromkeys(VARIABLES, "")) == load_settings({})


def test_secrets_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:p@h/d\n")
    found = load_settings({"DATABASE_URL_FILE": str(tmp_path / "url")})
    assert found.require_database_url() == "postgresql://u:p@h/d"


def test_the_variable_itself_wins_over_its_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://from-file/0")
    found = load_settings({"REDIS_URL_FILE": str(tmp_path / "url"), "REDIS_URL": "redis://from-variable/0"})
    assert found.require_redis_url() == "redis://from-variable/0"


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing"
    with pytest.raises(ConfigurationError, match=f"REDIS_PASSWORD_FILE={path}: cannot be read"):
        load_settings({"REDIS_PASSWORD_FILE": str(path)})


def test_a_secrets_directory_counts_like_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SECRETS_DIRECTORY", tmp_path)
    (tmp_path / "database_url").write_text("postgresql://mounted/d\n")
    assert load_settings({}).require_database_url() == "postgresql://mounted/d"
    given = {"DATABASE_URL": "postgresql://given/d"}
    assert load_settings(given).require_database_url() == "postgresql://given/d"


def test_a_secret_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a file of mode 0400 is mounted into a container that runs as somebody else."""

    def refuse(_path: Path, *_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(settings, "SECRETS_DIRECTORY", tmp_path)
    (tmp_path / "redis_password").write_text("x")
    monkeypatch.setattr(Path, "read_text", refuse)
    message = rf"REDIS_PASSWORD={tmp_path}/redis_password: cannot be read \(Permission denied\)"
    with pytest.raises(ConfigurationError, match=message):
        load_settings({})


def test_missing_urls_say_how_to_set_them() -> None:
    for require, name in [(Settings.require_redis_url, "REDIS_URL"), (Settings.require_database_url, "DATABASE_URL")]:
        with pytest.raises(ConfigurationError, match=rf"{name} is not set\. Set it \({name}="):
            require(load_settings({}))


def test_host_port_and_password_make_a_url() -> None:
    given = {"REDIS_HOST": "cache", "REDIS_PORT": "6380", "REDIS_PASSWORD": "a/b#c@d:e%f"}
    client = connect(load_settings(given).require_redis_url())
    found = client.connection_pool.connection_kwargs
    assert (found["host"], found["port"], found["password"]) == ("cache", 6380, "a/b#c@d:e%f")
    client.close()


def test_settings_are_frozen_and_show_no_secret() -> None:
    found = load_settings({"REDIS_URL": f"redis://:{SECRET}@h", "DATABASE_URL": SECRET, "REDIS_PASSWORD": SECRET})
    assert SECRET not in repr(found) + str(found)
    with pytest.raises(ValueError, match="frozen"):
        found.pipeline = "other"


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{SECRET}@host/d",
        f"postgresql://user:{SECRET}@127.0.0.1:1/d",
        f"postgresql://user:%zz{SECRET}@127.0.0.1:1/d",
        f"postgresql://user:{SECRET}/x@127.0.0.1:1/d",
        f"postgresql://127.0.0.1:1/d?user=u&password={SECRET}",
        f"postgresql://user:{SECRET}@127.0.0.1:1/d?nonsense=1",
    ],
)
def test_no_error_about_the_database_shows_the_password(url: str) -> None:
    with pytest.raises(BargelineError, match=r"URL|at ") as caught:
        database.connect(url, "test")
    assert SECRET not in str(caught.value)
    assert "PostgreSQL" in str(caught.value) or "DATABASE_URL" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host",
        f"redis://user:{SECRET}@127.0.0.1:1/0",
        f"redis://user:{SECRET}/x@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={SECRET}",
    ],
)
def test_no_error_about_redis_shows_the_password(url: str) -> None:
    with pytest.raises(BargelineError, match=r"URL|at ") as caught:
        streams.Client(url, Topology("p")).call("PING")
    assert SECRET not in str(caught.value)
    assert "Redis" in str(caught.value) or "REDIS_URL" in str(caught.value)


def test_the_consumer_name_is_unique_or_as_given() -> None:
    assert load_settings({"CONSUMER_NAME": "tf-1"}).consumer("transform") == "tf-1"
    assert "-transform-" in load_settings({}).consumer("transform")
    with pytest.raises(ConfigurationError, match="CONSUMER_NAME="):
        load_settings({"CONSUMER_NAME": "x" * 201})
