"""The generator: the same clicks everywhere, in the shape and spread of real ones."""

import hashlib
import itertools
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from shared.generate import DESKTOP_TIMEZONES, HOT, block, clicks, orders, sensors, write_clicks

FIELDS = [
    "click_id",
    "os",
    "os_name",
    "os_timezone",
    "device_type",
    "device_is_mobile",
    "user_custom_id",
    "user_domain_id",
]


def test_the_bytes_of_a_seed_never_change(tmp_path: Path) -> None:
    size = write_clicks(tmp_path / "clicks.ndjson", seed=1, count=2_500)
    content = (tmp_path / "clicks.ndjson").read_bytes()
    assert len(content) == size
    assert hashlib.sha256(content).hexdigest() == "a14f1db406425bab42d2f3f75187fbe88d87a0c87a8dcd4ddbc8f7e75862fa33"


def test_written_lines_are_the_clicks(tmp_path: Path) -> None:
    write_clicks(tmp_path / "clicks.ndjson", seed=3, count=1_001)
    lines = (tmp_path / "clicks.ndjson").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(clicks(3, 1_001))


def test_a_short_run_is_the_beginning_of_a_long_one() -> None:
    assert list(clicks(5, 100)) == list(itertools.islice(clicks(5, 10_000), 100))


def test_seeds_differ() -> None:
    assert list(clicks(1, 10)) != list(clicks(2, 10))


@pytest.mark.parametrize("count", [0, 1])
def test_the_smallest_counts(tmp_path: Path, count: int) -> None:
    write_clicks(tmp_path / "clicks.ndjson", seed=1, count=count)
    assert (tmp_path / "clicks.ndjson").read_bytes().count(b"\n") == count


def test_every_click_has_the_eight_fields() -> None:
    for click in clicks(8, 1_000):
        assert list(click) == FIELDS
        assert UUID(click["click_id"]).version == UUID(click["user_domain_id"]).version == 4
        assert (
            click["device_is_mobile"] is (click["device_type"] == "Mobile") is (click["os_name"] in {"iOS", "Android"})
        )
        assert click["user_custom_id"].rsplit("@")[1] in {"example.com", "example.org", "example.net"}


def test_click_ids_are_unique_and_people_return() -> None:
    sample = list(clicks(9, 5_000))
    assert len({click["click_id"] for click in sample}) == 5_000
    assert 300 < len({click["user_domain_id"] for click in sample}) < 700


def test_spread_of_devices_and_timezones() -> None:
    sample = list(clicks(11, 20_000))
    mobile = Counter(click["os_timezone"] for click in sample if click["device_is_mobile"])
    assert 0.6 < mobile.total() / len(sample) < 0.75
    assert len({click["os"] for click in sample}) > 40
    timezones = {click["os_timezone"] for click in sample}
    assert len(timezones) > 45
    assert timezones & DESKTOP_TIMEZONES
    assert not mobile.keys() & DESKTOP_TIMEZONES


def test_orders_are_new_or_later_states_of_orders_before() -> None:
    latest: dict[int, dict[str, Any]] = {}
    allowed = {"new": {"paid", "cancelled"}, "paid": {"shipped", "cancelled"}}
    for order in orders(3, 5_000):
        if before := latest.get(order["id"]):
            assert order["state"] in allowed[before["state"]]
            assert order["updated_at"] > before["updated_at"]
            changed = ("state", "financial_status", "updated_at")
            assert {**order, **{name: before[name] for name in changed}} == before
        else:
            assert order["state"] == "new"
            total = sum(Decimal(item["price"]) * item["quantity"] for item in order["line_items"])
            assert str(total) == order["total_price"]
            assert 1 <= len(order["line_items"]) <= 4
        latest[order["id"]] = order
    assert {order["state"] for order in latest.values()} == {"new", "paid", "shipped", "cancelled"}
    guests = sum("customer" not in order for order in latest.values())
    assert 0.15 < guests / len(latest) < 0.25


def test_readings_drift_and_a_few_are_far_too_hot() -> None:
    readings = list(sensors(4, 20_000))
    assert {tuple(map(type, reading.values())) for reading in readings} == {(str, float, float)}
    assert len({reading["sensor_id"] for reading in readings}) == 24
    hot = sum(reading["temp"] >= HOT for reading in readings)
    assert 0.005 < hot / len(readings) < 0.02
    usual = [reading for reading in readings if reading["temp"] < HOT]
    assert max(reading["temp"] for reading in usual) <= 35
    assert all(20 <= reading["humidity"] <= 90 for reading in readings)


@pytest.mark.parametrize("kind", ["clicks", "orders", "sensors"])
def test_blocks_differ_and_the_first_begins_like_the_kind_itself(kind: str) -> None:
    make: Any = {"clicks": clicks, "orders": orders, "sensors": sensors}[kind]
    assert list(itertools.islice(block(kind, 6, 0), 50)) == list(make(6, 50))
    assert list(itertools.islice(block(kind, 6, 1), 50)) != list(itertools.islice(block(kind, 6, 0), 50))


def test_the_bytes_of_orders_and_sensors_never_change() -> None:
    encoded = msgspec.json.encode([list(orders(1, 500)), list(sensors(1, 500))])
    assert hashlib.sha256(encoded).hexdigest() == "5117a5296211e3e2afc845bda770f06ae20f1df96a281ee59244f8b68608f987"


def test_order_ids_do_not_repeat_from_block_to_block() -> None:
    both = [{order["id"] for order in block("orders", 6, number)} for number in (0, 1)]
    assert not both[0] & both[1]
