"""`bargeline produce`: events from arguments, files and pipes, to a pipeline or to a channel."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import redis

from bargeline.emitting import lines_of
from shared.errors import ConfigurationError
from shared.events import id_from_value
from tests import workers
from tests.integration.protocol import assert_law, partition
from tests.integration.stored import Stored
from tests.wait import until
from tests.workers import Ran

COMMAND = [sys.executable, "-m", "bargeline.cli", "produce"]


@pytest.fixture
def given(redis_url: str, pipeline_name: str, tmp_path: Path) -> dict[str, Any]:
    """A pipeline that takes ids from the data and holds few events, and no database."""
    edits = {"[ingest]": 'high_water_events = 1000\n[ingest]\nid = { path = "id" }\ntime = { path = "at" }'}
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name, edits=edits)
    return {"redis_url": redis_url, "database_url": "", "pipeline_folder": folder}


def _produce(given: dict[str, Any], *arguments: str, lines: str = "") -> Ran:
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=lines,
        capture_output=True,
        text=True,
        cwd=workers.ROOT,
        timeout=60,
        check=False,
        env=workers.environment(**given),
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_events_as_arguments(given: dict[str, Any], stored: Stored, pipeline_name: str) -> None:
    ran = _produce(given, '{"n": 1}', '{"n":\n 2, "id": "o-2"}', "--type", "click", "--key", "k")
    assert (ran.code, ran.err) == (0, "")
    first, second = ran.out.splitlines()
    assert UUID(first).version == 7
    assert second == id_from_value(pipeline_name, "o-2")
    found = stored.events()
    assert [(one["id"], one["data"]["n"]) for one in found] == [(first, 1), (second, 2)]
    assert {(one["type"], one["key"], one["source"]) for one in found} == {("click", "k", "producer")}


def test_lines_of_files_and_of_a_pipe(
    given: dict[str, Any], redis_url: str, stored: Stored, tmp_path: Path, pipeline_name: str
) -> None:
    (tmp_path / "one").write_text('\ufeff{"n": 1}\r\n\n  {"n": 2}')
    (tmp_path / "two").write_text("".join(f'{{"n": {n}}}\n' for n in range(10, 610)))
    with partition(redis_url, pipeline_name) as client:
        ran = _produce(given, f"@{tmp_path / 'one'}", "-", "--file", str(tmp_path / "two"), lines='{"n": 3}\n')
        assert assert_law(client).accepted == 603
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [one["id"] for one in stored.events()]
    assert stored.numbers() == [1, 2, 3, *range(10, 610)]
    assert _produce(given, lines='{"n": 0}\n').code == 0
    assert stored.numbers()[0] == 0


def test_lines_that_are_wrong_are_named_and_the_others_go_on(
    given: dict[str, Any], stored: Stored, tmp_path: Path
) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('{"n": 1}\n[2]\n\n{"n": 4, "at": "noon"}\n{"n": 5}\n')
    ran = _produce(given, f"@{path}", '{"n"')
    assert ran.code == 1
    assert ran.err.splitlines() == [
        f"{path}:2: no JSON object: Expected `object`, got `array`",
        f"{path}:4: 'noon' is no time: Invalid isoformat string: 'noon'",
        "argument 2: no JSON object: Input data was truncated",
    ]
    assert ran.out.splitlines() == [one["id"] for one in stored.events()]
    assert stored.numbers() == [1, 5]


def test_json_says_of_each_line_what_became_of_it(given: dict[str, Any], stored: Stored) -> None:
    ran = _produce(given, "--json", lines='{"n": 1}\n7\n')
    assert ran.code == 1
    assert ran.err == ""
    wrong, right = map(msgspec.json.decode, ran.out.splitlines())
    assert wrong == {"place": "standard input:2", "error": "no JSON object: Expected `object`, got `int`"}
    assert right == {"place": "standard input:1", "id": stored.events()[0]["id"]}


def test_a_line_of_a_pipe_goes_at_once(given: dict[str, Any], stored: Stored) -> None:
    environment = workers.environment(**given)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(COMMAND, cwd=workers.ROOT, env=environment, **pipes) as process:
        assert process.stdin
        process.stdin.write(b'{"n": 1}\n{"n"')
        process.stdin.flush()
        until(lambda: stored.numbers() == [1], what="the first line")
        process.stdin.write(b": 2}")
        process.stdin.close()
        assert process.wait(30) == 0
    assert stored.numbers() == [1, 2]


def test_a_full_pipeline_is_waited_for_and_then_refuses(given: dict[str, Any], stored: Stored, tmp_path: Path) -> None:
    path = tmp_path / "many"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(1_600)))
    ran = _produce(given, f"@{path}", "--timeout", "0.2")
    assert ran.code == 3
    assert f"error: {path}:{len(ran.out.splitlines()) + 1}: The pipeline" in ran.err
    assert "Traceback" not in ran.err
    assert ran.out.splitlines() == [one["id"] for one in stored.events()]
    assert stored.numbers() == list(range(len(stored.events())))
    assert 1_000 <= len(stored.events()) < 1_600


def test_a_channel(given: dict[str, Any], redis_client: redis.Redis, stored: Stored, pipeline_name: str) -> None:
    ran = _produce(given, "--channel", pipeline_name, '{"n": 1}')
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "argument 1: nobody listens to the channel\n"
    with redis_client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(pipeline_name)
        assert listener.get_message(timeout=10)["type"] == "subscribe"
        ran = _produce(given, "--channel", pipeline_name, '{"n": 1.10}', "[]", "-", lines='{"n": 2}\n')
        assert (ran.code, ran.err) == (1, "argument 2: no JSON object: Expected `object`, got `array`\n")
        assert ran.out.splitlines() == ["argument 1: received by 1", "standard input:1: received by 1"]
        heard = [listener.get_message(timeout=10)["data"] for _ in range(2)]
    assert heard == [b'{"n": 1.10}', b'{"n": 2}']
    assert stored.entries() == []


def test_wrong_usage_is_said(given: dict[str, Any], stored: Stored, tmp_path: Path) -> None:
    ran = _produce(given, "--channel", "c", "--type", "t", "{}")
    assert (ran.code, "--type and --key have no meaning" in ran.err) == (2, True)
    ran = _produce(given, "{}", f"@{tmp_path / 'missing'}")
    assert (ran.code, "missing: does not exist" in ran.err) == (2, True)
    assert stored.entries() == [], "files are looked at before anything is sent"
    ran = _produce(given | {"redis_url": "redis://127.0.0.1:1"}, "{}")
    assert (ran.code, "bargeline up" in ran.err) == (4, True)
    (tmp_path / "endless").write_text("x" * 3_000)
    with pytest.raises(ConfigurationError, match=r"endless:1: longer than 2,000 bytes \(INGEST_MAX_EVENT_BYTES\)"):
        list(lines_of([f"@{tmp_path / 'endless'}"], 2_000))


def test_nothing_given_at_a_terminal_is_wrong_usage(given: dict[str, Any]) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            COMMAND,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=workers.ROOT,
            env=workers.environment(**given),
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, "Give an event" in done.stderr) == (2, True)
