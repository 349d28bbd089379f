"""A consumer of one stage: take a suspect, read new entries, settle what is done."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from shared.entries import Entry, Fields
from shared.errors import TransientError
from shared.streams.client import Client, ensure_group, pairs
from shared.streams.producer import Full, flat
from shared.topology import GROUP_OF_STAGE

_RELEASE_AT_A_TIME = 500


@dataclass
class Outcome:
    """What became of the events of one raw entry; the four kinds add up to ``entry.events``.

    ``segments`` are pieces of NDJSON with their number of events, at most 500 each, in the codec of
    the call that settles them.
    """

    entry: Entry
    mapped: int = 0
    filtered: int = 0
    segments: list[tuple[int, bytes]] = field(default_factory=list)
    retries: list[Fields] = field(default_factory=list)
    dead: list[Fields] = field(default_factory=list)
    #: How many of the retries have not failed: they were not begun with.
    put_back: int = 0


@dataclass
class Loaded:
    """What became of the events of one clean entry: figures of the committed transaction."""

    entry_id: str
    foreign: bool
    events: int
    loaded: int
    duplicates: int
    unrouted: int
    dead: list[Fields] = field(default_factory=list)


@dataclass(frozen=True)
class Settled:
    """For each entry whether this was its first settlement; and how many events the clean stage holds now."""

    first: list[bool]
    in_flight: int


#: A call of more than a million words is refused by the server for good, and one letter is some twenty.
_MOST_LETTERS_A_CALL = 5_000
_MOST_BYTES_A_CALL = 16 << 20
Result = TypeVar("Result", Outcome, Loaded)


def portions(settled: Sequence[Result]) -> Iterator[list[Result]]:
    """What is to be settled, in parts that one call can carry."""
    part: list[Result] = []
    letters = size = 0
    for one in settled:
        more, body = _weight(one)
        if part and (letters + more > _MOST_LETTERS_A_CALL or size + body > _MOST_BYTES_A_CALL):
            yield part
            part, letters, size = [], 0, 0
        part.append(one)
        letters += more
        size += body
    if part:
        yield part


def _weight(one: Outcome | Loaded) -> tuple[int, int]:
    """Letters and bytes of output."""
    if isinstance(one, Loaded):
        return len(one.dead), 0
    return len(one.dead) + len(one.retries), sum(len(body) for _, body in one.segments)


class Consumer:
    """One name in the group of one stage."""

    def __init__(self, client: Client, stage: str, name: str) -> None:
        self.client = client
        self.stage = stage
        self.group = GROUP_OF_STAGE[stage]
        self.name = name
        self.stream = client.topology.stream(stage)

    def join(self) -> bool:
        """Make the group if it is missing, and hand over what this name held before it started.

        Returns True if the group was made.
        """
        made = ensure_group(self.client, self.stage, self.group)
        while self.client.script("release", self.stage, self.name, _RELEASE_AT_A_TIME) == _RELEASE_AT_A_TIME:
            pass
        return made

    def take(self) -> Entry | None:
        """One suspect entry, alone, or None; without fields its body is gone. Only with empty hands."""
        reply = self.client.script("take", self.stage, self.name)
        if not reply:
            return None
        fields = reply[3] if len(reply) > 3 else []
        return Entry(
            id=reply[0].decode(),
            fields=pairs(fields),
            deliveries=int(reply[1]),
            reclaimed=reply[2] == 1,
        )

    def read(self, count: int, block_ms: int) -> list[Entry]:
        """Up to ``count`` new entries, waiting for the first of them at most ``block_ms``."""
        reply = self.client.call(
            "XREADGROUP",
            "GROUP",
            self.group,
            self.name,
            "COUNT",
            count,
            "BLOCK",
            block_ms,
            "STREAMS",
            self.stream,
            ">",
        )
        if not reply:
            return []
        return [Entry(entry_id.decode(), pairs(fields)) for entry_id, fields in reply[0][1]]

    def hold(self, entries: Sequence[Entry]) -> None:
        """Say that these entries wait for a server that is away: dying now blames none of them.

        When the server that is away is this one there is nothing to say it to; the call then does nothing.
        """
        arguments: list[object] = []
        for entry in entries:
            arguments += [entry.id, entry.deliveries]
        try:
            self.client.script("hold", self.stage, self.name, *arguments)
        except TransientError:
            return

    def is_open(self, entry_id: str) -> bool:
        """Whether an entry is one of ours that is not settled."""
        return bool(self.client.call("HEXISTS", self.client.topology.open(self.stage), entry_id))

    def lost(self, entry_id: str) -> int:
        """Settle an entry whose body somebody deleted; returns the number of events lost."""
        return int(self.client.script("lost", self.stage, entry_id))


def settle(
    client: Client,
    outcomes: Sequence[Outcome],
    *,
    high_water: int,
    codec: str,
    most_events: int,
    most_bytes: int,
) -> Settled | Full:
    """Settle raw entries; ``codec`` is that of their segments."""
    arguments: list[object] = [high_water, most_events, most_bytes, codec, len(outcomes)]
    for one in outcomes:
        entry = one.entry
        arguments += [entry.id, int(entry.foreign), entry.events, entry.accepted_ms, one.mapped, one.filtered]
        for items in (one.segments, one.retries, one.dead):
            arguments.append(len(items))
            for item in items:
                arguments += flat(item)
    reply = client.script("settle", *arguments)
    if reply[0] == b"FULL":
        return Full(int(reply[1]))
    return Settled([first == 1 for first in reply[2:]], int(reply[1]))


def settle_clean(client: Client, results: Sequence[Loaded]) -> list[bool]:
    """Settle clean entries after the commit: for each, True if this was its first settlement."""
    arguments: list[object] = [len(results)]
    for one in results:
        arguments += [
            one.entry_id,
            int(one.foreign),
            one.events,
            one.loaded,
            one.duplicates,
            one.unrouted,
            len(one.dead),
        ]
        for letter in one.dead:
            arguments += flat(letter)
    return [first == 1 for first in client.script("settle_clean", *arguments)]


def split(client: Client, entry: Entry, entries: Sequence[Fields]) -> bool:
    """Replace a suspect batch by entries of one event; False if somebody settled it first."""
    arguments: list[object] = [entry.id, entry.events, len(entries)]
    for fields in entries:
        arguments += flat(fields)
    return bool(client.script("split", *arguments) == 1)
