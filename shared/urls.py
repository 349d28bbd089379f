"""URLs of servers as they may be shown."""

import re

#: Up to the last @: a password in which somebody forgot to escape one is hidden as well.
_AFTER_USER = re.compile(r"(//[^:@/]*):.*@", re.DOTALL)
_AS_PARAMETER = re.compile(r"([?&]password=)[^&]*")
ESCAPE_HINT = "Special characters of a password are written as %2F (/), %40 (@), %3A (:), %23 (#) and %25 (%)."


def without_password(url: str) -> str:
    """The URL with *** for its password."""
    return _AS_PARAMETER.sub(r"\1***", _AFTER_USER.sub(r"\1:***@", url))
