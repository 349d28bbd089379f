"""Clicks, orders and sensor readings that look real, from a seed: for demos, tests and benchmarks.

The same seed gives the same events on every Python, and the first events of a longer run are those
of a shorter one. Only ``random()`` and ``getrandbits()`` are drawn from the generator: their values
are promised to stay, those of the other methods are not.
"""

import itertools
import random
import sys
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
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
#: Of the events of a source that goes on for ever so many are made from one seed, so that event number 50 million is
#: found without making all before it.
BLOCK_EVENTS = 10_000
_NEXT_BLOCK = 0x9E3779B97F4A7C15

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

#: Price in cents of what is sold, by name.
_PRODUCTS = {
    "Anchor Mug": 1_250, "Canvas Bag": 2_400, "Deck Lantern": 5_990, "Ferry Poster": 1_800, "Harbour Map": 950,
    "Knot Board": 3_475, "Pilot Cap": 2_200, "Rope Mat": 4_150, "Signal Flag": 799, "Wool Blanket": 8_900,
}  # fmt: skip
#: Share of orders without a customer, of those that are open and change, and of changes that cancel.
GUEST_SHARE = 0.2
_CHANGE_SHARE = 0.55
_CANCEL_SHARE = 0.1
_NEXT_STATE = {"new": "paid", "paid": "shipped"}
#: What a webhook says of money in each state.
_FINANCIAL = {"new": "pending", "paid": "paid", "shipped": "paid", "cancelled": "voided"}
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_FIRST_ORDER = 1_001

_SENSORS = 24
#: Share of readings of a sensor that stands in the sun, or is broken.
HOT_SHARE = 0.01
#: °C; other readings stay well below it.
HOT = 60.0


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


def orders(seed: int, count: int, first: int = 0) -> Iterator[dict[str, Any]]:
    """Yield ``count`` orders as a shop's webhook sends them: each is new, or a later state of one before.

    ``id`` (whole number), ``email``, ``customer`` (an object; a guest has none), ``line_items`` (``sku``, ``title``,
    ``quantity``, ``price`` as text), ``total_price`` (text), ``currency``, ``state`` (new, paid, shipped, cancelled),
    ``financial_status``, ``created_at``, ``updated_at`` (which rises from event to event). ``first`` is the number of
    the first event, from which ids and times follow.
    """
    draw = random.Random(seed)
    unfinished: list[dict[str, Any]] = []
    for number in range(first, first + count):
        moment = _BEGINNING + timedelta(minutes=number, seconds=int(draw.random() * 60))
        if unfinished and draw.random() < _CHANGE_SHARE:
            place = int(draw.random() * len(unfinished))
            order = _changed(draw, unfinished[place], moment)
            unfinished[place] = order
            if order["state"] not in _NEXT_STATE:
                del unfinished[place]
        else:
            order = _new_order(draw, _FIRST_ORDER + number, moment)
            unfinished.append(order)
        yield order


def sensors(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield ``count`` readings: ``sensor_id``, ``temp`` in °C, ``humidity`` in %; both with one decimal.

    Each sensor drifts slowly; a few readings are far too hot.
    """
    draw = random.Random(seed)
    state = [(12 + 12 * draw.random(), 35 + 30 * draw.random()) for _ in range(_SENSORS)]
    for _ in range(count):
        which = int(draw.random() * _SENSORS)
        temp, humidity = state[which]
        temp = min(max(temp + draw.random() - 0.5, -5.0), 35.0)
        humidity = min(max(humidity + 2 * draw.random() - 1, 20.0), 90.0)
        state[which] = temp, humidity
        if draw.random() < HOT_SHARE:
            temp = HOT + 30 * draw.random()
        yield {"sensor_id": f"sensor-{which + 1:02d}", "temp": round(temp, 1), "humidity": round(humidity, 1)}


#: By the kind of event: makes so many from a seed, of which the first has a number.
_KINDS: dict[str, Callable[[int, int, int], Iterator[dict[str, Any]]]] = {
    "clicks": lambda seed, count, _first: clicks(seed, count),
    "orders": orders,
    "sensors": lambda seed, count, _first: sensors(seed, count),
}


def block(kind: str, seed: int, number: int) -> Iterator[dict[str, Any]]:
    """Block ``number`` of an endless source: BLOCK_EVENTS events; block 0 begins like the kind's own function."""
    return _KINDS[kind](seed + number * _NEXT_BLOCK, BLOCK_EVENTS, number * BLOCK_EVENTS)


def write_clicks(path: Path, seed: int, count: int) -> int:
    """Write ``count`` clicks to ``path`` as NDJSON; return the size in bytes."""
    encode_lines = msgspec.json.Encoder().encode_lines
    source = clicks(seed, count)
    size = 0
    with path.open("wb") as file:
        while chunk := list(itertools.islice(source, _CHUNK_LINES)):
            size += file.write(encode_lines(chunk))
    return size


def _new_order(draw: random.Random, order_id: int, moment: datetime) -> dict[str, Any]:
    email = _address(draw)
    guest = draw.random() < GUEST_SHARE
    customer = {} if guest else {"customer": {"id": 5_000 + int(draw.random() * 900), "email": email}}
    titles = sorted({_one(draw, tuple(_PRODUCTS)) for _ in range(1 + int(draw.random() * 4))})
    quantities = [1 + int(draw.random() * 3) for _ in titles]
    return {
        "id": order_id,
        "email": email,
        **customer,
        "line_items": [
            {
                "sku": "".join(word[:3] for word in title.upper().split()),
                "title": title,
                "quantity": quantity,
                "price": _money(_PRODUCTS[title]),
            }
            for title, quantity in zip(titles, quantities, strict=True)
        ],
        "total_price": _money(
            sum(_PRODUCTS[title] * quantity for title, quantity in zip(titles, quantities, strict=True))
        ),
        "currency": "EUR",
        "state": "new",
        "financial_status": _FINANCIAL["new"],
        "created_at": _text(moment),
        "updated_at": _text(moment),
    }


def _changed(draw: random.Random, order: dict[str, Any], moment: datetime) -> dict[str, Any]:
    state = "cancelled" if draw.random() < _CANCEL_SHARE else _NEXT_STATE[order["state"]]
    return {**order, "state": state, "financial_status": _FINANCIAL[state], "updated_at": _text(moment)}


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


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
