"""Scaling while events flow: only the difference is touched, and the count ends exact."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from shared.streams import live_workers
from tests.acceptance.fleet import Fleet, assert_exact, fleet, generated
from tests.wait import until

EVENTS = 100_000


def _pids(found: Fleet) -> dict[str, int | None]:
    return {name: process.pid for name, process in found.processes().items()}


@contextmanager
def _by_hand(found: Fleet, log: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A transform worker started as the README says, under a name of its own."""
    environment: Mapping[str, str] = {
        **found.env(),
        "REDIS_URL": found.url("REDIS_URL"),
        "DATABASE_URL": found.url("DATABASE_URL"),
        "CONSUMER_NAME": name,
    }
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "workers.transform"], env=environment, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _live(found: Fleet) -> set[str]:
    client = found.client()
    names = {lease.name for lease in live_workers(client)}
    client.close()
    return names


@pytest.mark.timeout(300)
def test_scale_touches_only_the_difference_and_workers_join_by_hand(tmp_path: Path) -> None:
    truth = generated(tmp_path / "clicks.ndjson", seed=4, count=EVENTS)
    with fleet(tmp_path / "var") as found:
        before = _pids(found)
        (tmp_path / "clicks.ndjson").rename(tmp_path / "var" / "inbox" / "clicks.ndjson")
        until(partial(found.has_loaded, 0), what="events to flow")

        found.run("scale", "transform=4")
        four = _pids(found)
        assert {f"transform-{number:02}" for number in range(1, 5)} <= four.keys()
        assert {name: four[name] for name in before} == before

        with _by_hand(found, tmp_path / "hand.log", "by-hand") as hand:
            until(lambda: "by-hand" in _live(found), what="the worker started by hand to join")
            found.run("scale", "transform=1")
            assert _pids(found) == before
            hand.send_signal(signal.SIGTERM)
            assert hand.wait(30) == 0, (tmp_path / "hand.log").read_text()
        assert "by-hand" not in _live(found), "a worker that ends gives its name back"
        assert_exact(found, truth, found.url("DATABASE_URL"))


@pytest.mark.timeout(120)
def test_a_taken_name_is_waited_for_then_refused(tmp_path: Path) -> None:
    with fleet(tmp_path / "var") as found:
        taken = found.processes()["transform-01"].consumer
        assert taken
        log = tmp_path / "second.log"
        with _by_hand(found, log, taken) as second:
            until(lambda: "name is held, waiting" in log.read_text(), what="the second worker to wait")
            assert second.wait(60) == 3
        assert f"CONSUMER_NAME={taken}" in log.read_text()
        # One whose holder was frozen and is gone from the list takes over instead.
        os.kill(found.pid("transform-01"), signal.SIGSTOP)
        try:
            with _by_hand(found, tmp_path / "third.log", taken) as third:
                until(lambda: "started" in (tmp_path / "third.log").read_text(), seconds=40, what="the take-over")
                third.send_signal(signal.SIGTERM)
                assert third.wait(30) == 0
        finally:
            os.kill(found.pid("transform-01"), signal.SIGCONT)
