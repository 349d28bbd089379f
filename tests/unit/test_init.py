"""What `init` decides: which lines count, types, names, paths, the event's time; and what it refuses."""

import gzip
import io
import json
import sys
import tomllib
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from bargeline.cli import main
from bargeline.init import columns, folder, sampling
from bargeline.init.columns import Columns, path_of
from bargeline.init.fields import Field
from bargeline.init.names import column_name, pipeline_name, quoted, stem, table_name
from bargeline.init.types import kind_of, type_of
from shared.errors import ConfigurationError
from shared.events import find
from shared.pipeline import PipelineFile

UUID = "0198c0de-0000-4000-8000-00000000000A"


def _sample(path: Path | str, most: int = 0) -> tuple[sampling.Sample, list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []
    return sampling.read_sample(str(path), most, 1_000, lambda _, data: seen.append(data)), seen


def _columns(*events: dict[str, Any], time: str | None = None, most: int = 60) -> Columns:
    root = Field()
    for event in events:
        root.note(event)
    return columns.choose(root, time, most)


def _types(*events: dict[str, Any]) -> dict[str, str]:
    return {column.name: column.type for column in _columns(*events).all if not column.is_own}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([None, None], "text"),
        ([True, None], "boolean"),
        ([1, 0], "bigint"),
        ([2**63 - 1, -(2**63)], "bigint"),
        ([2**63], "numeric"),
        ([2**63, 1.5, True, "x", ""], "text"),
        ([1, 2.5], "double precision"),
        ([2**53 + 1, 2.5], "numeric"),
        ([True, 1], "text"),
        (["007"], "text"),
        (["1.5", 1.5], "text"),
        ([UUID, UUID.lower()], "uuid"),
        ([UUID[:-1]], "text"),
        ([UUID, ""], "text"),
        (["2026-11-21"], "date"),
        (["2026-02-30"], "text"),
        (["2026-11-21", "2026-11-21T10:00:00Z"], "text"),
        (["2026-11-21T10:00:00Z", "2026-11-21 10:00:00.123456+02:00"], "timestamptz"),
        (["2026-11-21T10:00", "2026-11-21T10:00:00Z"], "timestamptz"),
        (["2026-11-21T10:00", "2026-11-21 10:00:01"], "timestamp"),
        (["2026-11-21T25:00:00Z"], "text"),
        (["0001-01-01T00:00:00+14:00"], "text"),
        (["20261121"], "text"),
        (["now"], "text"),
        ([[1], []], "jsonb"),
        ([[1], "x"], "jsonb"),
        ([{"a": 1}, 7], "jsonb"),
    ],
)
def test_a_type_takes_all_values(values: list[Any], expected: str) -> None:
    assert type_of({kind_of(value) for value in values}) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["customer", "email"], "customer_email"),
        (["customerEmail"], "customer_email"),
        (["HTTPStatus"], "http_status"),
        (["User Name"], "user_name"),
        (["user"], "user_"),
        (["xmin"], "xmin_"),
        (["2fa"], "_2fa"),
        (["Größe"], "größe"),
        ([""], "field"),
        (["😀"], "field"),
        (["a\0b;--"], "a_b"),
        (["é" * 40], "é" * 31),
    ],
)
def test_a_column_is_called_like_its_field(keys: list[str], expected: str) -> None:
    assert column_name(keys) == expected


def test_a_name_that_is_taken_gets_a_number_and_stays_short() -> None:
    assert column_name(["a"], {"a", "a_2"}) == "a_3"
    assert column_name(["user"], {"user_"}) == "user_2"
    long = column_name(["x" * 99], {"x" * 63})
    assert long == "x" * 61 + "_2"


def test_tables_pipelines_and_files() -> None:
    assert [table_name(text) for text in ("orders", "Order Lines", "epochs", "", "select")] == [
        *("orders", "order_lines", "epochs_events", "events", "select_")
    ]
    assert [pipeline_name(text) for text in ("shop", "Größe 7!", "日本", "x" * 99)] == [
        "shop",
        "Groe-7",
        "pipeline",
        "x" * 64,
    ]
    assert [
        stem(name) for name in ("a/orders.ndjson.gz", "orders-2026-11-21.jsonl", "2026-11-21.json", "app.v2.log")
    ] == [*("orders", "orders", "2026-11-21", "app.v2")]
    assert [quoted(name) for name in ("a_1", "größe", "user", 'a"b')] == ["a_1", '"größe"', '"user"', '"a""b"']


@pytest.mark.parametrize(
    ("keys", "event", "path"),
    [
        (("a", "b"), {"a": {"b": 1}}, "a.b"),
        (("a.b",), {"a.b": 1}, "/a.b"),
        (("a", "b"), {"a": {"b": 1}, "a.b": 2}, "/a/b"),
        (("$id",), {"$id": 1}, "/$id"),
        (("a/b", "c~d"), {"a/b": {"c~d": 1}}, "a/b.c~d"),
        (("/a/b", "c~d.e"), {"/a/b": {"c~d.e": 1}}, "/~1a~1b/c~0d.e"),
        (("",), {"": 1}, "/"),
        (("a", ""), {"a": {"": 1}}, "/a/"),
    ],
)
def test_a_path_leads_to_its_field_and_no_other(keys: tuple[str, ...], event: dict[str, Any], path: str) -> None:
    assert path_of(keys, event) == path
    assert find(event, path) == 1


def test_records_become_columns_and_maps_do_not() -> None:
    regular = {"a": {"b": {"c": {"d": 1}}, "x": 1}}
    assert _types(regular, {"a": None}) == {"a_b_c": "jsonb", "a_x": "bigint"}
    assert _types(regular, {"a": "text"}) == {"a": "jsonb"}
    assert _types(*({"by_user": {f"u{number}": 1}} for number in range(20))) == {"by_user": "jsonb"}
    assert _types({"wide": {f"k{number}": 1 for number in range(65)}}) == {"wide": "jsonb"}
    assert _types({"empty": {}}) == {"empty": "jsonb"}


def test_names_of_ours_make_way_for_fields() -> None:
    found = _columns({"event_id": 1, "payload": 2, "bargeline_id": 3})
    assert {column.name: column.source for column in found.all} == {
        "bargeline_id_2": "$id",
        "occurred_at": "$time",
        "event_id": "event_id",
        "bargeline_id": "bargeline_id",
        "payload": "payload",
        "bargeline_payload": "$data",
    }


def test_fields_beyond_the_bound_stay_in_the_payload_the_seldom_ones_first() -> None:
    found = _columns({"a": 1, "b": 1, "c": 1}, {"a": 1, "c": 1}, {"c": None, "a": 1}, most=2)
    assert [column.name for column in found.all if not column.is_own] == ["a", "c"]
    assert found.left_out == ("b",)


@pytest.mark.parametrize(
    ("events", "time", "others"),
    [
        ([{"created_at": "2026-11-21T10:00:00Z", "shipped": "2026-11-22T10:00:00Z"}], "created_at", ("shipped",)),
        ([{"shipped": "2026-11-22T10:00:00Z"}], "shipped", ()),
        ([{"a": "2026-11-21T10:00:00Z", "b": "2026-11-22T10:00:00Z"}], None, ("a", "b")),
        ([{"ts": 1_763_629_200}, {"ts": 1_763_629_201.5}], "ts", ()),
        ([{"ts": 1_763_629_200_123}], "ts", ()),
        ([{"ts": 7}], None, ()),
        ([{"count": 1_763_629_200}], None, ()),
        ([{"ts": "2026-11-21T10:00:00Z"}, {}], None, ()),
        ([{"ts": "2026-11-21T10:00:00Z"}, {"ts": None}], None, ()),
        ([{"meta": {"time": "2026-11-21T10:00:00Z"}}], "meta.time", ()),
    ],
)
def test_the_time_is_a_field_that_is_a_time_in_every_line(
    events: list[dict[str, Any]], time: str | None, others: tuple[str, ...]
) -> None:
    found = _columns(*events)
    assert (found.time, found.other_times) == (time, others)


def test_ids_are_proposed_only_if_all_differ() -> None:
    assert _columns({"id": 1, "user_id": 7}, {"id": 2, "user_id": 7}).ids == ("id",)
    assert _columns({"id": 1}, {}).ids == ()
    assert _columns({"id": None}, {"id": 1}).ids == ()


def test_notes_tell_what_a_text_column_holds() -> None:
    found = _columns({"a": "1.5", "b": "", "c": 1, "d": None}, {"a": "7", "b": "2026-11-21", "c": "x", "d": None})
    notes = {column.name: column.note for column in found.all if not column.is_own}
    assert notes == {
        "a": "numbers, written as text",
        "b": "date, but for 1 empty texts",
        "c": "mixed: integer, text",
        "d": "always null",
    }


def test_lines_that_are_no_objects_are_counted_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(
        b'\xef\xbb\xbf{"a":1}\r\n\n[1]\nno\n{"a":NaN}\n{"a":"' + b"x" * 1_000 + b'"}\n{"a":"\xff"}\n{"a":2}'
    )
    sample, seen = _sample(path)
    assert seen == [{"a": 1}, {"a": 2}]
    assert sample.first == [b'{"a":1}', b'{"a":2}']
    assert [number for number, _ in sample.bad] == [3, 4, 5, 6, 7]
    assert "INGEST_MAX_EVENT_BYTES" in sample.bad[3][1]


def _nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def _most_levels() -> int:
    """How deep an object can be that is read here; Python 3.12 takes ten times as many levels as 3.11."""

    def is_too_deep(levels: int) -> bool:
        try:
            msgspec.json.decode(_nested(levels))
        except RecursionError:
            return True
        return False

    return bisect_left(range(1_000_000), True, key=is_too_deep) - 1


def test_what_no_worker_could_encode_again_is_no_event(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(b'{"a":1}\n' + _nested(_most_levels()))
    sample, _ = sampling.read_sample(str(path), 0, 1 << 20, lambda *_: None), None
    assert sample.bad == [(2, "nested too deeply")]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_samples_are_told_by_their_bytes(tmp_path: Path, compress: Any) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(compress(b'{"a":1}\n') + compress(b'{"a":2}\n'))
    assert _sample(path)[1] == [{"a": 1}, {"a": 2}]


def test_only_the_beginning_of_a_large_file_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(b'{"a":1}\n' * 10)
    assert (_sample(path, 10)[0].is_all, _sample(path, 9)[0].is_all, len(_sample(path, 9)[1])) == (True, False, 9)
    monkeypatch.setattr(sampling, "MOST_BYTES", 20)
    assert (len(_sample(path, 10)[1]), len(_sample(path, 0)[1])) == (3, 10)


def test_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(b'{"a":1}\n{"a":2}\n', mtime=0))))
    assert _sample("-")[1] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n \n", "holds only empty lines"),
        (b"a,b\n1,2\n", "no line of it is a JSON object; line 1: "),
        (b'[{"a":1}]', "is a JSON array. Write one object a line: jq -c '.[]' "),
        (b'[\n{"a":1},\n{"a":2}\n]', "is a JSON array"),
        (b'{\n  "a": 1\n}\n', "Objects may not reach over lines. Write one a line: jq -c . "),
        (bytes(range(256)), "is binary"),
        ('{"a":1}'.encode("utf-16"), "is UTF-16. Convert it: iconv"),
        (gzip.compress(b'{"a":1}\n', mtime=0)[:20], "is damaged"),
    ],
)
def test_a_file_that_will_not_do_says_what_to_do(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.ndjson"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        _sample(path)
    assert str(caught.value).startswith(f"--sample {path}: ")
    assert expected in str(caught.value)


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _write(path: Path, events: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in events))
    return path


def test_the_folder_says_what_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(
        tmp_path / "orders.ndjson", [{"id": 1, "at": "2026-11-21T10:00:00Z"}, {"id": 2, "at": "2026-11-21T10:00:01Z"}]
    )
    code, out, err = _run(capsys, "init", "shop", "--sample", "orders.ndjson")
    assert (code, err) == (0, "")
    assert "Looked at 2 lines of orders.ndjson, all that there are." in out
    assert "occurred_at  timestamptz  $time" in out
    assert "cd shop && bargeline up\n  bargeline ingest ../orders.ndjson --wait" in out
    text = (tmp_path / "shop" / "pipeline.toml").read_text()
    file = PipelineFile.model_validate(tomllib.loads(text))
    assert (file.pipeline.name, file.ingest.type, file.table[0].name) == ("shop", "orders", "orders")
    assert file.ingest.time is not None
    assert (file.ingest.time.path, file.ingest.id) == ("at", None)
    assert '# id = { path = "id" }' in text
    assert (tmp_path / "shop" / ".env").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "shop").iterdir()) == sorted(
        [".env", ".gitignore", "README.md", "migrations", "pipeline.toml", "sample.ndjson", "transform.py"]
    )


def test_the_user_may_name_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "x.ndjson", [{"k": {"id": 1}, "a": 7, "time": "2026-11-21T10:00:00Z"}])
    names = ("--name", "n", "--table", "t", "--type", "ty", "--id", "k.id", "--time", "a")
    assert _run(capsys, "init", "shop", "--sample", "x.ndjson", *names)[0] == 0
    file = PipelineFile.model_validate(tomllib.loads((tmp_path / "shop" / "pipeline.toml").read_text()))
    assert (file.pipeline.name, file.ingest.type, file.table[0].name) == ("n", "ty", "t")
    assert file.ingest.id is not None
    assert file.ingest.time is not None
    assert (file.ingest.id.path, file.ingest.time.path) == ("k.id", "a")


@pytest.mark.parametrize(
    ("option", "path", "expected"),
    [
        ("--id", "b", "--id b: line 2 of the sample has no text or number there."),
        ("--time", "a", "--time a: line 1 of the sample: 'x' is no time"),
        ("--time", "c", "--time c: no line of the sample has anything there."),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, path: str, expected: str
) -> None:
    sample = _write(tmp_path / "x.ndjson", [{"a": "x", "b": 1}, {"a": "y"}])
    code, _, err = _run(capsys, "init", str(tmp_path / "p"), "--sample", str(sample), option, path)
    assert code == 2
    assert expected in err
    assert not (tmp_path / "p").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = _write(tmp_path / "x.ndjson", [{"a": 1}])
    code, _, err = _run(capsys, "init", str(tmp_path), "--sample", str(sample))
    assert code == 2
    assert f"{tmp_path}: is not empty, and nothing is overwritten" in err
    assert list(tmp_path.iterdir()) == [sample]


def test_a_time_without_zone_is_said_to_be_utc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = _write(tmp_path / "x.ndjson", [{"at": "2026-11-21 10:00"}])
    assert "at, taken as UTC" in _run(capsys, "init", str(tmp_path / "p"), "--sample", str(sample))[1]


def test_control_characters_of_strangers_stay_off_the_terminal_and_out_of_comments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = _write(tmp_path / "x\x1b.ndjson", [{"a\x1b[31m\nDROP TABLE x; --": 1, "\x7f\u2028": 2}])
    code, out, _ = _run(capsys, "init", str(tmp_path / "p"), "--sample", str(sample))
    assert code == 0
    assert "\x1b" not in out
    (migration,) = (tmp_path / "p" / "migrations").iterdir()
    assert not any(line.startswith("DROP") for line in migration.read_text().splitlines())
    file = PipelineFile.model_validate(tomllib.loads((tmp_path / "p" / "pipeline.toml").read_text()))
    assert set(file.table[0].columns.values()) >= {"a\x1b[31m\nDROP TABLE x; --", "\x7f\u2028"}


def test_a_text_is_a_toml_string_whatever_it_holds() -> None:
    text = "".join(map(chr, range(0xD800))) + "\U0001f600"
    assert tomllib.loads(f"a = {folder.toml(text)}")["a"] == text
