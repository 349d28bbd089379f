"""What the fields of many events have in common: pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bargeline.init import types
from bargeline.init.names import column_name

#: Objects within objects become columns so deep: `customer.address.city`.
MOST_LEVELS = 3
#: An object with more different keys is no record but a map, whose keys are data.
MOST_KEYS_OF_AN_OBJECT = 64
#: One with more than a few, of which each is seldom there, is one too.
_FEW_KEYS = 8
_RECORD_SHARE = 0.25
#: Different keys of the events themselves that are remembered.
MOST_KEYS = 5_000
_ID_ENDINGS = ("id", "uuid", "guid", "key", "number", "no")


@dataclass
class Field:
    """What was seen at one place in the events; ``keys`` lead there, none to the events themselves."""

    keys: tuple[str, ...] = ()
    present: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    children: dict[str, "Field"] = field(default_factory=dict)
    #: More keys were there than are worth telling apart.
    is_map: bool = False
    #: Its values, while all differ and it is called like an id.
    unique: set[Any] | None = None
    #: Every text in it could be a number.
    numbers_as_text: bool = True
    lowest: float = float("inf")
    highest: float = float("-inf")

    @property
    def nulls(self) -> int:
        """How often null was there."""
        return self.kinds.get(types.NULL, 0)

    @property
    def type(self) -> str:
        """Type of a column for it."""
        return types.type_of(self.kinds)

    def note(self, value: Any) -> None:
        """Count one more value."""
        self.present += 1
        kind = types.kind_of(value)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if kind == types.OBJECT:
            self._descend(value)
        elif isinstance(value, str):
            self.numbers_as_text = self.numbers_as_text and (not value or types.is_number(value))
        elif isinstance(value, int | float) and kind != types.HUGE:
            self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)
        if self.unique is not None:
            self._compare(value)

    def leaves(self) -> Iterator["Field"]:
        """The fields that become columns: itself, or those within it where it is a record."""
        if self._is_record:
            for child in self.children.values():
                yield from child.leaves()
        else:
            yield self

    @property
    def _is_record(self) -> bool:
        if self.is_map or not self.children or not set(self.kinds) <= {types.OBJECT, types.NULL}:
            return False
        filled = sum(child.present for child in self.children.values())
        share = filled / (len(self.children) * self.kinds[types.OBJECT])
        return len(self.children) <= _FEW_KEYS or share >= _RECORD_SHARE

    def _descend(self, value: dict[str, Any]) -> None:
        if (self.is_map and self.keys) or len(self.keys) >= MOST_LEVELS:
            return
        most = MOST_KEYS if not self.keys else MOST_KEYS_OF_AN_OBJECT
        for key, one in value.items():
            child = self.children.get(key)
            if child is None:
                if len(self.children) == most:
                    self.is_map = True
                    continue
                child = self.children[key] = _new((*self.keys, key))
            child.note(one)

    def _compare(self, value: Any) -> None:
        assert self.unique is not None
        if not isinstance(value, str | int) or isinstance(value, bool) or value in self.unique:
            self.unique = None
        else:
            self.unique.add(value)


def _new(keys: tuple[str, ...]) -> Field:
    return Field(keys, unique=set() if column_name(keys).split("_")[-1] in _ID_ENDINGS else None)
