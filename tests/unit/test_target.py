"""What a command works on: `.env` of its folder, the environment, and what the fleet remembers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bargeline.fleet.paths import paths_of
from bargeline.fleet.plan import make_plan, write_plan
from bargeline.target import chosen_pipeline
from shared.errors import ConfigurationError
from shared.settings import environment_for, load_settings, use_env_file
from tests.workers import ROOT, Ran, make_pipeline


def _run(folder: Path, *command: str, **env: str) -> Ran:
    given = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=given, capture_output=True, text=True, timeout=60, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def _checked(folder: Path, **env: str) -> str:
    ran = _run(folder, "bargeline.cli", "pipeline", "check", "--no-database", "--json", **env)
    assert ran.code == 0, ran
    return str(json.loads(ran.out)["folder"])


def test_the_command_reads_env_of_its_folder_and_the_environment_wins(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", "p")
    (folder / ".env").write_text("# mine\nPIPELINE=.\n")
    assert _checked(folder) == str(folder)
    assert _checked(folder, PIPELINE="clickstream").endswith("pipelines/clickstream")


def test_a_misspelt_name_is_an_error_with_its_line_but_a_bare_worker_does_not_look(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("\n# mine\n\nPIPELIN=.\n")
    ran = _run(tmp_path, "bargeline.cli", "status")
    assert ran.code == 2
    assert f"{tmp_path / '.env'}:4: PIPELIN: there is no such setting. Did you mean PIPELINE?" in ran.err
    worker = _run(tmp_path, "workers.transform")
    assert worker.code == 2
    assert "REDIS_URL is not set" in worker.out + worker.err


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("METRICS_PORT=http", ":2: METRICS_PORT='http': "),
        ("INGEST_PTH=x", ":2: INGEST_PTH"),
        ("STALL_SECONDS", ":2: this line is not NAME=value"),
        ("just words", ":2: this line is not NAME=value"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_line(tmp_path: Path, line: str, text: str) -> None:
    (tmp_path / ".env").write_text(f"LOG_LEVEL=info\n{line}\n")
    with pytest.raises(ConfigurationError) as caught:
        use_env_file(tmp_path / ".env")
    assert text in str(caught.value)


def test_variables_of_user_code_pass_and_ingest_settings_stay_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"LOG_LEVEL": "error", "DATABASE_URL_FILE": "/x"})
    (tmp_path / ".env").write_text(
        "\ufeffexport GEO_FILE='/a b' # c\nLOG_LEVEL=info\nINGEST_FOLLOW=true\nDATABASE_URL=postgresql://h/d\n"
    )
    use_env_file(tmp_path / ".env")
    assert os.environ["INGEST_FOLLOW"] == "true"
    expected = {"GEO_FILE": "/a b", "LOG_LEVEL": "error", "DATABASE_URL_FILE": "/x", "A": "b"}
    assert environment_for({"A": "b"}) == expected


def test_without_a_pipeline_named_it_is_that_of_the_fleet(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", "p")
    var = {"BARGELINE_VAR": str(tmp_path / "var")}
    assert chosen_pipeline(load_settings(var)) == "clickstream"
    paths = paths_of(tmp_path / "var")
    paths.create()
    plan = make_plan(load_settings({**var, "PIPELINE": str(folder)}), {}, None, tmp_path, is_running=False)
    write_plan(paths, plan)
    assert chosen_pipeline(load_settings(var)) == str(folder)
    assert chosen_pipeline(load_settings({**var, "PIPELINE": "clickstream"})) == "clickstream"
