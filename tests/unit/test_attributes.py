"""Attributes: type, time, id and key out of an event's data, by the pipeline's file."""

from datetime import UTC, datetime
from typing import Any

import pytest

from shared.attributes import Attributes
from shared.errors import InvalidEvent
from shared.events import id_from_value
from shared.pipeline import IngestSection


def _attributes(**section: Any) -> Attributes:
    return Attributes(IngestSection.model_validate(section), "p")


def test_nothing_said_means_constants() -> None:
    found = _attributes()
    assert found.constant
    assert found.type({"type": "x"}) == "event"
    assert (found.time({}), found.id({}), found.key({})) == (None, None, None)


@pytest.mark.parametrize("name", ["time", "id", "key", "type"])
def test_a_path_is_no_constant(name: str) -> None:
    assert not _attributes(**{name: {"path": "x"}}).constant


def test_type_from_a_path_with_a_default() -> None:
    found = _attributes(type={"path": "event.kind", "default": "click"})
    assert found.type({"event": {"kind": "view"}}) == "view"
    assert found.type({"event": {}}) == "click"
    assert found.type({"event": {"kind": 7}}) == "7"
    assert _attributes(type={"path": "kind"}).type({"kind": ""}) == "event"


def test_time_from_a_path() -> None:
    found = _attributes(time={"path": "at"})
    assert found.time({"at": 1_795_255_200}) == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert found.time({}) is None
    with pytest.raises(InvalidEvent, match="'now' is no time"):
        found.time({"at": "now"})


def test_id_and_key_from_a_path() -> None:
    found = _attributes(id={"path": "order"}, key={"path": "user.id"})
    assert found.id({"order": "o-1"}) == id_from_value("p", "o-1")
    assert found.id({"order": None}) is None
    assert found.key({"user": {"id": 5}}) == "5"
    assert found.key({"user": "x"}) is None
