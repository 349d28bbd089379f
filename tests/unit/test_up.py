"""What `bargeline up` says besides: where events come from, and that another pipeline lies in this folder."""

from pathlib import Path

import pytest

from bargeline.commands import fleet
from shared.settings import load_settings


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"BARGELINE_VAR": "/v"}, "drop files into /v/inbox"),
        ({"INGEST_PATH": "/data/a.ndjson  /data/b.ndjson"}, "ingest reads /data/a.ndjson /data/b.ndjson"),
        ({"INGEST_SOURCE": "http"}, "ingest takes events by INGEST_SOURCE=http"),
    ],
)
def test_where_events_come_from(environment: dict[str, str], said: str) -> None:
    assert fleet._what_ingest_takes(load_settings(environment)) == said


def test_a_pipeline_that_is_here_and_not_chosen_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fleet._warn_of_another_pipeline(load_settings({}))
    (tmp_path / "pipeline.toml").touch()
    fleet._warn_of_another_pipeline(load_settings({"PIPELINE": "."}))
    assert capsys.readouterr().err == ""
    fleet._warn_of_another_pipeline(load_settings({}))
    assert "PIPELINE=clickstream; PIPELINE=. would run it" in capsys.readouterr().err
