"""What the loader reads of an event's data, by any path, is what a search in the whole of it finds."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events
from workers.loader.fields import Fields

KEYS = st.sampled_from(["a", "b", "a.b", "0", "", "a/b", "é", "~"])
PATHS = st.one_of(
    KEYS.filter(bool),
    st.lists(st.sampled_from(["a", "b", "0", "é"]), min_size=2, max_size=3).map(".".join),
    st.lists(st.sampled_from(["a", "b", "0", "a.b", "a~1b", "~0", ""]), min_size=1, max_size=3).map(
        lambda keys: "/" + "/".join(keys)
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)


def _read(paths: list[str], data: Any) -> list[Any]:
    fields = Fields(paths)
    (decoded,) = fields.decode([msgspec.Raw(msgspec.json.encode(data))])
    return [fields.getter(path)(decoded) for path in paths]


@given(st.lists(PATHS, min_size=1, max_size=4), st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_path_reads_what_a_search_finds(paths: list[str], data: dict[str, Any]) -> None:
    assert _read(paths, data) == [events.find(data, path) for path in paths]


@pytest.mark.parametrize("key", ['a"b', "a\\b", "a\tb"])
def test_keys_that_no_attribute_is_read_from(key: str) -> None:
    assert _read([key, f"/{key}", "n"], {key: 1, "n": 2}) == [1, 1, 2]


def test_nothing_else_is_kept() -> None:
    fields = Fields(["a"])
    (decoded,) = fields.decode([msgspec.Raw(b'{"a":1,"b":[2]}')])
    assert len(msgspec.structs.fields(decoded)) == 1
