"""URLs of servers as they may be shown."""

import re
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"[a-z+]*:/+", re.IGNORECASE)
#: Up to the last @: a password in which somebody forgot to escape one is hidden as well, and so is one of a URL
#: whose beginning is wrong.
_AFTER_USER = re.compile(r"^([^:@/]*):.*@", re.DOTALL)
#: As a parameter of a URL, or in a list such as `host=x password=y`: of the server, or of the key of TLS.
_AS_PARAMETER = re.compile(r"((?:^|[?&\s])(?:ssl_?)?password\s*=\s*)(?:'[^']*'|[^&\s]*)", re.IGNORECASE)
ESCAPE_HINT = "Special characters of a password are written as %2F (/), %40 (@), %3A (:), %23 (#) and %25 (%)."


def without_password(url: str) -> str:
    """The URL with *** for its password."""
    # Not one expression with a possessive group: Python 3.11.2 matches that wrongly.
    found = _SCHEME.match(url)
    scheme = found[0] if found else ""
    return scheme + _AS_PARAMETER.sub(r"\1***", _AFTER_USER.sub(r"\1:***@", url.removeprefix(scheme)))


def is_ambiguous(url: str) -> bool:
    """Whether a special character in the password was left as it is: a part of it would pass for a host's name."""
    place = url.partition("://")[2].partition("?")[0]
    authority, _, path = place.partition("/")
    return authority.count("@") > 1 or "@" in path


def parts(url: str) -> dict[str, str]:
    """REDIS_HOST, REDIS_PORT and REDIS_PASSWORD of a URL; nothing for what they cannot say (TLS, sockets, users)."""
    found = urlsplit(url)
    if found.scheme != "redis" or found.username:
        return {}
    password = {"REDIS_PASSWORD": unquote(found.password)} if found.password else {}
    return {"REDIS_HOST": found.hostname or "localhost", "REDIS_PORT": str(found.port or 6379)} | password
