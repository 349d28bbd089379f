"""One run of the kit: what strikes act on, and what has to be undone when."""

import contextlib
import heapq
import itertools
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from shared.codec import decompress
from shared.errors import BargelineError, TransientError
from shared.streams import Client
from shared.streams.client import pairs
from shared.topology import GROUP_OF_STAGE
from tests.faults.ground import Ground, clock, signal_process
from tests.faults.handover import HandOvers
from tests.faults.load import Load, Truth

_NUMBER = re.compile(rb'"?\bno"?\s*[:=]\s*"?(\d+)')
_TICK_SECONDS = 0.05
_CATCH_SECONDS = 4
_STAGE_OF_KIND = {"transform": "raw", "loader": "clean"}
Fields = dict[bytes, bytes]


class Missed(Exception):
    """A strike that found nothing to strike at."""


@dataclass
class Kit:
    """The ground, the load, the chance of this seed, and what is broken now."""

    ground: Ground
    load: Load
    client: Client
    chance: random.Random
    quiet: bool = False
    handovers: HandOvers = field(default_factory=HandOvers)
    #: Signals that the kit sent, by worker.
    sent: Counter[tuple[str, signal.Signals]] = field(default_factory=Counter)
    #: Pids that are frozen now.
    frozen: set[int] = field(default_factory=set)
    #: Workers whose name another process may have taken.
    robbed: set[str] = field(default_factory=set)
    #: Strikes that met nothing.
    missed: int = 0
    violations: list[str] = field(default_factory=list)
    _heals: list[tuple[float, int, str, Callable[[], None]]] = field(default_factory=list)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def truth(self) -> Truth:
        """What the load knows."""
        return self.load.truth

    def say(self, text: str) -> None:
        """One line with the time of day."""
        if not self.quiet:
            click.echo(f"{clock()} {text}")

    def later(self, seconds: float, what: str, heal: Callable[[], None]) -> None:
        """Undo something in a while; other strikes come meanwhile."""
        heapq.heappush(self._heals, (time.monotonic() + seconds, next(self._order), what, heal))

    def tick(self) -> None:
        """Undo what is due, look after hand-overs, pause a moment."""
        while self._heals and self._heals[0][0] <= time.monotonic():
            heapq.heappop(self._heals)[3]()
        with contextlib.suppress(TransientError):
            self.handovers.look(self.client)
        assert self.load.failure is None, f"the load failed: {self.load.failure!r}"
        time.sleep(_TICK_SECONDS)

    def wait(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Tick until the condition holds; False if it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.tick()
        return True

    def is_broken(self, what: str) -> bool:
        """Whether a strike of this name still waits to be undone."""
        return any(one[2] == what for one in self._heals)

    def heal(self, *, but_frozen: bool = False) -> None:
        """Undo everything that is still broken, now."""
        left = sorted(self._heals)
        self._heals.clear()
        for one in left:
            if but_frozen and one[2] == "freeze":
                heapq.heappush(self._heals, one)
            else:
                one[3]()

    def pid(self, name: str) -> int | None:
        """Pid of a worker that runs and is not frozen."""
        found = self.ground.processes().get(name)
        return found.pid if found and found.pid and found.pid not in self.frozen else None

    def choose(self, names: Sequence[str]) -> str:
        """One of the workers that run and are not frozen; any where there is none."""
        running = [name for name in names if self.pid(name)]
        return self.chance.choice(running or names)

    def send(self, name: str, number: signal.Signals) -> str:
        """Send a signal to a worker, if it can be while it has something in hand."""
        pid = self.catch(name)
        if pid is None:
            raise Missed(f"{name} does not run")
        line = self.note(name, pid, number)
        signal_process(pid, number)
        signal_process(pid, signal.SIGCONT)
        return line

    def catch(self, name: str) -> int | None:
        """Freeze a worker that has something in hand; after a while also one that has not. Its pid."""
        deadline = time.monotonic() + _CATCH_SECONDS
        while (pid := self.pid(name)) and signal_process(pid, signal.SIGSTOP):
            if time.monotonic() > deadline or self._holds_something(name):
                return pid
            signal_process(pid, signal.SIGCONT)
            self.tick()
        return None

    def _holds_something(self, name: str) -> bool:
        """Also true where nobody can tell, or where there is nothing to hold."""
        stage = _STAGE_OF_KIND.get(name.partition("-")[0])
        try:
            return stage is None or bool(self.pending(stage, self.consumer(name), most=1))
        except BargelineError:
            return True

    def note(self, name: str, pid: int, number: signal.Signals) -> str:
        """Note what a worker that is struck has in hand; returns the strike's line."""
        self.sent[name, number] += 1
        line = f"{number.name} {name} (pid {pid})"
        stage = _STAGE_OF_KIND.get(name.partition("-")[0])
        if stage is None:
            return line
        try:
            ids = self.pending(stage, self.consumer(name))
            self.handovers.watch(self.client, line, stage, ids)
            if number is not signal.SIGTERM:
                self.blame(stage, ids)
        except TransientError:
            return f"{line}, Redis is away"
        return f"{line}, {len(ids)} entries in hand"

    def consumer(self, name: str) -> str:
        """Consumer name of a worker."""
        return f"{os.uname().nodename}-{name}"

    def pending(self, stage: str, *consumer: str, most: int = 500) -> list[str]:
        """Ids of entries that a consumer, or any, has in hand; none where the group is gone."""
        stream, group = self.client.topology.stream(stage), GROUP_OF_STAGE[stage]
        try:
            found = self.client.call("XPENDING", stream, group, "-", "+", most, *consumer)
        except TransientError as error:
            if "NOGROUP" in str(error):
                return []
            raise
        return [row[0].decode() for row in found]

    def bodies(self, stage: str, ids: Iterable[str]) -> dict[str, Fields]:
        """Fields of those of the entries that are there."""
        stream = self.client.topology.stream(stage)
        found = {one: self.client.call("XRANGE", stream, one, one) for one in ids}
        return {one: pairs(reply[0][1]) for one, reply in found.items() if reply}

    def blame(self, stage: str, ids: Iterable[str]) -> None:
        """Note that the events of these entries were in hand at a strike."""
        for fields in self.bodies(stage, ids).values():
            self.truth.blamed.update(numbers(fields))

    def run(self, *arguments: str, seconds: float = 120) -> int | None:
        """Run an operator's command while frozen workers wake and outages end; its exit code."""
        command = self.ground.command(*arguments)
        try:
            self.wait(lambda: command.poll() is not None, seconds)
        finally:
            if command.poll() is None:
                command.kill()
                command.wait()
        return command.returncode


def numbers(fields: Fields) -> list[int]:
    """Numbers of the events in an entry, a retried event or a dead letter, as often as they are in it."""
    for name in (b"d", b"event", b"bytes"):
        if name in fields:
            return [int(found) for found in _NUMBER.findall(decompress(fields[name], fields.get(b"c", b"json")))]
    return [int(fields[b"no"])] if b"no" in fields else []


def is_foreign(fields: Fields) -> bool:
    """Whether this entry of the raw stream came by plain XADD."""
    return b"no" in fields
