"""A plain Python model of one stage: what must be in its stream, its group and its hash of open entries."""

from dataclasses import dataclass, field

from shared.entries import Entry
from shared.streams.keeper import id_order
from shared.topology import RECLAIMED


def after(entry_id: str) -> tuple[int, int]:
    milliseconds, sequence = id_order(entry_id)
    return milliseconds, sequence + 1


@dataclass
class Stage:
    """Ids are kept in their order, which is that of the stream."""

    name: str
    bodies: dict[str, list[int]] = field(default_factory=dict)
    open: dict[str, list[int]] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    pending: dict[str, tuple[str, int]] = field(default_factory=dict)
    delivered: str = "0-0"
    last: str = "0-0"

    @property
    def in_flight(self) -> int:
        return sum(map(len, self.open.values()))

    @property
    def foreign_waiting(self) -> list[str]:
        return [entry_id for entry_id in self.foreign if entry_id in self.bodies]

    @property
    def unsettled_events(self) -> list[int]:
        own = [event for events in self.open.values() for event in events]
        return own + [self.bodies[entry_id][0] for entry_id in self.foreign_waiting]

    def unsettled(self, entry_id: str) -> bool:
        return entry_id in self.open or (entry_id in self.foreign and entry_id in self.bodies)

    def was_delivered(self, entry_id: str) -> bool:
        return id_order(entry_id) <= id_order(self.delivered)

    def held_by(self, name: str) -> list[str]:
        return sorted((one for one, (holder, _) in self.pending.items() if holder == name), key=id_order)

    def forget(self) -> None:
        """The server was flushed."""
        for kept in (self.bodies, self.open, self.foreign, self.pending):
            kept.clear()
        self.delivered = self.last = "0-0"

    def add(self, entry_id: str, events: list[int], *, foreign: bool = False) -> None:
        assert id_order(entry_id) > id_order(self.last)
        self.bodies[entry_id] = events
        self.last = entry_id
        if foreign:
            self.foreign.add(entry_id)
        else:
            self.open[entry_id] = events

    def fence(self, entry_id: str) -> bool:
        """Whether this is its first settlement."""
        self.pending.pop(entry_id, None)
        places = self.bodies if entry_id in self.foreign else self.open
        return places.pop(entry_id, None) is not None

    def read(self, name: str, count: int) -> list[str]:
        ids = [entry_id for entry_id in self.bodies if not self.was_delivered(entry_id)][:count]
        for entry_id in ids:
            self.pending[entry_id] = (name, 1)
            self.delivered = entry_id
        return ids

    def take(self, name: str) -> Entry | None:
        for holder in (name, RECLAIMED):
            for entry_id in self.held_by(holder):
                if not self.unsettled(entry_id):
                    del self.pending[entry_id]
                    continue
                deliveries = self.pending[entry_id][1] + (holder == RECLAIMED)
                if entry_id in self.bodies:
                    self.pending[entry_id] = (name, deliveries)
                return Entry(entry_id, {}, deliveries, holder == RECLAIMED)
        return None

    def hold(self, name: str, entry: Entry) -> None:
        if self.pending.get(entry.id, ("", 0))[0] == name and entry.id in self.bodies:
            self.pending[entry.id] = (name, max(entry.deliveries - 1, 0))

    def release(self, name: str) -> None:
        for entry_id in self.held_by(name):
            _, deliveries = self.pending.pop(entry_id)
            if entry_id in self.bodies:
                self.pending[entry_id] = (RECLAIMED, deliveries)

    def reclaim(self, names: list[str]) -> tuple[int, list[str]]:
        moved, missing = 0, []
        for name in names:
            for entry_id in self.held_by(name):
                if not self.unsettled(entry_id):
                    del self.pending[entry_id]
                elif entry_id in self.bodies:
                    self.pending[entry_id] = (RECLAIMED, self.pending[entry_id][1])
                    moved += 1
                else:
                    missing.append(entry_id)
        return moved, missing

    def repair(self) -> tuple[int, list[str]]:
        moved, missing = 0, []
        for entry_id in self.open:
            if self.was_delivered(entry_id) and entry_id in self.pending:
                continue
            if entry_id not in self.bodies:
                missing.append(entry_id)
            elif self.was_delivered(entry_id):
                self.pending[entry_id] = (RECLAIMED, 0)
                moved += 1
        return moved, missing

    def trim(self, limit: str) -> int:
        needed = [id_order(limit), after(self.delivered), *map(id_order, self.pending)]
        gone = [entry_id for entry_id in self.bodies if id_order(entry_id) < min(needed)]
        for entry_id in gone:
            assert not self.unsettled(entry_id)
            del self.bodies[entry_id]
        return len(gone)
