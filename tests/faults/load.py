"""The input of the fleet, and the truth about it: what every event is, and where it has to end."""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis

from shared.topology import Topology

GROUPS = 5
FILE_SECONDS = 0.4
FOREIGN_AT_ONCE = 8
#: Valkey's AOF is written to the disk once a second: an event counts as accepted once it is there.
DURABLE_MS = 4_000
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Fate:
    """Where an event has to end: so many rows in each table, or a dead letter with this reason."""

    facts: int = 0
    echoes: int = 0
    reason: str | None = None


FATES = {
    "plain": Fate(facts=1),
    "jump": Fate(facts=1),
    "fanned": Fate(facts=1, echoes=1),
    "heals": Fate(facts=1),
    "filtered": Fate(),
    "raises": Fate(reason="attempts"),
    "invalid": Fate(reason="invalid"),
    "bad_row": Fate(reason="bad_row"),
    "stray": Fate(reason="no_table"),
    "malformed": Fate(reason="not_json"),
    "bad_time": Fate(reason="bad_time"),
    "exits": Fate(reason="deliveries"),
    "killed": Fate(reason="deliveries"),
}
#: Of 10,000 events of a mixed file so many are of a kind; all others, and whole other files, are plain.
SHARES = {
    "jump": 300,
    "fanned": 300,
    "filtered": 200,
    "heals": 10,
    "raises": 8,
    "invalid": 40,
    "bad_row": 8,
    "stray": 20,
    "malformed": 30,
    "bad_time": 10,
}
#: Each of these ends as many processes as an event has deliveries.
POISON = ("exits", "killed")
FOREIGN_KINDS = ("plain",) * 12 + ("jump", "fanned", "filtered", "invalid")


#: Group, amount, microseconds since 1970.
Content = tuple[str, int, int]


@dataclass
class Truth:
    """What the kit knows without asking Redis. Numbers name events."""

    #: Kind of every event that lies in a file or whose XADD was answered and is on the disk.
    kinds: dict[int, str] = field(default_factory=dict)
    #: What its rows have to hold: group, amount, and microseconds since 1970.
    contents: dict[int, Content] = field(default_factory=dict)
    #: Foreign events among them: nobody can read those again.
    foreign: set[int] = field(default_factory=set)
    #: Foreign events whose answer never came: they may be there or not.
    unsure: dict[int, str] = field(default_factory=dict)
    #: Foreign events that were in flight at a FLUSHALL, and the strike's line.
    destroyed: dict[int, str] = field(default_factory=dict)
    #: Dead letters of foreign events that a FLUSHALL destroyed, with their reason.
    destroyed_letters: dict[int, str] = field(default_factory=dict)
    #: Events of unsettled entries that the kit deleted since the last FLUSHALL, and before it.
    deleted: dict[int, str] = field(default_factory=dict)
    deleted_before: dict[int, str] = field(default_factory=dict)
    #: How often an event was in the hands of a worker that the kit killed or froze, or was taken from it.
    blamed: Counter[int] = field(default_factory=Counter)
    flushes: int = 0
    files: list[Path] = field(default_factory=list)
    file_events: int = 0


class Numbers:
    """Numbers of events, handed out to several threads, each once."""

    def __init__(self) -> None:
        self._next = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> range:
        """The next ``count`` numbers."""
        with self._lock:
            first, self._next = self._next, self._next + count
        return range(first, first + count)


class Load:
    """Two threads: files into the inbox at a steady pace, and plain XADDs by somebody else."""

    def __init__(self, seed: int, inbox: Path, redis_url: str, topology: Topology) -> None:
        self.truth = Truth()
        self._inbox = inbox
        self._staging = inbox.parent / "staging"
        self._redis_url = redis_url
        self._stream = topology.stream("raw")
        self._seed = seed
        self._numbers = Numbers()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failure: BaseException | None = None
        self.has_poison = False

    def start(self, events: int, seconds: float, poison: int) -> None:
        """Begin: ``events`` in files for each ``seconds``, until ``stop``; and XADDs beside them.

        ``poison`` of the events kill their worker; they come before ``seconds`` are over.
        """
        self._staging.mkdir()
        self.has_poison = poison > 0
        files = max(1, round(seconds / FILE_SECONDS))
        chance = random.Random(self._seed)
        killers = sorted(chance.sample(range(max(1, files * 2 // 3)), min(poison, max(1, files * 2 // 3))))
        work = (lambda: self._drop_files(-(-events // files), killers), self._add_foreign)
        for name, each in zip(("files", "foreign"), work, strict=True):
            thread = threading.Thread(target=self._guarded, args=(each,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop; what was dropped or added counts."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.failure = error
            raise

    def _drop_files(self, events: int, killers: list[int]) -> None:
        chance = random.Random(self._seed + 1)
        began = time.monotonic()
        for index in itertools.count():
            killer = [POISON[killers.index(index) % len(POISON)]] if index in killers else []
            self._drop(index, chance, events, killer)
            if self._stop.wait(max(0, began + (index + 1) * FILE_SECONDS - time.monotonic())):
                return

    def _drop(self, index: int, chance: random.Random, events: int, killer: list[str]) -> None:
        # Whole files of plain ones, so that there are entries whose loss can be counted exactly.
        mixed = killer or chance.random() < 0.5
        kinds = [_kind(chance) if mixed else "plain" for _ in range(events)] + killer
        chance.shuffle(kinds)
        numbers = self._numbers.take(len(kinds))
        data = [_data(number, kind, chance) for number, kind in zip(numbers, kinds, strict=True)]
        path = self._inbox / f"{index:05}.ndjson"
        staged = self._staging / path.name
        staged.write_text("".join(map(_line, data)))
        # Known before it can be read.
        self.truth.kinds.update(zip(numbers, kinds, strict=True))
        self.truth.contents.update(map(_content, data))
        self.truth.file_events += len(kinds)
        self.truth.files.append(path)
        staged.rename(path)

    def _add_foreign(self) -> None:
        chance = random.Random(self._seed + 2)
        while not self._stop.wait(0.2):
            kinds = [chance.choice(FOREIGN_KINDS) for _ in range(FOREIGN_AT_ONCE)]
            numbered = dict(zip(self._numbers.take(len(kinds)), kinds, strict=True))
            # Noted first: a FLUSHALL may find them before the answer is here.
            self.truth.unsure.update(numbered)
            for number, kind in self._accepted(numbered, chance).items():
                self.truth.foreign.add(number)
                self.truth.kinds[number] = kind
                del self.truth.unsure[number]

    def _accepted(self, numbered: dict[int, str], chance: random.Random) -> dict[int, str]:
        """Those of the events that Valkey answered for, and has on its disk."""
        try:
            with redis.Redis.from_url(self._redis_url, socket_timeout=10) as client:
                pipe = client.pipeline(transaction=False)
                for number, kind in numbered.items():
                    data = _data(number, kind, chance)
                    self.truth.contents.update([_content(data)])
                    pipe.xadd(self._stream, {name: str(value) for name, value in data.items()})
                pipe.execute_command("WAITAOF", 1, 0, DURABLE_MS)
                *answers, durable = pipe.execute(raise_on_error=False)
        except redis.RedisError:
            return {}
        if isinstance(durable, Exception) or int(durable[0]) < 1:
            return {}
        given = zip(numbered.items(), answers, strict=True)
        return {number: kind for (number, kind), answer in given if not isinstance(answer, Exception)}


def _kind(chance: random.Random) -> str:
    drawn = chance.randrange(10_000)
    for kind, share in SHARES.items():
        drawn -= share
        if drawn < 0:
            return kind
    return "plain"


def _line(data: dict[str, Any]) -> str:
    text = json.dumps(data)
    return (text[:-1] if data["kind"] == "malformed" else text) + "\n"


def _content(data: dict[str, Any]) -> tuple[int, Content]:
    # What has no time has no row.
    moment = datetime.fromisoformat(data["at"]) if data["kind"] != "bad_time" else _EPOCH
    return data["no"], (data["grp"], data["amount"], (moment - _EPOCH) // timedelta(microseconds=1))


def _data(number: int, kind: str, chance: random.Random) -> dict[str, Any]:
    return {
        "no": number,
        "kind": kind,
        "grp": f"g{chance.randrange(GROUPS)}",
        "amount": chance.randrange(1_000),
        "at": _time(number, kind, chance),
    }


def _time(number: int, kind: str, chance: random.Random) -> str:
    """Mostly in order; a jump goes back to 1971, on to the next decade, or some days to and fro."""
    if kind == "bad_time":
        return "yesterday"
    moment = _BEGAN + timedelta(milliseconds=20 * number)
    if kind == "jump":
        far = (datetime(1971, 3, 4, tzinfo=UTC), datetime(2037, 5, 6, tzinfo=UTC), moment)
        moment = chance.choice(far) + timedelta(hours=chance.randrange(-72, 72))
    return moment.isoformat()
