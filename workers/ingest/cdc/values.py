"""Values of columns as JSON, by the type of the column: pure.

PostgreSQL sends every value as text. Numbers that JSON readers hold exactly become numbers; `numeric`, which most read
as a float, stays text, and so does everything that has no counterpart.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

#: What stands for a value's text in an event's data; its JSON is one line.
Convert: TypeAlias = Callable[[str], Any]

_BOOL, _INT8, _INT2, _INT4, _OID = 16, 20, 21, 23, 26
_FLOAT4, _FLOAT8, _JSON, _JSONB = 700, 701, 114, 3802
_LINE_ENDS = str.maketrans("\r\n", "  ")


def converter(type_oid: int) -> Convert | None:
    """How values of a type become JSON; None where the text stays text."""
    return _CONVERTERS.get(type_oid)


def _float(text: str) -> Any:
    """JSON has no NaN and no infinities: these stay text."""
    return text if text[-1] in "Ny" else msgspec.Raw(text)


def _json(text: str) -> Any:
    """As it is; what our readers could not take (too deep, half a surrogate, a huge number) stays text."""
    # White space between the values of a `json` may be any; within them line ends are always escaped.
    line = text.translate(_LINE_ENDS)
    try:
        msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text
    return msgspec.Raw(line)


_CONVERTERS: dict[int, Convert] = {
    _BOOL: lambda text: text == "t",
    **dict.fromkeys((_INT2, _INT4, _INT8, _OID), msgspec.Raw),
    **dict.fromkeys((_FLOAT4, _FLOAT8), _float),
    _JSON: _json,
    _JSONB: _json,
}
