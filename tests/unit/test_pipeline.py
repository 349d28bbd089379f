"""The pipeline file: what it may say, and errors that name the file, the place, and what it may be."""

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.mistakes import PipelineError
from shared.pipeline import Kept, load_pipeline

PIPELINE = '[pipeline]\nname = "p"\n'
TABLE = '[[table]]\nname = "t"\nevent_types = ["e"]\ncolumns = { id = "$id" }\n'
LONG_TABLE = """[[table]]
name = "t"
event_types = [
  "e",
]
[table.columns]
b = "$tme"
id = "$id"
"""
UPSERT = """[[table]]
name = "u"
event_types = ["u"]
mode = "upsert"
key = ["k"]
columns = { k = "k", t = "$time" }
"""
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
        (PIPELINE, ": table: it is missing."),
        (TABLE, ": pipeline: it is missing."),
        (PIPELINE + TABLE.replace('name = "t"\n', ""), ":3: table.0.name: it is missing."),
        ('[pipeline]\nname = "a:b"\n' + TABLE, ":2: pipeline.name: String should match pattern"),
        ('[pipeline]\nname = ""\n' + TABLE, ":2: pipeline.name: "),
        (PIPELINE + "nmae = 1\n" + TABLE, ":3: pipeline.nmae: there is no such setting; did you mean name?"),
        (PIPELINE + TABLE + "mdoe = 'x'\n", ":7: table.0.mdoe: there is no such setting; did you mean mode?"),
        (PIPELINE + "[loader]\nxyz = 1\n" + TABLE, ":4: loader.xyz: there is no such setting; there are: unmatched."),
        (
            PIPELINE + "max_attempts = 0\n" + TABLE,
            ":3: pipeline.max_attempts: Input should be greater than or equal to 1",
        ),
        (PIPELINE + "high_water_events = 'x'\n" + TABLE, ":3: pipeline.high_water_events: Input should be a valid int"),
        (PIPELINE + "[loaders]\n" + TABLE, ":3: loaders: there is no such setting; did you mean loader?"),
        (PIPELINE + "[loader]\nunmatched = 'drop'\n" + TABLE, "'dead' or 'filter', not 'drop'."),
        (PIPELINE + "[transform]\nfunction = 'f'\n" + TABLE, ":4: transform.function: String should match pattern"),
        (
            PIPELINE + "[ingest]\n\ntype = { pth = 'x' }\n" + TABLE,
            ":5: ingest.type.pth: there is no such setting; did you",
        ),
        (PIPELINE + "[ingest]\ntype = 7\n" + TABLE, ":4: ingest.type: Input should be a valid string, not 7."),
        (PIPELINE + "[ingest]\ntime = { path = '/a~b' }\n" + TABLE, ":4: ingest.time.path: '/a~b' is no path: after a"),
        (
            PIPELINE + TABLE + "mode = 'merge'\n",
            ":7: table.0.mode: Input should be 'insert', 'append' or 'upsert', not",
        ),
        (PIPELINE + TABLE.replace("$id", "x"), ':6: table.0.columns: mode "insert" needs a column that holds "$id"'),
        (PIPELINE + TABLE.replace('= "$id"', '= "$id", b = "$tme"'), ":6: table.0.columns.b: '$tme' is no attribute"),
        (
            PIPELINE + TABLE.replace('= "$id"', '= "$id", b = ""'),
            ":6: table.0.columns.b: String should have at least 1",
        ),
        (
            PIPELINE + LONG_TABLE.replace('"e"', "7").replace("$tme", "b"),
            ":5: table.0.event_types.0: Input should be a",
        ),
        (PIPELINE + LONG_TABLE, ":9: table.0.columns.b: '$tme' is no attribute of an event: write one of $id, $type"),
        (
            PIPELINE + TABLE.replace("id =", f'"{"ä" * 32}" ='),
            "is longer than the 63 bytes that PostgreSQL keeps of a name",
        ),
        (PIPELINE + TABLE.replace('["e"]', "[]"), ":5: table.0.event_types: Tuple should have at least 1 item"),
        (
            PIPELINE + TABLE + TABLE.replace('"t"', '"u"'),
            ":9: table.1.event_types: event type 'e' goes to two tables, 't'",
        ),
        (PIPELINE + TABLE + ROLLUP.replace("5s", "5 s"), ":9: rollup.0.window: '5 s' is no window"),
        (PIPELINE + TABLE + ROLLUP.replace("5s", "0s"), ":9: rollup.0.window: '0s' is no window"),
        (
            PIPELINE + TABLE + ROLLUP.replace("count", "mean(x)"),
            ":11: rollup.0.aggregates.n: 'mean(x)' is no aggregate",
        ),
        (
            PIPELINE + TABLE + ROLLUP.replace('"count"', '"avg(x)", n_sum = "sum(x)"'),
            ":11: rollup.0.aggregates.n_sum: 'n_sum' is kept for the average 'n'",
        ),
        (PIPELINE + TABLE + 'key = ["id"]\n', ':7: table.0.key: key is for mode "upsert", and the mode is "insert"'),
        (PIPELINE + UPSERT.replace('key = ["k"]\n', ""), ':6: table.0.mode: mode "upsert" needs a key'),
        (PIPELINE + UPSERT.replace('["k"]', '["other"]'), ":7: table.0.key: 'other' is none of the columns (k, t)"),
        (PIPELINE + UPSERT.replace('["k"]', '["t"]'), ":7: table.0.key: 't' holds $time, which tells no rows apart"),
        (PIPELINE + UPSERT.replace("$time", "t"), ':8: table.0.columns: mode "upsert" needs a column that holds'),
        (PIPELINE + UPSERT + ROLLUP, ":9: rollup.0: rollup 'r' would count events of a table in mode upsert"),
        (PIPELINE + TABLE + APPEND + ROLLUP, ":12: rollup.0: rollup 'r' would count events of a table in mode append"),
        (PIPELINE + "= 1\n", ":3: no TOML: Invalid statement (column 1)."),
        (PIPELINE + TABLE + "by = [\n'a',\n", ":8: no TOML: Invalid value (at the end of the file)."),
    ],
)
def test_an_error_names_the_file_the_line_the_place_and_what_it_may_be(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_pipeline(str(_write(tmp_path, text)))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / 'pipeline.toml'}:")
    assert expected in line


def test_every_mistake_has_a_line_of_its_own_in_their_order(tmp_path: Path) -> None:
    text = PIPELINE + TABLE.replace('"$id"', '"$ident"') + ROLLUP.replace("5s", "soon") + "[loader]\nunmatchd = 1\n"
    with pytest.raises(PipelineError) as caught:
        load_pipeline(str(_write(tmp_path, text)))
    found = [(one.line, one.place) for one in caught.value.mistakes]
    assert found == [(6, "table.0.columns.id"), (9, "rollup.0.window"), (13, "loader.unmatchd")]
    assert len(str(caught.value).splitlines()) == 3


def test_a_key_called_like_a_choice_of_ours_is_placed_rightly(tmp_path: Path) -> None:
    text = PIPELINE + "[ingest]\ntype = { path = 7 }\n" + TABLE
    with pytest.raises(PipelineError) as caught:
        load_pipeline(str(_write(tmp_path, text)))
    assert [(one.line, one.place) for one in caught.value.mistakes] == [(4, "ingest.type.path")]


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=f"{tmp_path / 'pipeline.toml'}: .*utf-8"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("2m", 120), ("1h", 3_600), ("7d", 604_800)])
def test_windows_and_aggregates_are_read(tmp_path: Path, text: str, seconds: int) -> None:
    (rollup,) = load_pipeline(str(_write(tmp_path, PIPELINE + TABLE + ROLLUP.replace("5s", text)))).file.rollup
    assert rollup.window_seconds == seconds
    assert rollup.kept == (Kept("n", "count", None), Kept("s", "sum", "x.y"))


def test_an_average_is_kept_as_a_sum_and_a_count(tmp_path: Path) -> None:
    text = ROLLUP.replace('"count"', '"avg(x)", low = "min(x)", high = "max(x)"')
    (rollup,) = load_pipeline(str(_write(tmp_path, PIPELINE + TABLE + text))).file.rollup
    assert rollup.kept[:4] == (
        Kept("n_sum", "sum", "x"),
        Kept("n_count", "count", "x"),
        Kept("low", "min", "x"),
        Kept("high", "max", "x"),
    )
    assert rollup.averages == {"n": ("n_sum", "n_count")}
    assert rollup.columns[-1] == "n"


def test_a_rollup_beside_an_append_table_names_its_types(tmp_path: Path) -> None:
    text = PIPELINE + TABLE + APPEND + ROLLUP + 'event_types = ["e"]\n'
    assert load_pipeline(str(_write(tmp_path, text))).file.rollup[0].event_types == ("e",)
