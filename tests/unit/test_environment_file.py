"""BARGELINE_ENV_FILE: settings that a supervised worker reads from a file each time it starts."""

import os
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import load_settings


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment of the process, which names a file."""
    found = {"BARGELINE_ENV_FILE": str(tmp_path / "env")}
    monkeypatch.setattr(os, "environ", found)
    return found


def write(environ: dict[str, str], text: str) -> None:
    Path(environ["BARGELINE_ENV_FILE"]).write_text(text)


def test_the_file_adds_to_the_environment_which_wins(environ: dict[str, str]) -> None:
    write(environ, "LOG_LEVEL=debug\nLOADER_BATCH_EVENTS=7 # a comment\nMY_KEY='of my own code'\n")
    environ["LOG_LEVEL"] = "error"
    settings = load_settings()
    assert (settings.log_level, settings.loader_batch_events) == ("error", 7)
    assert environ["MY_KEY"] == "of my own code", "user code finds its own variables"


def test_a_secret_file_of_the_environment_wins_over_a_value_of_the_file(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "url").write_text("redis://given/0\n")
    write(environ, "REDIS_URL=redis://file/0\n")
    environ["REDIS_URL_FILE"] = str(tmp_path / "url")
    assert load_settings().require_redis_url() == "redis://given/0"


def test_a_url_needs_no_quotes(environ: dict[str, str]) -> None:
    url = "postgresql://u:p$x%2F@host/db?sslmode=verify-full&sslrootcert=/etc/ca#1.pem"
    write(environ, f"DATABASE_URL={url}\n")
    assert load_settings().require_database_url() == url


@pytest.mark.parametrize(
    ("text", "line"), [("\n# fine\n\nbroken\n", 4), ("LOG_LEVEL=info\nLOG_FORMAT=pretty\n", 2), ("REDIS_URL\n", 1)]
)
def test_what_is_wrong_is_named_with_its_line(environ: dict[str, str], text: str, line: int) -> None:
    write(environ, text)
    with pytest.raises(ConfigurationError, match=rf"env:{line}: "):
        load_settings()


@pytest.mark.usefixtures("environ")
def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"env: cannot be read \(No such file"):
        load_settings()


def test_settings_that_are_given_as_a_mapping_come_from_there_alone(environ: dict[str, str]) -> None:
    write(environ, "LOG_LEVEL=debug\n")
    assert load_settings({}).log_level == "info"
