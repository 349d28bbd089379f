"""Reading one stage: suspects first, then new entries, as many as make a good step."""

import time

import structlog

from shared.breaker import Breaker
from shared.entries import Entry
from shared.errors import ConfigurationError
from shared.run import Runtime
from shared.streams import BLOCK_MS, Consumer, GroupMissing, ensure_group

log = structlog.get_logger()
_MOST_ENTRIES = 500
#: Where there was no suspect, the next is looked for after so long: at each step it was a third of the calls.
_TAKE_SECONDS = 0.1
#: What takes longer has too much in hand when the process is to end, or is killed.
_STEP_SECONDS = 0.25


class Reader:
    """A consumer with its worker's patience: outages are held, a missing group is made again."""

    def __init__(self, runtime: Runtime, stage: str, target_events: int) -> None:
        self.runtime = runtime
        self.consumer = Consumer(runtime.client, stage, runtime.name)
        self._target_events = target_events
        self._most_events = target_events
        self._events_per_entry = float(target_events) / 4
        self.breaker = Breaker(runtime, stage)
        self._next_take = time.monotonic() + runtime.settings.suspect_seconds

    def join(self) -> None:
        """Make the group if need be, and hand over what this name held before."""
        self.runtime.hold(self.consumer.join)

    def take(self) -> Entry | None:
        """One suspect, alone, or None; none while the breaker is open, and none in the first seconds."""
        if time.monotonic() < self._next_take or self.breaker.is_open():
            return None
        try:
            entry = self.runtime.hold(self.consumer.take)
        except GroupMissing:
            self._make_group()
            return None
        if entry is None:
            self._next_take = time.monotonic() + _TAKE_SECONDS
        else:
            self._refuse_newer(entry)
        return entry

    def read(self) -> list[Entry]:
        """New entries, about as many as make a good step; none after a while of waiting."""
        if self.breaker.is_open():
            self.runtime.stop.wait(BLOCK_MS / 1000)
            return []
        count = max(1, min(round(self._most_events / self._events_per_entry), _MOST_ENTRIES))
        try:
            entries = self.runtime.hold(lambda: self.consumer.read(count, BLOCK_MS))
        except GroupMissing:
            self._make_group()
            return []
        for entry in entries:
            self._refuse_newer(entry)
        if entries:
            seen = sum(entry.events for entry in entries) / len(entries)
            self._events_per_entry += (max(seen, 1) - self._events_per_entry) / 4
        return entries

    def took(self, seconds: float, events: int) -> None:
        """Learn from what a step took: the next has no more events than fill a quarter of a second, up to the target.

        A function that waits for a server, or a slow database, takes a thousand times as long as others.
        """
        fitting = int(events * _STEP_SECONDS / max(seconds, 1e-6))
        if seconds > _STEP_SECONDS:
            self._most_events = max(1, fitting)
        else:
            # A small step says little of a large one: it makes no limit, and lifts one by and by.
            more = min(2 * self._most_events, fitting, self._target_events)
            self._most_events = max(self._most_events, more)

    def _refuse_newer(self, entry: Entry) -> None:
        """Leave what a newer program of ours wrote to one that can read it."""
        if entry.unreadable and self.runtime.hold(lambda: self.consumer.is_open(entry.id)):
            version, codec = entry.fields[b"v"], entry.fields.get(b"c", b"json")
            raise ConfigurationError(
                f"Entry {entry.id} of {self.consumer.stream} has format version {version.decode()}, codec "
                f"{codec.decode(errors='replace')} and {entry.fields[b'n'].decode()} events, which this program does "
                "not read. Upgrade the workers that read this stream before those that write it."
            )

    def lost(self, entry_id: str) -> None:
        """Settle an entry whose body somebody deleted."""
        events = self.runtime.hold(lambda: self.consumer.lost(entry_id))
        self.runtime.note_lost(self.consumer.stage, entry_id, events)

    def _make_group(self) -> None:
        consumer = self.consumer
        if self.runtime.hold(lambda: ensure_group(consumer.client, consumer.stage, consumer.group)):
            self.runtime.metrics.incident("group_missing")
            log.warning(
                "the group was missing and was made again from the beginning",
                action="group",
                group=consumer.group,
            )
