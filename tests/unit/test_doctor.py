"""Doctor's judgements of facts that a test's servers cannot have: old versions, other clocks, full machines."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import shared.streams
from bargeline.doctor import clocks, servers
from bargeline.doctor.report import Finding, Report, Verdict, conclude, text, unknown
from shared.database.server import DatabaseFacts
from shared.streams.server import Clock, ServerFacts, version_of, worker_commands
from shared.text import printable
from shared.topology import Topology

REDIS = ServerFacts(
    name="Redis",
    version=(7, 4, 1),
    role="master",
    replicas=0,
    waitaof=True,
    maxmemory_policy="noeviction",
    maxmemory=0,
    used_memory=10**9,
    system_memory=10**10,
    aof_enabled=True,
    appendfsync="everysec",
    failed_writes={},
)
POSTGRES = DatabaseFacts(160_004, "UTF8", "u", "d", False, "on", "on", "on", "off")


def _codes(verdict: Verdict) -> list[str]:
    return [one.code for one in verdict.findings]


@pytest.mark.parametrize(
    ("name", "version", "codes"),
    [
        ("Redis", "7.0.0", []),
        ("Redis", "6.2.14", ["redis_too_old"]),
        ("Valkey", "7.2.5-rc1", []),
        ("Valkey", "10.0", []),
    ],
)
def test_versions_of_redis(name: str, version: str, codes: list[str]) -> None:
    facts = msgspec.structs.replace(REDIS, name=name, version=version_of(version))
    assert _codes(servers.redis_version(facts)) == codes


@pytest.mark.parametrize(
    ("check", "changes", "codes"),
    [
        (servers.redis_version, {"role": "slave"}, ["redis_replica"]),
        (servers.redis_persistence, {}, []),
        (servers.redis_persistence, {"aof_enabled": None}, ["appendonly_unknown"]),
        (servers.redis_persistence, {"appendfsync": None}, ["appendfsync_unknown"]),
        (servers.redis_persistence, {"failed_writes": {"aof_last_write_status": "err"}}, ["redis_write_failed"]),
        (servers.eviction, {}, []),
        (servers.eviction, {"maxmemory_policy": None}, ["eviction_unknown"]),
        (servers.head_room, {}, []),
        (servers.head_room, {"used_memory": 8 * 10**9}, ["memory_low"]),
        (servers.head_room, {"used_memory": 8 * 10**9, "maxmemory": 9 * 10**9}, []),
        (servers.head_room, {"used_memory": None}, ["memory_unknown"]),
        (servers.postgres_version, {}, []),
        (servers.postgres_version, {"version": 130_018}, ["postgres_too_old"]),
        (servers.postgres_version, {"encoding": "SQL_ASCII"}, ["postgres_encoding"]),
        (servers.postgres_version, {"in_recovery": True}, ["postgres_read_only"]),
        (servers.postgres_durability, {}, []),
        (servers.postgres_durability, {"synchronous_commit": "local"}, []),
        (servers.postgres_durability, {"fsync": "off"}, ["postgres_fsync_off"]),
        (servers.postgres_durability, {"full_page_writes": "off"}, ["postgres_full_page_writes_off"]),
    ],
)
def test_facts_of_servers(check: Any, changes: dict[str, Any], codes: list[str]) -> None:
    facts = POSTGRES if "postgres" in check.__name__ else REDIS
    verdict = check(msgspec.structs.replace(facts, **changes))
    assert _codes(verdict) == codes
    assert bool(verdict.good) or codes


def test_every_command_that_we_send_is_among_those_whose_right_is_checked() -> None:
    sent = set()
    for path in (Path(shared.streams.__file__).parent).rglob("*.*"):
        if path.suffix in (".py", ".lua") and path.name != "server.py":
            sent |= set(
                re.findall(r"""(?:call|execute_command|_atomically)\(\s*(?:\*?\()?["']([A-Z]+)["']""", path.read_text())
            )
            sent |= set(re.findall(r"""^\s+\("([A-Z]{4,})",""", path.read_text(), re.MULTILINE))
    assert len(sent) > 30
    checked = {one[0] for durability in ("aof", "replicas:1") for one in worker_commands(Topology("p"), durability)}
    # Doctor's own question, which many servers refuse.
    assert sent - {"CONFIG"} <= checked


def test_clocks_that_differ_are_named_in_the_right_order() -> None:
    apart = {"Redis": Clock(3.0, 0.1), "PostgreSQL": Clock(0.2, 0.1)}
    found = clocks.skew("Redis", apart).findings
    assert [(one.figures["ahead"], one.figures["behind"]) for one in found] == [
        ("Redis", "this machine"),
        ("Redis", "PostgreSQL"),
    ]
    assert found[1].figures["seconds"] == pytest.approx(2.6)
    behind = clocks.skew("PostgreSQL", {"PostgreSQL": Clock(-2.0, 0.1)}).findings
    assert behind[0].what.startswith("The clock of this machine is at least 1.9 s ahead of that of PostgreSQL")


def test_a_slow_answer_hides_a_skew_that_it_could_explain() -> None:
    assert not clocks.skew("Redis", {"Redis": Clock(1.5, 0.6)}).findings


def test_a_check_that_could_not_be_made_is_said_so_and_names_of_strangers_stay_on_their_line() -> None:
    verdict = Verdict("", [unknown("x", "nobody may look", "ask")])
    evil = Finding("evil", "error", "group 'a\x1b[2J\nerror: \x9b'", "because", "do")
    report = Report("p", [*verdict.findings, evil], [conclude("looking", verdict), conclude("well", Verdict("fine"))])
    lines = list(text(report))
    assert lines[0] == "error: group 'a\\u001b[2J\\u000aerror: \\u009b' [evil]"
    assert "unknown: nobody may look [x_unknown]" in lines
    assert "not checked: looking: x_unknown" in lines
    assert "ok: well: fine" in lines
    assert all(line == printable(line) for line in lines)
