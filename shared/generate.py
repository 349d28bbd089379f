"""Clicks that look real, from a seed: for demos, tests and benchmarks.

The same seed gives the same clicks on every Python, and the first clicks of a longer run are those
of a shorter one. Only ``random()`` and ``getrandbits()`` are drawn from the generator: their values
are promised to stay, those of the other methods are not.
"""

import itertools
import random
import sys
from bisect import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

#: Of demos: each run makes the same clicks.
SEED = 1
#: Share of clicks made by somebody not seen before; the others come from known people.
NEW_USER_SHARE = 0.1
#: So many come before anybody returns.
FIRST_USERS = 20
_CHUNK_LINES = 1_000

_OS_FAMILIES = ("iOS", "Android", "MacOS", "Windows", "Linux")
_OS_WEIGHTS = (34, 33, 18, 11, 4)
_PLATFORMS = {
    "iOS": (
        "iPhone; CPU iPhone OS {ios} like Mac OS X",
        "iPhone; CPU iPhone OS {ios} like Mac OS X",
        "iPad; CPU OS {ios} like Mac OS X",
    ),
    "Android": ("Android {android}",),
    "MacOS": ("Macintosh; Intel Mac OS X {mac}", "Macintosh; U; Intel Mac OS X {mac}"),
    "Windows": ("Windows NT {windows}", "Windows NT {windows}; Win64; x64"),
    "Linux": ("X11; Linux x86_64", "X11; Linux aarch64", "X11; Linux i686"),
}
_VERSIONS = {
    "ios": ("12_5_7", "13_7", "14_8_1", "15_8", "16_7_2", "17_2", "17_4_1", "17_6", "18_0_1", "18_1"),
    "android": ("7.1.2", "8.0.0", "8.1.0", "9", "10", "11", "12", "13", "14", "15"),
    "mac": ("10_13_6", "10_14_6", "10_15_7", "11_7_10", "12_7_6", "13_6_9", "14_5", "15_1"),
    "windows": ("6.1", "6.3", "10.0", "11.0"),
}
_MOBILE = frozenset({"iOS", "Android"})

_TIMEZONES = {
    "America/New_York": 70, "America/Los_Angeles": 55, "Asia/Kolkata": 55, "Europe/Paris": 45,
    "Europe/London": 45, "Asia/Shanghai": 45, "Asia/Tokyo": 40, "Europe/Madrid": 35, "Europe/Berlin": 35,
    "America/Mexico_City": 35, "America/Sao_Paulo": 35, "America/Chicago": 30, "Asia/Jakarta": 25,
    "Europe/Rome": 25, "Asia/Manila": 22, "Europe/Warsaw": 18, "Africa/Lagos": 18, "Africa/Cairo": 16,
    "America/Bogota": 16, "Europe/Istanbul": 16, "Asia/Karachi": 15, "Asia/Dhaka": 15, "Asia/Seoul": 15,
    "Australia/Sydney": 14, "Asia/Bangkok": 14, "America/Toronto": 14, "Africa/Nairobi": 12,
    "Europe/Amsterdam": 12, "America/Lima": 10, "Africa/Johannesburg": 10, "Asia/Ho_Chi_Minh": 10,
    "Europe/Kyiv": 10, "America/Argentina/Buenos_Aires": 10, "Europe/Stockholm": 8, "America/Santiago": 8,
    "Africa/Casablanca": 7, "Asia/Singapore": 7, "Asia/Dubai": 7, "Europe/Lisbon": 6, "Europe/Athens": 6,
    "Africa/Accra": 5, "America/Phoenix": 5, "Asia/Kathmandu": 4, "Pacific/Auckland": 4, "Asia/Tashkent": 4,
    "America/Havana": 3, "America/St_Johns": 2, "Pacific/Chatham": 2, "Atlantic/Stanley": 2,
    "Arctic/Longyearbyen": 2,
}  # fmt: skip
#: Nobody clicks on a phone here: aggregates meet groups whose count of mobile users is zero.
DESKTOP_TIMEZONES = frozenset({"Arctic/Longyearbyen", "Atlantic/Stanley", "Pacific/Chatham"})

_GIVEN_NAMES = (
    "ada", "amina", "bela", "carlos", "chen", "dora", "elif", "emil", "farid", "grace", "hana", "igor",
    "ines", "jonas", "kofi", "lena", "luis", "mei", "milan", "nadia", "noor", "olga", "omar", "pablo",
    "priya", "ravi", "rosa", "sana", "sven", "tariq", "uma", "vera", "wei", "yara", "yuki", "zoe",
)  # fmt: skip
_FAMILY_NAMES = (
    "adler", "bakker", "castro", "diallo", "eriksen", "ferrari", "garcia", "horvat", "ivanov", "jansen",
    "kaya", "kowalski", "larsen", "lopez", "mensah", "meyer", "nakamura", "novak", "okafor", "pereira",
    "petrov", "quispe", "rahman", "rossi", "sato", "schmid", "silva", "singh", "tanaka", "tran", "usman",
    "vargas", "weber", "yilmaz", "zhang", "zimmer",
)  # fmt: skip
_MAIL_DOMAINS = ("example.com", "example.org", "example.net")


class _User(NamedTuple):
    os: str
    os_name: str
    os_timezone: str
    device_type: str
    device_is_mobile: bool
    user_custom_id: str
    user_domain_id: str


def clicks(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield ``count`` clicks: eight fields, text but for the boolean ``device_is_mobile``."""
    draw = random.Random(seed)
    users: list[_User] = []
    for _ in range(count):
        if len(users) < FIRST_USERS or draw.random() < NEW_USER_SHARE:
            users.append(_new_user(draw))
            user = users[-1]
        else:
            user = _one(draw, users)
        yield {"click_id": _uuid4(draw), **user._asdict()}


def write_clicks(path: Path, seed: int, count: int) -> int:
    """Write ``count`` clicks to ``path`` as NDJSON; return the size in bytes."""
    encode_lines = msgspec.json.Encoder().encode_lines
    source = clicks(seed, count)
    size = 0
    with path.open("wb") as file:
        while chunk := list(itertools.islice(source, _CHUNK_LINES)):
            size += file.write(encode_lines(chunk))
    return size


def _new_user(draw: random.Random) -> _User:
    timezone = _weighted(draw, tuple(_TIMEZONES), _TIMEZONE_BOUNDS)
    family = _weighted(draw, _OS_FAMILIES, _OS_BOUNDS)
    while family in _MOBILE and timezone in DESKTOP_TIMEZONES:
        family = _weighted(draw, _OS_FAMILIES, _OS_BOUNDS)
    mobile = family in _MOBILE
    versions = {name: _one(draw, known) for name, known in _VERSIONS.items()}
    return _User(
        os=_one(draw, _PLATFORMS[family]).format(**versions),
        os_name=family,
        os_timezone=timezone,
        device_type="Mobile" if mobile else "Computer",
        device_is_mobile=mobile,
        user_custom_id=_address(draw),
        user_domain_id=_uuid4(draw),
    )


def _address(draw: random.Random) -> str:
    given, family = _one(draw, _GIVEN_NAMES), _one(draw, _FAMILY_NAMES)
    number = int(draw.random() * 100)
    name = _one(draw, (f"{given}.{family}", f"{given[0]}{family}", f"{family}{given}", f"{given}{number:02d}"))
    return f"{name}@{_one(draw, _MAIL_DOMAINS)}"


def _one(draw: random.Random, values: Sequence[T]) -> T:
    return values[int(draw.random() * len(values))]


def _weighted(draw: random.Random, values: Sequence[str], bounds: Sequence[int]) -> str:
    return values[bisect(bounds, draw.random() * bounds[-1])]


def _uuid4(draw: random.Random) -> str:
    bits = draw.getrandbits(128)
    digits = f"{bits & ~(0xF << 76) & ~(0x3 << 62) | 0x4 << 76 | 0x2 << 62:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_OS_BOUNDS = tuple(itertools.accumulate(_OS_WEIGHTS))
_TIMEZONE_BOUNDS = tuple(itertools.accumulate(_TIMEZONES.values()))

if __name__ == "__main__":
    events, file = sys.argv[1:]  # such as `python -m shared.generate 1000 clicks.ndjson`
    write_clicks(Path(file), SEED, int(events))
