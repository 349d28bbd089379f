"""One run: the load, the schedule of strikes, the end of all faults, the drain, and the verdict."""

import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.errors import BargelineError, TransientError
from shared.streams.inspect import group_state
from shared.topology import STAGES
from tests.faults import verdict
from tests.faults.ground import WORKERS, ground
from tests.faults.kit import Kit, Missed
from tests.faults.load import Load
from tests.faults.strikes import STRIKES, WEIGHTS
from tests.workers import ROOT

#: The first strike waits until events flow.
_LEAD_SECONDS = 2
_LEAST_GAP_SECONDS = 1
#: How often FLUSHALL may strike in one run: each time everything is read again.
_MOST_FLUSHES = 2


@dataclass(frozen=True)
class Options:
    """What a run is asked for; equal options give equal schedules and equal input."""

    seed: int
    strikes: int = 30
    events: int = 60_000
    seconds: float = 120
    only: tuple[str, ...] = ()
    poison: int = 3
    drain_seconds: float = 240
    code: Path = ROOT
    quiet: bool = False


def run(options: Options, folder: Path) -> verdict.Report:
    """Run a schedule in ``folder``, which other users can traverse; raises AssertionError with the seed."""
    chance = random.Random(options.seed)
    schedule = _schedule(options, chance)
    with ground(folder, options.code, disks="disk" in schedule) as found:
        load = Load(options.seed, found.paths.inbox, found.redis.url, found.topology)
        kit = Kit(found, load, found.client(), chance, options.quiet)
        try:
            load.start(options.events, options.seconds, options.poison)
            _strike(kit, schedule, options.seconds)
            load.stop()
            _end_of_faults(kit)
            problem = _drain(kit, options.drain_seconds)
            return verdict.judge(kit, options.seed, problem)
        finally:
            load.stop()
            kit.heal()
            kit.client.close()


def _schedule(options: Options, chance: random.Random) -> list[str]:
    """Each strike once, as far as there is room, and then by weight, in an order of chance."""
    names = list(options.only or STRIKES)
    once = chance.sample(names, min(len(names), options.strikes))
    more = chance.choices(names, [WEIGHTS[name] for name in names], k=options.strikes - len(once))
    chosen = once + more
    flushes = [index for index, name in enumerate(chosen) if name == "flush"]
    for index in flushes[_MOST_FLUSHES:]:
        chosen[index] = "transform-zombie"
    chance.shuffle(chosen)
    return chosen


def _strike(kit: Kit, schedule: Sequence[str], seconds: float) -> None:
    gap = (seconds - _LEAD_SECONDS) / max(len(schedule), 1)
    due = time.monotonic() + _LEAD_SECONDS
    for index, name in enumerate(schedule):
        _pause(kit, due)
        kit.say(f"{index + 1:3} {name:12} {_one(kit, name)}")
        # After one that took long the next comes soon, but not at once.
        due = max(due + gap, time.monotonic() + _LEAST_GAP_SECONDS)
    _pause(kit, due)


def _pause(kit: Kit, until: float) -> None:
    kit.wait(lambda: time.monotonic() >= until, 600)


def _one(kit: Kit, name: str) -> str:
    """Strike; a fault of before may leave nothing to strike at."""
    try:
        return STRIKES[name](kit)
    except (TransientError, Missed) as error:
        kit.missed += 1
        return f"missed: {str(error)[:120]}"


def _end_of_faults(kit: Kit) -> None:
    """Everything heals; from here on nothing excuses the fleet."""
    # A worker that woke before its lease lapsed would be no zombie.
    kit.heal(but_frozen=True)
    kit.wait(lambda: not kit.is_broken("freeze"), 60)
    kit.say("the faults are over; waiting until everything is settled")
    with contextlib.suppress(BargelineError):
        kit.client.call("CONFIG", "SET", "maxmemory", 0)
    for server in (kit.ground.redis, kit.ground.postgres):
        server.proxy.heal()
        if not server.alive:
            server.restart()
    kit.ground.hurry()
    if set(kit.ground.processes()) < set(WORKERS):
        kit.violations.append(f"no supervisord at the end: {sorted(kit.ground.processes())}")


def _drain(kit: Kit, seconds: float) -> str:
    """Wait until nothing is on its way; returns what still is, or an empty text."""
    left = ["not asked yet"]

    def drained() -> bool:
        left[0] = _on_its_way(kit)
        return not left[0]

    if kit.wait(drained, seconds):
        return ""
    return left[0]


def _on_its_way(kit: Kit) -> str:
    """What is not at its end yet, or an empty text."""
    keys = kit.client.topology
    try:
        if unread := _unread(kit):
            return f"{len(unread)} files are not read to their end, such as {unread[0]}"
        if retries := kit.client.call("XLEN", keys.retry):
            return f"{retries} events wait for another attempt"
        for stage in STAGES:
            state = group_state(kit.client, stage)
            unsettled = kit.client.call("HLEN", keys.open(stage))
            if unsettled or state.pending_entries or state.lag_entries or state.lag_events:
                return (
                    f"{stage}: {unsettled} entries open, {state.pending_entries} pending, {state.lag_entries} to read"
                )
    except BargelineError as error:
        return str(error)
    return ""


def _unread(kit: Kit) -> list[str]:
    stored = kit.client.call("HGETALL", kit.client.topology.checkpoint)
    positions = {
        name.decode(): msgspec.json.decode(value)["offset"]
        for name, value in zip(stored[::2], stored[1::2], strict=True)
    }
    return [str(path) for path in kit.truth.files if positions.get(str(path)) != path.stat().st_size]
