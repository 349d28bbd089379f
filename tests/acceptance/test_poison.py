"""User code that kills its process, fails for a while, or fails for good: who pays, and how much."""

import json
import shutil
from pathlib import Path

import psycopg
import pytest

from shared.pipeline import shipped_pipelines
from tests.acceptance.fleet import Fleet, fleet, generated
from tests.wait import until

EVENTS = 400
TRANSFORM = """
import os
from pathlib import Path

from bargeline import Event, InvalidEvent

MARKER = Path(__file__).with_name("seen")


def treacherous(event: Event[dict]) -> Event[dict]:
    match event.data["click_id"]:
        case "kills":
            os._exit(1)
        case "heals":
            if not MARKER.exists():
                MARKER.touch()
                raise RuntimeError("not yet")
        case "fails":
            raise RuntimeError("never")
        case "exits":
            raise SystemExit(0)
        case "invalid":
            raise InvalidEvent("not this one")
    return event
"""


def _pipeline(folder: Path) -> Path:
    shutil.copytree(shipped_pipelines() / "clickstream", folder)
    (folder / "transform.py").write_text(TRANSFORM)
    text = (folder / "pipeline.toml").read_text()
    text = text.replace('name = "clickstream"', 'name = "treacherous"\nretry_delays_seconds = [0.1, 0.2, 0.3]', 1)
    lines = [line for line in text.splitlines() if not line.startswith("model")]
    (folder / "pipeline.toml").write_text("\n".join(lines).replace("transform:enrich", "transform:treacherous"))
    return folder


def _with_ids(path: Path, ids: dict[int, str]) -> None:
    generated(path, seed=11, count=EVENTS)
    clicks = [json.loads(line) for line in path.read_text().splitlines()]
    for index, click_id in ids.items():
        clicks[index]["click_id"] = click_id
    path.write_text("".join(json.dumps(click) + "\n" for click in clicks))


def _reasons(found: Fleet) -> dict[str, str]:
    letters = [json.loads(line) for line in found.run("tail", "dead").stdout.splitlines()]
    assert all(letter["origin"]["source"].endswith("clicks.ndjson") for letter in letters)
    return {letter["event"]["data"]["click_id"]: letter["reason"] for letter in letters}


@pytest.mark.timeout(180)
def test_poison_costs_itself_and_failures_that_heal_are_loaded(tmp_path: Path) -> None:
    bad = {50: "kills", 120: "heals", 200: "fails", 250: "exits", 300: "invalid"}
    environment = {"PIPELINE": str(_pipeline(tmp_path / "pipeline"))}
    with fleet(tmp_path / "var", environment=environment) as found:
        _with_ids(tmp_path / "clicks.ndjson", bad)
        (tmp_path / "clicks.ndjson").rename(tmp_path / "var" / "inbox" / "clicks.ndjson")
        until(lambda: found.settled(EVENTS), seconds=120, what="every event to be settled")
        assert _reasons(found) == {
            "kills": "deliveries",
            "fails": "attempts",
            "exits": "attempts",
            "invalid": "invalid",
        }
        balance = found.balance()
        assert (balance.loaded, balance.dead, balance.duplicates) == (EVENTS - 4, 4, 0)
        assert (balance.imbalance, balance.findings) == (0, [])
        with psycopg.connect(found.url("DATABASE_URL")) as connection:
            assert connection.execute("SELECT count(*) FROM clicks").fetchone() == (EVENTS - 4,)
