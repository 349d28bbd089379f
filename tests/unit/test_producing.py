"""What a producer makes of dicts, models and events, and what it refuses."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, assert_type
from uuid import UUID, uuid4

import msgspec
import pydantic
import pytest

from bargeline import AsyncProducer, Event, InvalidEvent, Producer
from shared import events
from shared.entries import MOST_BYTES, pieces
from shared.errors import ConfigurationError
from shared.pipeline import Pipeline, PipelineFile
from shared.producing_events import Preparer
from shared.settings import load_producer_settings

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


class Model(pydantic.BaseModel):
    number: int = pydantic.Field(alias="n")
    at: datetime = AT


class Struct(msgspec.Struct, rename="camel"):
    my_number: int
    price: Decimal = Decimal("1.50")


@dataclasses.dataclass
class Data:
    model: Model
    tags: frozenset[str]


def _preparer(most_bytes: int = 10_000, **ingest: Any) -> Preparer:
    table = {"name": "t", "event_types": ["event"], "columns": {"id": "$id"}}
    file = PipelineFile.model_validate({"pipeline": {"name": "p"}, "ingest": ingest, "table": [table]})
    return Preparer(Pipeline(folder=Path(), file=file), "producer", most_bytes)


def _event(given: object, **arguments: Any) -> Event[dict[str, Any]]:
    made = _preparer(**arguments.pop("ingest", {})).one(given, **arguments)
    event = events.decode_any(made.line)
    assert made.line.endswith(b"}\n")
    assert made.id == event.id
    return event


@pytest.mark.parametrize(
    ("given", "data"),
    [
        ({"n": 1, "at": AT, "id": UUID(int=1)}, {"n": 1, "at": "2026-11-21T10:00:00Z", "id": str(UUID(int=1))}),
        (Model(n=1), {"n": 1, "at": "2026-11-21T10:00:00Z"}),
        (Struct(1), {"myNumber": 1, "price": 1.5}),
        (Data(Model(n=1), frozenset("a")), {"model": {"n": 1, "at": "2026-11-21T10:00:00Z"}, "tags": ["a"]}),
        (MappingProxyType({"n": 1}), {"n": 1}),
        (msgspec.Raw(b'{"n":\r\n 1}'), {"n": 1}),
        (Event("e", "t", "s", AT, Model(n=1)), {"n": 1, "at": "2026-11-21T10:00:00Z"}),
    ],
    ids=lambda one: type(one).__name__,
)
def test_whatever_is_an_object_is_an_event(given: object, data: dict[str, Any]) -> None:
    assert _event(given).data == data


def test_numbers_of_ready_made_json_stay_as_they_are() -> None:
    made = _preparer().one(msgspec.Raw(b'{"price": 1.10,\n "n": 123456789012345678901234567890}'))
    assert made.line.endswith(b'"data":{"price":1.10,"n":123456789012345678901234567890}}\n')


def test_attributes_nobody_names() -> None:
    before = events.now()
    event = _event({"n": 1})
    assert (event.type, event.source, event.key) == ("event", "producer", None)
    assert before <= event.time <= events.now()
    assert UUID(event.id).version == 7
    assert _event({"n": 1}).id != event.id


def test_attributes_come_from_arguments_then_from_the_event_then_from_the_pipeline() -> None:
    ingest = {name: {"path": name} for name in ("type", "time", "id", "key")}
    data = {"type": "from data", "time": 0, "id": "d-1", "key": 7}
    found = _event(data, ingest=ingest)
    assert (found.type, found.time, found.key) == ("from data", datetime(1970, 1, 1, tzinfo=UTC), "7")
    assert found.id == events.id_from_value("p", "d-1")
    event = Event("e-1", "from event", "shop", AT, data, "k")
    found = _event(event, ingest=ingest)
    assert (found.type, found.time, found.key, found.source) == ("from event", AT, "k", "shop")
    assert found.id == events.id_from_value("p", "e-1")
    found = _event(event, ingest=ingest, type="argument", time="2026-01-02", key="a", id=UUID(int=9))
    assert (found.type, found.time, found.key) == ("argument", datetime(2026, 1, 2, tzinfo=UTC), "a")
    assert found.id == str(UUID(int=9))


def test_an_id_is_the_same_whoever_sends_it() -> None:
    by_path = _event({"order": 17}, ingest={"id": {"path": "order"}})
    assert _event({}, id=17).id == by_path.id
    own = str(uuid4())
    assert _event({}, id=own).id == own


def test_times_are_in_utc() -> None:
    assert _event({}, time=AT.replace(tzinfo=None)).time == AT
    assert _event({}, time=AT.astimezone(timezone(timedelta(hours=5)))).time == AT
    assert (
        b'"time":"2026-11-21T10:00:00Z"' in _preparer().one({}, time=AT.astimezone(timezone(timedelta(hours=5)))).line
    )


@pytest.mark.parametrize(
    ("given", "arguments", "text"),
    [
        ("text", {}, "Expected `object`, got `str`"),
        ([1], {}, "Expected `object`, got `array`"),
        (None, {}, "Expected `object`, got `null`"),
        (msgspec.Raw(b"{"), {}, "no JSON object"),
        (msgspec.Raw(b'{"a":\n}'), {}, "JSON"),
        ({"a": object()}, {}, "nothing is known of objects of type object"),
        ({"a": "\ud800"}, {}, "surrogates not allowed"),
        (Event("e", "t", "s", AT, [1]), {}, "Expected `object`, got `array`"),
        ({"a": "x" * 20_000}, {}, r"longer than 10,000 bytes \(INGEST_MAX_EVENT_BYTES\)"),
        ({}, {"time": "yesterday"}, "'yesterday' is no time"),
        ({}, {"time": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))}, "is no time"),
        ({}, {"type": 5}, r"Expected `str`, got `int` - at `\$.type`"),
        ({}, {"key": 5}, r"got `int` - at `\$.key`"),
        ({}, {"id": object()}, "is no id"),
    ],
)
def test_what_is_wrong_is_named(given: object, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidEvent, match=text):
        _preparer().one(given, **arguments)


def test_of_many_the_first_wrong_one_is_named() -> None:
    with pytest.raises(InvalidEvent, match="event 2: no JSON object") as raised:
        _preparer().many([{}, {}, [], {}, "x"])
    assert raised.value.index == 2


def test_portions_fit_into_entries() -> None:
    assert [len(one) for one in pieces([b"x\n"] * 1_001)] == [500, 500, 1]
    assert list(pieces([])) == []
    half = b"x" * (MOST_BYTES // 2)
    assert [len(one) for one in pieces([half, half, half, b"x" * (MOST_BYTES + 1), half])] == [2, 1, 1, 1]


def test_a_producer_looks_at_its_own_settings_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    monkeypatch.setenv("LOADER_THREADS", "8")
    (tmp_path / "env").write_text("REDIS_URL=redis://here:1\nPIPELINE=shop\n")
    monkeypatch.setenv("BARGELINE_ENV_FILE", str(tmp_path / "env"))
    monkeypatch.setenv("PIPELINE", "other")
    found = load_producer_settings()
    assert (found.require_redis_url(), found.pipeline) == ("redis://here:1", "other")


def test_a_producer_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL is not set"):
        Producer()
    with pytest.raises(ConfigurationError, match="no pipeline of that name"):
        Producer("redis://127.0.0.1:1", "no such")
    with pytest.raises(ConfigurationError, match="it has to begin with redis://"):
        AsyncProducer("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="on_full='block'"):
        Producer("redis://127.0.0.1:1", on_full="block")  # type: ignore[arg-type]
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    Producer().close()


def test_closed_is_closed() -> None:
    with Producer("redis://127.0.0.1:1") as producer:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        producer.emit({})


def test_an_event_is_imported_without_what_a_producer_needs() -> None:
    code = (
        "import sys, bargeline; bargeline.Event; print([name for name in ('redis', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_knows_its_names() -> None:
    import bargeline

    assert all(getattr(bargeline, name) for name in bargeline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Consumer'"):
        bargeline.Consumer  # type: ignore[attr-defined]  # noqa: B018


async def checked_by_mypy(one: Producer, other: AsyncProducer, given: Mapping[str, int]) -> None:
    """Never called: what users' type checkers see."""
    assert_type(one.emit(given, time=1.5), str)
    assert_type(one.emit_many([Model(n=1), Struct(1)]), list[str])
    assert_type(await other.emit(Data(Model(n=1), frozenset()), id=7), str)
    assert_type(await other.emit_many([Event("e", "t", "s", AT, {"n": 1})]), list[str])
    one.emit("text")  # type: ignore[arg-type]
    one.emit({}, kind="t")  # type: ignore[call-arg]
