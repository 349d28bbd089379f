"""What is wanted of an event's JSON, as C is told.

Nodes, each a member of an object, in groups, each what is wanted of one object. The first group holds the attributes,
in the order that c/rows.c knows.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shared.events import pointer
from shared.pipeline import ATTRIBUTES

#: A member's name, the group of what is wanted of its own members or -1, and whether it may be there.
Node = tuple[bytes, int, bool]
#: Places of nodes, from one to before another.
Group = tuple[int, int]
_MOST_NODES = 256
#: A name that stands in JSON as it is.
_NAME = re.compile(r'[^"\\\x00-\x1f]*')


class Tree(NamedTuple):
    """Nodes, their groups, and the node of each attribute and path."""

    nodes: tuple[Node, ...]
    groups: tuple[Group, ...]
    places: Mapping[str, int]


def nodes_of(paths: Sequence[str]) -> Tree | None:
    """The nodes of these paths into the data, and of all attributes; None where a path is not for C."""
    data: dict[str, Any] = {}
    for path in paths:
        level = data
        for name in _names(path):
            level = level.setdefault(name, {})
    # A key that is spelt like a path with dots would come before what the path finds: it must not be there.
    dotted = sorted({path for path in paths if "." in path and not path.startswith("/")})
    if set(dotted) & set(data):
        return None
    nodes: list[Node] = []
    groups: list[Group] = []
    places: dict[tuple[str, ...], int] = {}

    def add(level: Mapping[str, Any], above: tuple[str, ...]) -> int:
        group, begin = len(groups), len(nodes)
        forbidden = dotted if above == ("$data",) else ()
        nodes.extend((name.removeprefix("$" * (not above)).encode(), -1, True) for name in level)
        nodes.extend((name.encode(), -1, False) for name in forbidden)
        groups.append((begin, len(nodes)))
        for place, (name, below) in enumerate(level.items(), begin):
            places[*above, name] = place
            if below:
                nodes[place] = (nodes[place][0], add(below, (*above, name)), True)
        return group

    add({name: data if name == "$data" else {} for name in ATTRIBUTES}, ())
    usual = all(_NAME.fullmatch(name.decode()) for name, _, _ in nodes)
    if not usual or len(nodes) > _MOST_NODES:
        return None
    attributes = {name: places[(name,)] for name in ATTRIBUTES}
    return Tree(tuple(nodes), tuple(groups), attributes | {path: places["$data", *_names(path)] for path in paths})


def _names(path: str) -> Sequence[str]:
    return pointer(path) if path.startswith("/") else path.split(".")
