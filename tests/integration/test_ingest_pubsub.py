"""Publish/subscribe as a source: what any client publishes arrives; what is lost, as it may be here, is counted."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shared.errors import ConfigurationError, TransientError
from shared.generate import clicks, write_clicks
from shared.pipeline import load_pipeline
from shared.run import Runtime
from shared.settings import load_settings
from shared.streams import pubsub
from tests.integration.stored import Start, Stored, starting
from tests.proxy import Proxy, through
from tests.wait import until
from tests.workers import Worker
from workers.ingest import pubsub as source

#: As a program that knows nothing of Bargeline sends the lines of a file.
PUBLISHER = """
import os, sys, redis
client = redis.Redis(
    host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]), password=os.environ.get("REDIS_PASSWORD") or None
)
with open(sys.argv[1]) as file:
    for line in file:
        client.publish(os.environ["REDIS_CHANNEL_NAME"], line)
"""


@pytest.fixture
def start(redis_url: str, pipeline_name: str, tmp_path: Path) -> Iterator[Start]:
    edits = {"[ingest]": "high_water_events = 1000\n[ingest]"}
    with starting(redis_url, tmp_path / "pipeline", pipeline_name, edits) as begin:
        yield partial(begin, INGEST_SOURCE="pubsub")


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    server = urlsplit(redis_url)
    with Proxy(server.hostname or "", server.port or 0) as running:
        yield running


def _incidents(worker: Worker, kind: str) -> int:
    found = re.search(rf'incidents_total{{kind="{kind}".*}} (\d+)', worker.get("/metrics")[1])
    assert found
    return int(found[1])


def _script_calls(stored: Stored) -> int:
    return int(stored.client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_a_publisher_that_knows_a_host_a_port_and_a_channel(
    redis_url: str, tmp_path: Path, stored: Stored, start: Start
) -> None:
    server = urlsplit(redis_url)
    given: dict[str, Any] = {
        "REDIS_HOST": server.hostname or "",
        "REDIS_PORT": str(server.port),
        "REDIS_PASSWORD": server.password or "",
    }
    worker = start(REDIS_URL="", **given).until_started()
    write_clicks(tmp_path / "clicks.ndjson", seed=1, count=800)
    with (tmp_path / "clicks.ndjson").open("a") as file:
        file.write("\n")
    environment = {"PATH": os.environ["PATH"], **given, "REDIS_CHANNEL_NAME": "device_events"}
    subprocess.run([sys.executable, "-c", PUBLISHER, tmp_path / "clicks.ndjson"], env=environment, check=True)
    until(lambda: stored.counter("accepted") == 800, what="all clicks")
    assert worker.stop() == 0
    found = stored.events()
    assert [event["data"] for event in found] == list(clicks(1, 800))
    assert len(stored.ids()) == 800
    assert {event["source"] for event in found} == {"pubsub:device_events"}
    assert not stored.dead()


def test_several_channels_patterns_text_and_what_is_no_text(stored: Stored, start: Start) -> None:
    name = stored.name
    channels = f"{name}:one, {name}:two {name}:room:?"
    worker = start(REDIS_CHANNEL_NAME=channels, INGEST_MAX_EVENT_BYTES=2_000).until_started()
    messages: list[tuple[str, bytes]] = [
        ("one", b'{"n": 1}'),
        ("two", b'{\n  "n": 2\n}\n'),
        ("room:3", b"hello, \xc3\xa9"),
        ("room:4", b"[1, 2]"),
        ("two", b'{"broken'),
        ("one", b"  \n"),
        ("one", b"\xff\xfe"),
        ("one", b'{"x": "%s"}' % (b"x" * 3_000)),
        ("room:12", b'{"n": "no subscription matches"}'),
        ("one", b'{"n": 3}'),
    ]
    for channel, data in messages:
        stored.client.publish(f"{name}:{channel}", data)
    until(lambda: stored.counter("accepted") == 8, what="all messages")
    assert worker.stop() == 0
    assert [(event["source"].removeprefix(f"pubsub:{name}:"), event["data"]) for event in stored.events()] == [
        ("one", {"n": 1}),
        ("two", {"n": 2}),
        ("room:3", {"text": "hello, é"}),
        ("room:4", {"text": "[1, 2]"}),
        ("two", {"text": '{"broken'}),
        ("one", {"n": 3}),
    ]
    assert [(one["reason"], one["origin"]["place"]) for one in stored.dead()] == [
        (b"not_text", {"channel": f"{name}:one"}),
        (b"too_long", {"channel": f"{name}:one"}),
    ]


def test_what_arrived_before_sigterm_is_not_dropped(stored: Stored, start: Start) -> None:
    worker = start(REDIS_CHANNEL_NAME=stored.name).until_started()
    for n in range(900):
        assert stored.client.publish(stored.name, b'{"n":%d}' % n) == 1
    assert worker.stop() == 0
    assert stored.numbers() == list(range(900))


def test_at_its_end_a_subscription_gives_all_that_the_server_sent(redis_url: str, stored: Stored) -> None:
    subscriber = source.Subscriber((redis_url, "REDIS_URL"), [stored.name, f"{stored.name}:*"], "test", 1_000_000)
    subscriber.subscribe()
    for n in range(700):
        assert stored.client.publish(stored.name if n % 2 else f"{stored.name}:even", str(n)) == 1
    # The process is to end before anything was read.
    subscriber._stop.set()
    subscriber.start()
    subscriber.finish()
    assert [int(message.data) for message in subscriber.buffer.take(0)] == list(range(700))
    assert stored.client.publish(stored.name, "late") == 0
    assert (subscriber.lost, subscriber.dropped, subscriber.buffer.done) == (0, 0, True)


def test_what_finds_no_room_is_dropped_and_counted(stored: Stored, start: Start) -> None:
    worker = start(REDIS_CHANNEL_NAME=stored.name, INGEST_BUFFER_BYTES=65_536).until_started()
    for n in range(4_000):
        stored.client.publish(stored.name, b'{"n":%d}' % n)
    until(lambda: _incidents(worker, "messages_dropped") > 0 or worker.records(action="pressure"))
    assert 1_000 <= stored.counter("accepted") < 2_000
    # As if what is in the stream were settled: those in the buffer follow.
    stored.make_room()
    until(
        lambda: stored.counter("accepted") + _incidents(worker, "messages_dropped") == 4_000, what="all to be counted"
    )
    assert _incidents(worker, "messages_dropped") > 2_000
    assert worker.stop() == 0
    assert stored.numbers() == sorted(set(stored.numbers()))


def test_at_the_end_a_full_stream_is_waited_for(stored: Stored, start: Start) -> None:
    worker = start(REDIS_CHANNEL_NAME=stored.name).until_started()
    for n in range(1_500):
        stored.client.publish(stored.name, b'{"n":%d}' % n)
    until(lambda: worker.records(action="pressure"), what="the high-water mark")
    worker.kill(signal.SIGTERM)
    before = _script_calls(stored)
    until(lambda: _script_calls(stored) > before + 10, what="it to go on trying")
    stored.make_room()
    assert worker.wait() == 0
    assert stored.numbers() == list(range(1_500))


def test_a_lost_subscription_is_made_again_and_counted(
    redis_url: str, proxy: Proxy, stored: Stored, start: Start
) -> None:
    worker = start(REDIS_CHANNEL_NAME=stored.name, INGEST_REDIS_URL=through(redis_url, proxy)).until_started()
    stored.client.publish(stored.name, '{"n": 1}')
    until(lambda: stored.numbers() == [1], what="the first message")
    proxy.refuse()
    until(lambda: worker.get("/readyz")[0] == 503, what="the loss to be noticed")
    assert stored.client.publish(stored.name, '{"n": 2}') == 0
    proxy.heal()
    until(lambda: worker.get("/readyz")[0] == 200, what="another subscription")
    stored.client.publish(stored.name, '{"n": 3}')
    until(lambda: stored.numbers() == [1, 3], what="the next message")
    assert _incidents(worker, "subscription_lost") == 1
    assert _incidents(worker, "messages_dropped") == 0
    assert worker.stop() == 0


def test_a_subscription_on_which_nothing_comes_is_asked_whether_it_is_there(
    redis_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub, "_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(pubsub, "SOCKET_TIMEOUT_SECONDS", 0.2)
    subscription: Any = pubsub.Subscription((through(redis_url, proxy), "REDIS_URL"), ["silent"], "test")
    for _ in range(5):
        assert subscription.read(0.1) == []
    proxy.black_hole()

    def fails() -> bool:
        try:
            return bool(subscription.read(0.1))
        except TransientError as error:
            return "no answer" in str(error)

    until(fails, what="the silence to be noticed")
    subscription.close()


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"REDIS_CHANNEL_NAME": " , "}, "REDIS_CHANNEL_NAME names no channel"),
        (
            {"INGEST_REDIS_URL": "http://u:hunter2@h"},
            r"INGEST_REDIS_URL=http://u:\*\*\*@h: it has to begin with redis://",
        ),
    ],
)
def test_what_cannot_be_subscribed_to_is_refused(redis_url: str, env: dict[str, str], text: str) -> None:
    runtime = Runtime("ingest", load_settings({"REDIS_URL": redis_url, **env}), load_pipeline("clickstream"))
    with pytest.raises(ConfigurationError, match=text):
        source.start(runtime)
