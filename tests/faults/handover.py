"""How long what a struck worker had in hand waits until somebody has settled it."""

import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from shared.streams import Client


@dataclass
class _Waiting:
    """Entries that one worker held when it was struck."""

    what: str
    stage: str
    since: float
    ids: list[str]


@dataclass
class HandOvers:
    """Entries that struck workers held, watched until each is settled."""

    seconds: list[float] = field(default_factory=list)
    worst: str = "nothing was in hand"
    _waiting: list[_Waiting] = field(default_factory=list)

    def watch(self, client: Client, what: str, stage: str, ids: Collection[str]) -> None:
        """Begin to watch those that are not settled; foreign entries are in no `open`, and left out."""
        if ids:
            one = _Waiting(what, stage, time.monotonic(), list(ids))
            one.ids = _open(client, one)
            self._waiting.append(one)

    def forget(self, ids: Collection[str] | None = None) -> None:
        """Stop watching what a fault destroyed: these entries, or all."""
        for one in self._waiting:
            one.ids = [] if ids is None else [each for each in one.ids if each not in ids]

    def look(self, client: Client) -> None:
        """Note what was settled since the last look; raises TransientError while Redis is away."""
        for one in self._waiting:
            if not one.ids:
                continue
            left = _open(client, one)
            waited = time.monotonic() - one.since
            settled = len(one.ids) - len(left)
            one.ids = left
            if settled:
                if not self.seconds or waited > max(self.seconds):
                    self.worst = one.what
                self.seconds += [waited] * settled
        self._waiting = [one for one in self._waiting if one.ids]

    @property
    def unfinished(self) -> list[str]:
        """What is still held by nobody who settles it."""
        return [f"{one.what}: {one.stage} {', '.join(one.ids)}" for one in self._waiting if one.ids]

    def __str__(self) -> str:
        if not self.seconds:
            return self.worst
        median, worst = statistics.median(self.seconds), max(self.seconds)
        return f"median {median:.1f} s, worst {worst:.1f} s ({self.worst}), of {len(self.seconds)} entries"


def _open(client: Client, one: _Waiting) -> list[str]:
    found = client.call("HMGET", client.topology.open(one.stage), *one.ids)
    return [entry_id for entry_id, events in zip(one.ids, found, strict=True) if events is not None]
