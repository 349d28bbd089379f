"""Text of strangers on a terminal: names, errors and event data may hold control characters."""

import re
from typing import Any

#: C0, DEL, C1 (an 8-bit terminal takes U+009B for ESC [), line separators, and what turns the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with each control character written as ``\u001b``, which JSON reads back as the same character.

    With ``lines`` newlines stay.
    """
    pattern = _CONTROL_BUT_LINES if lines else _CONTROL
    return pattern.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_nul(value: Any) -> Any:
    """The value with each U+0000 in its texts and keys, which PostgreSQL cannot hold, replaced by U+FFFD."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {without_nul(key): without_nul(one) for key, one in value.items()}
    return [without_nul(one) for one in value] if isinstance(value, list) else value


def is_utf8(content: bytes) -> bool:
    """Whether bytes are text in UTF-8."""
    try:
        str(content, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
