"""Where in a TOML file something stands. The parser of the standard library gives no positions."""

import tomllib
from collections.abc import Sequence
from typing import Any

Place = Sequence[str | int]


def line_of(text: str, place: Place) -> int | None:
    """Line (from 1) on which the innermost part of a place begins that a valid file has; None if it has none.

    Found by parsing beginnings of the file, so that it cannot differ from what the parser understands.
    """
    lines = text.split("\n")
    wanted = place[: _depth(tomllib.loads(text), place)]
    if not wanted:
        return None
    without, within = 0, len(lines)
    while within - without > 1:
        end, document = _longest(lines, (without + within) // 2)
        if _depth(document, wanted) == len(wanted):
            within = end
        else:
            without = (without + within) // 2
    return _longest(lines, without)[0] + 1


def _depth(value: Any, place: Place) -> int:
    """How many parts of a place there are."""
    for depth, part in enumerate(place):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(place)


def _longest(lines: Sequence[str], most: int) -> tuple[int, dict[str, Any]]:
    """The longest beginning of at most so many lines that does not end within a value: its length, and what it says."""
    for end in range(most, 0, -1):
        try:
            return end, tomllib.loads("\n".join(lines[:end]) + "\n")
        except tomllib.TOMLDecodeError:
            continue
    return 0, {}
