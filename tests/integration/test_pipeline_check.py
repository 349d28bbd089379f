"""`pipeline check`: every mistake with its file and line; in files, in code, and against a real database."""

import json
from pathlib import Path

import psycopg
import pytest

from bargeline.checking import Finding, Report, check_database, check_folder
from bargeline.cli import main
from shared.pipeline import load_pipeline
from tests.workers import Ran, make_pipeline
from workers.transform.check import Found, check

NOWHERE = "postgresql://nobody:x@127.0.0.1:1/none"
SAMPLE = '{"click_id": "1", "n": 1}\n\n{"click_id": "2"}\n'
PLAIN = {'model = "transform:Click"': "batch = false"}


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARGELINE_VAR", str(tmp_path / "var"))


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    with pytest.raises(SystemExit) as ended:
        main(["pipeline", "check", *arguments])
    captured = capsys.readouterr()
    return Ran(int(str(ended.value.code)), captured.out, captured.err)


def _against(folder: Path, database_url: str) -> list[Finding]:
    report = Report(folder)
    check_database(report, load_pipeline(str(folder)), database_url)
    return report.findings


def _line(folder: Path, text: str, file: str = "pipeline.toml") -> int:
    lines = (folder / file).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.startswith(text))


def test_a_pipeline_that_fits_its_database_is_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    ran = _run(capsys, "clickstream", "--database")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("clickstream: all is well; looked at pipeline.toml, 1 migration, the transform, with ")
    assert ran.out.endswith("2 tables in the database\n")


def test_what_does_not_fit_the_database_has_the_line_that_names_it(tmp_path: Path, database_url: str) -> None:
    edits = {'device_type = "device_type"': 'devcie = "device_type"'}
    folder = make_pipeline(tmp_path / "p", "clickstream", edits=edits)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE clicks DROP CONSTRAINT clicks_pkey, ALTER occurred_at TYPE boolean USING true")
        connection.execute("ALTER TABLE clicks ADD must boolean NOT NULL")
        connection.execute("ALTER TABLE mobile_users_by_timezone DROP CONSTRAINT mobile_users_by_timezone_pkey")
    (folder / "migrations" / "0002_more.sql").write_text("SELECT 1;")
    found = _against(folder, database_url)
    assert [(Path(one.file).name, one.line, one.place) for one in found] == [
        ("migrations", None, ""),
        ("pipeline.toml", _line(folder, "devcie ="), "table.0.columns.devcie"),
        ("pipeline.toml", _line(folder, "[[table]]"), "table.0"),
        ("pipeline.toml", _line(folder, "[[table]]"), "table.0"),
        ("pipeline.toml", _line(folder, "occurred_at ="), "table.0.columns.occurred_at"),
        ("pipeline.toml", _line(folder, "[[rollup]]"), "rollup.0"),
    ]
    assert "not applied yet: clickstream/0002_more.sql" in found[0].message
    assert "'device_type' of table 'clicks' is NOT NULL" in found[2].message
    assert "'must' of table 'clicks' is NOT NULL" in found[3].message
    assert "holds $time, but its type is boolean" in found[4].message


def test_a_missing_constraint_and_a_missing_table_are_found(tmp_path: Path, database_url: str) -> None:
    folder = make_pipeline(tmp_path / "p", "clickstream")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE clicks DROP CONSTRAINT clicks_pkey")
        connection.execute("DROP TABLE mobile_users_by_timezone")
    unique, missing = _against(folder, database_url)
    assert unique.line == _line(folder, 'event_id = "$id"')
    assert "no unique constraint on 'event_id'" in unique.message
    assert missing.line == _line(folder, "[[rollup]]")
    assert "has no table 'mobile_users_by_timezone'" in missing.message


def test_a_database_that_does_not_answer_matters_only_if_it_was_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = _run(capsys, "clickstream", "--database")
    assert (unknown.code, "There is no fleet" in unknown.err) == (2, True)
    monkeypatch.setenv("DATABASE_URL", NOWHERE)
    asked = _run(capsys, "clickstream", "--database")
    assert (asked.code, "127.0.0.1:1" in asked.err) == (4, True)
    passing = _run(capsys, "clickstream")
    assert (passing.code, "not checked: the database: " in passing.out) == (0, True)


def test_mistakes_in_the_file_come_first_and_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = {"mode =": "mdoe =", '"$data"': '"$datum"'}
    folder = make_pipeline(tmp_path / "p", "p", edits=edits, transform="import nothing")
    found = json.loads(_run(capsys, str(folder), "--json").out)["findings"]
    assert [one["line"] for one in found] == [_line(folder, "mdoe"), _line(folder, "payload")]
    ran = _run(capsys, str(folder))
    assert ran.code == 1
    place = f"{folder / 'pipeline.toml'}:{_line(folder, 'mdoe')}: table.0.mdoe"
    assert ran.out.startswith(f"{place}: there is no such setting; did you mean mode?\n")


def test_no_such_pipeline_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = _run(capsys, str(tmp_path / "nothing"))
    assert (ran.code, "no pipeline of that name" in ran.err) == (2, True)


def _of_code(folder: Path) -> list[Found]:
    return check(load_pipeline(str(folder))).findings


@pytest.mark.parametrize(
    ("code", "at", "text"),
    [
        ("def enrich(:", ("transform.py", 1), "importing 'transform' failed: SyntaxError"),
        ("\n\nx = 1 / 0", ("transform.py", 3), "ZeroDivisionError"),
        ("def other(event): pass", ("pipeline.toml", None), "has no 'enrich'"),
        ("enrich = 7", ("pipeline.toml", None), "is not callable"),
        ("def enrich(event, more): pass", ("pipeline.toml", None), "has to take one argument, an event"),
        ("def enrich(): pass", ("pipeline.toml", None), "has to take one argument, an event"),
        ("def enrich(event):\n    return event.data['n'] and event", ("sample.ndjson", 3), "KeyError: 'n'"),
        ("def enrich(event):\n    raise SystemExit('x')", ("sample.ndjson", 1), "the transform fails: SystemExit: x"),
        ("def enrich(event):\n    return 7", ("sample.ndjson", 1), "the function returned int"),
        (
            "import bargeline\ndef enrich(event):\n    raise bargeline.InvalidEvent('no')",
            ("sample.ndjson", 1),
            "the transform makes a dead letter of it: InvalidEvent: no",
        ),
        (
            "def enrich(event):\n    event.type = 'other'\n    return event",
            ("sample.ndjson", 1),
            "it becomes an event of type 'other', which no [[table]] takes",
        ),
    ],
)
def test_code_that_fails_is_found_with_its_place(
    tmp_path: Path, code: str, at: tuple[str, int | None], text: str
) -> None:
    folder = make_pipeline(tmp_path / "p", "p", transform=f"{code}\n", edits=PLAIN)
    (folder / "sample.ndjson").write_text(SAMPLE)
    found = _of_code(folder)[0]
    assert (found.file, found.line) == at
    assert found.place == (("transform", "function") if found.file == "pipeline.toml" else ())
    assert text in found.message


def test_a_model_that_does_not_fit_is_found(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", "p")
    (folder / "sample.ndjson").write_text(SAMPLE)
    (first, second) = _of_code(folder)
    assert (first.line, second.line) == (1, 3)
    assert "missing required field `os`" in first.message


def test_lines_that_ingest_would_refuse_are_found(tmp_path: Path) -> None:
    edits = {**PLAIN, 'type = "click"': 'type = "click"\ntime = { path = "at" }'}
    code = "def enrich(event):\n    return [event, event]\n"
    folder = make_pipeline(tmp_path / "p", "p", transform=code, edits=edits)
    (folder / "sample.ndjson").write_text('{"at": "soon"}\n[]\n{"at": 1763629200}\n')
    found = _of_code(folder)
    assert [(one.file, one.line) for one in found] == [("sample.ndjson", 1), ("sample.ndjson", 2)]
    assert "'soon' is no time" in found[0].message


def test_code_that_ends_its_process_or_prints_does_no_harm(tmp_path: Path) -> None:
    ends = make_pipeline(tmp_path / "a", "p", transform="import os\nos._exit(7)\n", edits=PLAIN)
    (finding,) = check_folder(str(ends))[0].findings
    assert (Path(finding.file).name, finding.message) == (
        "transform.py",
        "it ended the process with exit code 7: without a word",
    )
    prints = "print('hello')\ndef enrich(event):\n    print(event)\n    return 7\n"
    folder = make_pipeline(tmp_path / "b", "p", transform=prints, edits=PLAIN)
    (folder / "sample.ndjson").write_text('{"a": 1}\n' * 30)
    found = check_folder(str(folder))[0].findings
    assert (len(found), found[0].line, found[-1].message) == (11, 1, "20 more of the kind.")


def test_a_function_that_is_not_there_has_the_line_that_names_it(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", "p", transform="", edits=PLAIN)
    (finding,) = check_folder(str(folder))[0].findings
    assert (Path(finding.file).name, finding.line) == ("pipeline.toml", _line(folder, "function ="))


def test_a_migration_with_a_wrong_name_is_found(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p", "p")
    (folder / "migrations" / "more.sql").write_text("SELECT 1;")
    (finding,) = check_folder(str(folder))[0].findings
    assert "more.sql: a migration is named like 0001_what.sql" in finding.message
