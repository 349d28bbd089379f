"""Hostile input in bulk, from a seed: whatever comes, by file or by XADD, ends loaded or dead with a reason."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import redis
import zstandard

from shared.accounting import balance
from shared.entries import Entry, batch_fields
from shared.streams import Client, add
from shared.streams.inspect import figures
from tests import workers
from tests.integration.protocol import assert_law
from tests.integration.test_hostile import CLICK, DEAD, FOREIGN_DEAD, LOADED, NOT_JSON, PASS, RAW_LOADED, VALID
from tests.wait import until

#: Another seed: FUZZ_SEED=7 pytest tests/integration/test_fuzz.py
SEED = int(os.environ.get("FUZZ_SEED", "1"))
LINES, BATCHES, FOREIGN = 800, 80, 200
MOST_LINE_BYTES = 11_000_000
MEGABYTE = 1 << 20

Fields = dict[bytes, bytes]


class Fuzzer:
    """Hostile lines and entries, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def line(self) -> bytes:
        """One line without a newline; whether it is an event is for the workers to find out."""
        makers: list[Callable[[], bytes]] = [
            lambda: msgspec.json.encode(CLICK | self.random.choice(LOADED) | {"click_id": self.text()}),
            lambda: msgspec.json.encode(CLICK | self.random.choice(DEAD)),
            lambda: self.random.choice(NOT_JSON),
            lambda: self.random.choice(RAW_LOADED),
            lambda: self.mutated(VALID),
            lambda: self.mutated(self.random.choice(RAW_LOADED)),
            lambda: self.random.randbytes(self.random.randrange(200)).replace(b"\n", b""),
            lambda: b'{"os_name":%s,%s' % (self.value(), VALID[1:]),
            lambda: b"%s,%s:%s}" % (VALID[:-1], msgspec.json.encode(self.text()), self.value()),
            lambda: b'{"a":' * self.random.randrange(2_000) + self.value() + b"}" * self.random.randrange(2_000),
        ]
        return self.random.choice(makers)() + self.random.choice([b"", b"", b"\r", b" \t", b"\0"])

    def text(self) -> str:
        """Text of any characters but surrogates; NULs, quotes and control characters are frequent."""
        some = ["\0", '"', "\\", "\n", "\x1f", "\u2028", "\ufeff", "é", "\U0010ffff", "a", " ", "'", "%", "{"]
        return "".join(self.random.choices(some, k=self.random.randrange(12)))

    def value(self) -> bytes:
        """A value of JSON, or what resembles one."""
        odd = [
            *(b"NaN", b"-Infinity", b"1e999", b"-0", b"1E400", b"01", b"0x1", b"9" * 400, b"-" + b"9" * 4_000),
            *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\u0000"', b'"\0"', b"'a'", b"tru"),
            *(b"[" * 600 + b"]" * 600, b'{"a":1,"a":2}', b'{"":{}}', b"null", b"true", b"[]", b'"x"', b"1.5", b""),
        ]
        return self.random.choice(odd)

    def mutated(self, text: bytes) -> bytes:
        """The text with some bytes changed, cut out, doubled, or thrown in."""
        found = bytearray(text)
        for _ in range(self.random.randrange(1, 5)):
            place = self.random.randrange(len(found) + 1)
            end = place + self.random.randrange(20)
            new = [
                b"",
                bytes(found[place:end]) * 2,
                self.random.randbytes(3),
                self.random.choice([b"{", b"}", b'"', b"\\", b"\xef\xbb\xbf", b",", b":", b"\r"]),
            ]
            found[place:end] = self.random.choice(new)
        return bytes(found).replace(b"\n", b"")

    def body(self) -> bytes:
        """What an entry may hold as `d`: events, broken ones, and zstd that is cut off, broken, or a bomb."""
        event = b'{"id":"%s","type":"click","source":"s","time":"2026-01-01T00:00:00Z","data":%s}\n'
        identity = b"018f0000-0000-8000-8000-%012x" % self.random.randrange(1 << 40)
        lines = event % (identity, VALID) * self.random.randrange(1, 4)
        packed = zstandard.compress(lines)
        bodies = [
            lines,
            self.mutated(lines),
            packed,
            packed[: self.random.randrange(len(packed))],
            self.mutated(packed),
            packed * 2,
            b"",
            b"\n\n",
            event % (identity, self.line()),
        ]
        if self.random.random() < 0.02:
            bodies = [zstandard.compress(bytes(64 * MEGABYTE))]
        return self.random.choice(bodies)

    def batch(self) -> tuple[int, list[Any]]:
        """An entry of ours that went bad: how many events it says it holds, and its fields."""
        count = self.random.choice([1, 1, 2, 3, 500])
        fields = batch_fields(self.body(), count, 5)
        fields[fields.index("c") + 1] = self.random.choice(["json", "zstd"])
        return count, fields

    def foreign(self) -> Fields:
        """An entry that somebody adds with XADD, often with names of ours."""
        if self.random.random() < 0.2:
            known = self.random.choice(FOREIGN_DEAD)
            return {_bytes(name): _bytes(value) for name, value in known.items()}
        names = [b"v", b"n", b"c", b"d", b"t", b"a", b"h", b"event_id", b"event_type", b"timestamp", b"payload"]
        odd = [b"", b"\xff\xfe", b"\0", b"click_id", b"x" * 1_000]
        fields = {self.random.choice(names * 2 + odd): self.field() for _ in range(self.random.choice([1, 2, 3, 5, 8]))}
        if self.random.random() < 0.3:
            fields |= {b"v": b"1", b"n": self.random.choice([b"1", b"2", b"99999"]), b"d": self.body()}
        if self.random.random() < 0.3:
            fields |= {name.encode(): str(value).encode() for name, value in CLICK.items()}
        return fields

    def field(self) -> bytes:
        """The value of a field."""
        numbers = [b"0", b"1", b"2", b"-1", b"1e3", b"99999", b"100000", b"9" * 400, "٣".encode(), b" 1", b"1_0"]
        others = [b"", b"json", b"zstd", b"lz4", b"[]", b"[{}]", b"null", b"infinity", b"now", b"2026-01-01", b"click"]
        return self.random.choice([*numbers, *others, self.line(), self.body(), self.random.randbytes(30)])


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def test_every_event_ends_loaded_or_dead(
    redis_url: str, database_url: str, client: Client, redis_client: redis.Redis, tmp_path: Path
) -> None:
    fuzzer = Fuzzer(SEED)
    # Nearly everything becomes a dead letter here: the breaker would rightly stop that.
    edits = {'model = "transform:Click"': "", "[ingest]": "breaker_least_events = 1000000\n[ingest]"}
    folder = workers.make_pipeline(tmp_path / "p", client.topology.partition, transform=PASS, edits=edits)
    lines = [fuzzer.line() for _ in range(LINES)]
    lines[LINES // 2 : LINES // 2] = [
        b'%s,"x":"%s"}' % (VALID[:-1], b"x" * 10_000_000),
        b'{"x":"%s"}' % (b"x" * (MOST_LINE_BYTES + MEGABYTE)),
    ]
    (tmp_path / "fuzz.ndjson").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    env: dict[str, Any] = {
        "INGEST_PATH": tmp_path / "*.ndjson",
        "INGEST_WATCH": "true",
        "INGEST_MAX_EVENT_BYTES": MOST_LINE_BYTES,
        "JANITOR_SWEEP_SECONDS": 0.2,
        "JANITOR_REPAIR_SECONDS": 0.5,
    }
    given: dict[str, Any] = {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}
    with workers.running("transform", "loader", "janitor", "ingest", **given, **env) as fleet:
        accepted = sum(bool(line.strip()) for line in lines) + _add_batches(client, fuzzer)
        raw: Any = client.topology.stream("raw")
        foreign = [fuzzer.foreign() for _ in range(FOREIGN)]
        for fields in foreign:
            redis_client.xadd(raw, fields)  # type: ignore[arg-type]

        def settled() -> bool:
            assert all(worker.alive for worker in fleet), [str(worker) for worker in fleet if not worker.alive]
            now = balance("p", figures(client))
            return (now.accepted, now.foreign, now.in_flight) == (accepted, FOREIGN, 0)

        until(settled, seconds=90, what="everything to be settled")
    now = assert_law(client)
    # What passes for a batch of ours, and was never added as one, is not distinguishable from one settled before.
    assert now.lost == sum(not Entry("1-1", fields).foreign for fields in foreign)
    assert now.loaded + now.duplicates + now.dead == accepted + FOREIGN - now.lost
    assert (now.filtered, now.unrouted) == (0, 0)
    with psycopg.connect(database_url) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM clicks").fetchone() or (0,)
    assert rows == now.loaded > LINES // 10
    _assert_dead_letters_say_why(redis_client, client, now.dead)


def _add_batches(client: Client, fuzzer: Fuzzer) -> int:
    total = 0
    for _ in range(BATCHES):
        count, fields = fuzzer.batch()
        add(client, high_water=10**6, source="", expected="", new="", events=count, fields=fields)
        total += count
    return total


def _assert_dead_letters_say_why(redis_client: redis.Redis, client: Client, count: int) -> None:
    letters: Any = redis_client.xrange(client.topology.dead)
    assert len(letters) == count
    for _, fields in letters:
        assert fields[b"reason"] in {
            *(b"not_json", b"too_long", b"bad_row", b"bad_time", b"not_text", b"no_table", b"malformed", b"schema")
        }
        assert msgspec.json.decode(fields[b"error"])["message"]
        assert b"event" in fields or b"bytes" in fields
        # A line that is no event has no source to name.
        assert msgspec.json.decode(fields[b"origin"]).keys() >= {"stream", "source"}
