"""The pipeline file: what it may say, and errors that name the file, the place, and what it may be."""

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.pipeline import load_pipeline

PIPELINE = '[pipeline]\nname = "p"\n'
TABLE = '[[table]]\nname = "t"\nevent_types = ["e"]\ncolumns = { id = "$id" }\n'
APPEND = '[[table]]\nname = "log"\nevent_types = ["l"]\nmode = "append"\ncolumns = { a = "a" }\n'
ROLLUP = '[[rollup]]\ntable = "r"\nwindow = "5s"\nby = ["a"]\naggregates = { n = "count", s = "sum(x.y)" }\n'


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pipeline.toml").write_text(text)
    return folder


def test_the_shipped_pipeline_is_found_by_name() -> None:
    found = load_pipeline("clickstream")
    assert found.name == "clickstream"
    assert (found.migrations / "0001_clicks.sql").is_file()
    assert found.file.table[0].id_column == "event_id"


def test_a_folder_is_found_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "mine", PIPELINE + TABLE)
    assert load_pipeline(str(tmp_path / "mine")).name == "p"
    monkeypatch.chdir(tmp_path)
    assert load_pipeline("mine").folder == tmp_path / "mine"


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"PIPELINE=nowhere: no pipeline of that name \(there are: .*clickst"):
        load_pipeline("nowhere")
    with pytest.raises(ConfigurationError, match=str(tmp_path / "pipeline.toml")):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PIPELINE, "table: Field required"),
        (TABLE, "pipeline: Field required"),
        ('[pipeline]\nname = "a:b"\n' + TABLE, "pipeline.name: String should match pattern"),
        ('[pipeline]\nname = ""\n' + TABLE, "pipeline.name: "),
        (PIPELINE + "nmae = 1\n" + TABLE, "pipeline.nmae: Extra inputs are not permitted"),
        (PIPELINE + "max_attempts = 0\n" + TABLE, "pipeline.max_attempts: Input should be greater than or equal to 1"),
        (PIPELINE + "high_water_events = 'x'\n" + TABLE, "pipeline.high_water_events: Input should be a valid integer"),
        (PIPELINE + "[loaders]\n" + TABLE, "loaders: Extra inputs are not permitted"),
        (PIPELINE + "[loader]\nunmatched = 'drop'\n" + TABLE, "loader.unmatched: Input should be 'dead' or 'filter'"),
        (PIPELINE + "[transform]\nfunction = 'enrich'\n" + TABLE, "transform.function: String should match pattern"),
        (PIPELINE + "[ingest]\ntype = { pth = 'x' }\n" + TABLE, "ingest.type"),
        (PIPELINE + TABLE + "mode = 'merge'\n", "table.0.mode: Input should be 'insert' or 'append'"),
        (PIPELINE + TABLE.replace("$id", "x"), 'table.0: Value error, mode "insert" needs a column that holds "$id"'),
        (PIPELINE + TABLE.replace('= "$id"', '= "$id", b = "$tme"'), "table.0.columns: Value error, '$tme'"),
        (PIPELINE + TABLE.replace('["e"]', "[]"), "table.0.event_types: Tuple should have at least 1 item"),
        (PIPELINE + TABLE + TABLE.replace('"t"', '"u"'), "event type 'e' goes to two tables, 't' and 'u'"),
        (PIPELINE + TABLE + ROLLUP.replace("5s", "5 s"), "rollup.0.window: Value error, '5 s' is no window"),
        (PIPELINE + TABLE + ROLLUP.replace("5s", "0s"), "rollup.0.window: Value error, '0s' is no window"),
        (PIPELINE + TABLE + ROLLUP.replace("count", "avg(x)"), "rollup.0.aggregates: Value error, 'avg(x)' is no aggr"),
        (PIPELINE + TABLE + APPEND + ROLLUP, "rollup 'r' would count events of a table in mode append"),
        (PIPELINE + "= 1\n", "Invalid statement (at line 3, column 1)"),
    ],
)
def test_an_error_names_the_file_the_place_and_what_it_may_be(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_pipeline(str(_write(tmp_path, text)))
    assert str(caught.value).startswith(f"{tmp_path / 'pipeline.toml'}: ")
    assert expected in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=f"{tmp_path / 'pipeline.toml'}: .*utf-8"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("2m", 120), ("1h", 3_600), ("7d", 604_800)])
def test_windows_and_aggregates_are_read(tmp_path: Path, text: str, seconds: int) -> None:
    (rollup,) = load_pipeline(str(_write(tmp_path, PIPELINE + TABLE + ROLLUP.replace("5s", text)))).file.rollup
    assert rollup.window_seconds == seconds
    assert rollup.aggregate_paths == (None, "x.y")


def test_a_rollup_beside_an_append_table_names_its_types(tmp_path: Path) -> None:
    text = PIPELINE + TABLE + APPEND + ROLLUP + 'event_types = ["e"]\n'
    assert load_pipeline(str(_write(tmp_path, text))).file.rollup[0].event_types == ("e",)
