"""Of an event's data only what columns and rollups need is decoded, which takes half as long as the whole as a dict."""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any

import msgspec

from shared import events

Getter = Callable[[Any], Any]
# Fractions as decimals: a float keeps 15 digits of them, a numeric column or a rollup all.
_decode_dicts = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode_lines


class Fields:
    """Decodes data into objects with an attribute for each key that a path may begin with."""

    def __init__(self, paths: Iterable[str]) -> None:
        keys: dict[str, Any] = {key: None for path in paths for key in _first_keys(path)}
        # A key that is spelt like a path with dots comes first even where it is null: absent is something else.
        keys |= dict.fromkeys((path for path in paths if _is_dotted(path)), msgspec.UNSET)
        self._names = {key: f"field_{number}" for number, key in enumerate(keys)}
        fields = [(name, Any, keys[key]) for key, name in self._names.items()]
        try:
            kind = msgspec.defstruct("Data", fields, rename={name: key for key, name in self._names.items()}, gc=False)
            self._decode: Callable[[Any], list[Any]] = msgspec.json.Decoder(kind, float_hook=Decimal).decode_lines
        except ValueError:
            # msgspec reads no key with a quote, a backslash or a control character into an attribute.
            self._names, self._decode = {}, _decode_dicts

    def decode(self, data: Sequence[msgspec.Raw]) -> list[Any]:
        """Objects of as many JSON objects. Raises msgspec's errors, UnicodeDecodeError or RecursionError."""
        return self._decode(b"\n".join(data))

    def getter(self, path: str) -> Getter:
        """What reads the value at a path of such an object, like ``events.find``."""
        if not self._names:
            return lambda data: events.find(data, path)
        literal, *first = [attrgetter(self._names[key]) for key in _first_keys(path)]
        if path.startswith("/"):
            return _pointer(literal, events.pointer(path)[1:])
        return _dotted(literal, first[0], path.split(".")[1:]) if first else literal


def _is_dotted(path: str) -> bool:
    return "." in path and not path.startswith("/")


def _first_keys(path: str) -> tuple[str, ...]:
    if path.startswith("/"):
        return events.pointer(path)[:1]
    return (path, path.partition(".")[0]) if "." in path else (path,)


def _pointer(first: Getter, below: Sequence[str]) -> Getter:
    def get(data: Any) -> Any:
        value = first(data)
        return None if value is msgspec.UNSET else events.walk(value, below, in_arrays=True)

    return get


def _dotted(literal: Getter, first: Getter, below: Sequence[str]) -> Getter:
    def get(data: Any) -> Any:
        value = literal(data)
        return events.walk(first(data), below) if value is msgspec.UNSET else value

    return get
