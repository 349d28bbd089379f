"""What `tail` shows of a field of a dead letter, whatever somebody sent."""

from typing import Any

import msgspec
import pytest

from bargeline.commands.tail import _readable


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"transform", "transform"),
        (b"{broken", "{broken"),
        (b"\xff", "\\xff"),
    ],
)
def test_json_is_shown_as_json_and_anything_else_as_text(value: bytes, shown: Any) -> None:
    assert _readable(value) == shown


@pytest.mark.parametrize("depth", [*range(900, 1_000, 5), 100_000])
def test_what_is_nested_too_deeply_is_shown_as_text_or_can_be_written(depth: int) -> None:
    value = b'{"a":' * depth + b"1" + b"}" * depth
    shown = _readable(value)
    assert shown == value.decode() or isinstance(shown, dict)
    assert msgspec.json.encode({"bytes": shown})
