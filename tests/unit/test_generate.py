"""The generator: the same clicks everywhere, in the shape and spread of real ones."""

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from shared.generate import DESKTOP_TIMEZONES, clicks, write_clicks

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
