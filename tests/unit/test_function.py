"""Finding the user's function and model, and errors that say where they were looked for."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.errors import ConfigurationError, InvalidEvent
from shared.pipeline import Pipeline, PipelineFile
from workers.transform.function import load_decoder, load_function

LINE = b'{"id":"i","type":"t","source":"s","time":"2026-11-21T10:00:00Z","data":{"n":"7"}}\n'


def _pipeline(folder: Path, code: str | None = None, **transform: Any) -> Pipeline:
    if code is not None:
        (folder / "transform.py").write_text(code)
    table = {"name": "t", "event_types": ["t"], "columns": {"id": "$id"}}
    file = PipelineFile.model_validate({"pipeline": {"name": "p"}, "transform": transform, "table": [table]})
    return Pipeline(folder=folder, file=file)


def test_the_pipelines_own_folder_comes_first_and_neighbours_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"helper_of_{name}.py").write_text(f"NAME = {name!r}")
        pipeline = _pipeline(
            tmp_path / name,
            f"from helper_of_{name} import NAME\ndef f(event): return NAME",
            function="transform:f",
        )
        function = load_function(pipeline)
        assert function is not None
        assert function(None) == name
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "module_on_the_path.py").write_text("def f(event): return 'path'")
    monkeypatch.syspath_prepend(elsewhere)
    found = load_function(_pipeline(tmp_path, function="module_on_the_path:f"))
    assert found is not None
    assert found(None) == "path"


def test_no_function_means_none(tmp_path: Path) -> None:
    assert load_function(_pipeline(tmp_path)) is None


@pytest.mark.parametrize(
    ("code", "reference", "text"),
    [
        ("", "transform:f", "has no 'f'"),
        ("f = 7", "transform:f", r"'transform:f' is not callable"),
        ("", "no_such_module:f", "no module 'no_such_module' in "),
        ("import no_such_dependency", "transform:f", "no module 'no_such_dependency'"),
        ("1 / 0", "transform:f", "importing 'transform' failed: ZeroDivisionError: division by zero"),
        ("def f(:", "transform:f", "importing 'transform' failed: SyntaxError"),
        ("import sys; sys.exit(0)", "transform:f", "importing 'transform' failed: SystemExit"),
    ],
)
def test_an_error_names_the_file_and_what_is_wrong(tmp_path: Path, code: str, reference: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        load_function(_pipeline(tmp_path, code, function=reference))
    assert str(tmp_path / "pipeline.toml") in str(caught.value)


def test_a_model_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'transform:M' is no model"):
        load_decoder(
            _pipeline(
                tmp_path, "class M: __slots__ = ()\nM = int | str | float | list[int] | set[int]", model="transform:M"
            )
        )


MSGSPEC = "import msgspec\nclass M(msgspec.Struct):\n    n: int\n"
PYDANTIC = "import pydantic\nclass M(pydantic.BaseModel):\n    n: int\n"


def test_without_a_model_data_is_a_dict(tmp_path: Path) -> None:
    (event,) = load_decoder(_pipeline(tmp_path))(LINE, True)
    assert event.data == {"n": "7"}


def test_a_msgspec_model_is_strict_but_for_foreign_entries(tmp_path: Path) -> None:
    decode = load_decoder(_pipeline(tmp_path, MSGSPEC, model="transform:M"))
    with pytest.raises(msgspec.ValidationError, match=r"Expected `int`, got `str` - at `\$\[0\].data.n`"):
        decode(LINE, True)
    (event,) = decode(LINE, False)
    assert event.data.n == 7


def test_a_pydantic_model_says_what_does_not_fit(tmp_path: Path) -> None:
    decode = load_decoder(_pipeline(tmp_path, PYDANTIC, model="transform:M"))
    (event,) = decode(LINE, True)
    assert event.data.n == 7
    with pytest.raises(InvalidEvent, match=r"n\n.*valid integer") as caught:
        decode(LINE.replace(b'"7"', b'"x"'), True)
    assert caught.value.reason == "schema"
