"""The faults: a function each. It strikes once, sees to it that the fault ends, and returns what it did."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shared.errors import BargelineError, Refused
from shared.streams.client import pairs
from shared.topology import GROUP_OF_STAGE, STAGES
from tests.faults.ground import WORKERS, Server, signal_process
from tests.faults.kit import Kit, Missed, is_foreign, numbers
from tests.faults.load import FATES, Fate
from tests.faults.pipeline.transform import EXIT_CODE

Strike = Callable[[Kit], str]
STRIKES: dict[str, Strike] = {}
#: How often a strike is chosen, against others. Zombies find what kills do not.
WEIGHTS: dict[str, int] = {}
#: Longer than a lease, so that what the worker held is reclaimed before it wakes.
FROZEN_SECONDS = 13
FOREIGN = "somebody-else"
#: Those that hold events in hand, and can do harm as zombies.
HOLDERS = ("transform-01", "transform-02", "loader-01", "loader-02")
#: Events with one row, or none because the entry that holds them is gone.
SIMPLE = tuple(kind for kind, fate in FATES.items() if fate == Fate(facts=1))
TWIN_SECONDS = 25


def strike(name: str, weight: int = 1) -> Callable[[Strike], Strike]:
    """Register a strike under a name."""

    def register(function: Strike) -> Strike:
        STRIKES[name] = function
        WEIGHTS[name] = weight
        return function

    return register


@strike("freeze", 2)
def freeze(kit: Kit) -> str:
    """SIGSTOP of any worker, for longer than its lease."""
    return _freeze(kit, kit.choose(WORKERS))


@strike("transform-zombie", 3)
def transform_zombie(kit: Kit) -> str:
    """SIGSTOP of a transform: another settles what it held, then it wakes and still has it."""
    return _zombie(kit, "transform")


@strike("loader-zombie", 3)
def loader_zombie(kit: Kit) -> str:
    """SIGSTOP of a loader, mostly in mid-transaction: another loads what it held, then it wakes."""
    return _zombie(kit, "loader")


def _zombie(kit: Kit, kind: str) -> str:
    """Freeze one of a kind while the others, and who reclaims for them, run."""
    names = [name for name in HOLDERS if name.startswith(kind)]
    if not kit.wait(lambda: all(kit.pid(name) for name in (*names, "janitor-01")), 2 * FROZEN_SECONDS):
        raise Missed(f"nobody would take over from a {kind}")
    return _freeze(kit, kit.chance.choice(names))


def _freeze(kit: Kit, name: str) -> str:
    pid = kit.catch(name)
    if pid is None:
        raise Missed(f"{name} does not run")
    line = kit.note(name, pid, signal.SIGSTOP)
    kit.frozen.add(pid)

    def thaw() -> None:
        kit.frozen.discard(pid)
        signal_process(pid, signal.SIGCONT)

    kit.later(FROZEN_SECONDS, "freeze", thaw)
    return line


@strike("kill", 5)
def kill(kit: Kit) -> str:
    """SIGKILL of any worker."""
    return kit.send(kit.choose(HOLDERS + WORKERS), signal.SIGKILL)


@strike("term", 2)
def term(kit: Kit) -> str:
    """SIGTERM: it settles what it has in hand, and ends with 0."""
    return kit.send(kit.choose(HOLDERS + WORKERS), signal.SIGTERM)


@strike("twin")
def twin(kit: Kit) -> str:
    """A second worker under the name of a live one: it has to end with 3, or take over from one that is gone."""
    name = kit.chance.choice((*HOLDERS, "janitor-01"))
    environment = {**kit.ground.environment, "CONSUMER_NAME": kit.consumer(name)}
    log = kit.ground.folder / f"twin-{len(kit.ground.twins)}-{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"workers.{name.partition('-')[0]}"],
            cwd=kit.ground.code,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    kit.ground.twins.append(process)
    kit.robbed.add(name)
    kit.later(TWIN_SECONDS, "twin", partial(_end_twin, kit, name, process))
    return f"a second {name} (pid {process.pid})"


def _end_twin(kit: Kit, name: str, process: "subprocess.Popen[bytes]") -> None:
    """It may have taken over while the holder was away; then it drains like any worker."""
    code = process.poll()
    if code is None:
        process.send_signal(signal.SIGTERM)
        kit.wait(lambda: process.poll() is not None, 40)
        code = process.poll()
    kit.say(f"  the second {name} (pid {process.pid}) ended with {code}")
    # A transform may have met poison like any other; one that was asked to end while it started does so at once.
    poisoned = (EXIT_CODE, -signal.SIGKILL) if name.startswith("transform") else ()
    if code not in (0, Refused.exit_code, -signal.SIGTERM, *poisoned):
        kit.violations.append(f"the second {name} (pid {process.pid}) ended with {code}, neither 0 nor 3")


@strike("supervisord")
def supervisord(kit: Kit) -> str:
    """SIGKILL of supervisord: its workers live on, and `up` has to find them."""
    kit.heal(but_frozen=True)
    pid = kit.ground.supervisor.pid()
    if pid is None:
        raise Missed("supervisord does not run")
    os.kill(pid, signal.SIGKILL)
    for name in WORKERS:
        # `up` asks the orphans to end.
        kit.sent[name, signal.SIGTERM] += 1
    code = kit.run("up", seconds=150)
    if code != 0:
        kit.violations.append(f"`bargeline up` after supervisord was killed ended with {code}")
    return f"SIGKILL supervisord (pid {pid}), then up again: exit {code}"


@strike("valkey", 2)
def valkey(kit: Kit) -> str:
    """SIGKILL of Valkey; it comes back with its data in a moment."""
    return _restart(kit, kit.ground.redis, signal.SIGKILL)


@strike("postgres", 2)
def postgres(kit: Kit) -> str:
    """PostgreSQL goes without a checkpoint: immediate stop, or SIGKILL of all its processes."""
    return _restart(kit, kit.ground.postgres, kit.chance.choice((signal.SIGQUIT, signal.SIGKILL)))


def _restart(kit: Kit, server: Server, number: signal.Signals) -> str:
    if number is signal.SIGKILL:
        server.end()
    server.process.send_signal(number)
    kit.wait(lambda: not server.alive, 20)
    kit.wait(lambda: False, kit.chance.choice((0.1, 1.5, 4)))
    # A server does not start on a full disk; its operator would see to that first.
    _filler(server).unlink(missing_ok=True)
    server.restart()
    return f"{number.name} {server.engine}, started again as pid {server.process.pid}"


@strike("reset")
def reset(kit: Kit) -> str:
    """All connections to one server are reset."""
    server = _one_of(kit)
    server.proxy.reset()
    return f"reset every connection to {server.engine}"


@strike("hole", 2)
def hole(kit: Kit) -> str:
    """Nothing passes to or from one server: for a moment, or for longer than a socket's patience."""
    server = _one_of(kit)
    seconds = kit.chance.choice((2, 8 if server.engine == "redis" else 14))
    server.proxy.black_hole()
    kit.later(seconds, "network", server.proxy.heal)
    return f"a black hole before {server.engine} for {seconds} s"


@strike("slow")
def slow(kit: Kit) -> str:
    """Everything to and from one server takes its time."""
    server = _one_of(kit)
    server.proxy.slow(0.05)
    kit.later(4, "network", server.proxy.heal)
    return f"{server.engine} is slow for 4 s"


@strike("refuse")
def refuse(kit: Kit) -> str:
    """One server's port refuses and resets."""
    server = _one_of(kit)
    server.proxy.refuse()
    kit.later(3, "network", server.proxy.heal)
    return f"{server.engine} refuses connections for 3 s"


def _one_of(kit: Kit) -> Server:
    return kit.chance.choice((kit.ground.redis, kit.ground.postgres))


@strike("maxmemory")
def maxmemory(kit: Kit) -> str:
    """Redis may take no more memory than it has."""
    used = int(_info(kit, "memory")["used_memory"])
    kit.client.call("CONFIG", "SET", "maxmemory", used - 100_000)

    def free() -> None:
        # A restart forgets the limit anyway.
        with contextlib.suppress(BargelineError):
            kit.client.call("CONFIG", "SET", "maxmemory", 0)

    kit.later(4, "maxmemory", free)
    return f"Redis is at maxmemory ({used / 1e6:.1f} MB) for 4 s"


def _info(kit: Kit, section: str) -> dict[str, str]:
    lines = kit.client.call("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


@strike("disk")
def disk(kit: Kit) -> str:
    """The disk below one server is full."""
    server = _one_of(kit)
    if not server.mounted:
        raise Missed("skipped: no small disk can be mounted here")
    filler = _filler(server)
    _fill(filler)

    def free() -> None:
        filler.unlink(missing_ok=True)
        # PostgreSQL gives up when it cannot write its log; its operator starts it again.
        if not kit.wait(lambda: not server.alive, 1):
            return
        server.restart()
        kit.say(f"  {server.engine} had ended on the full disk and was started again")

    kit.later(4, "disk", free)
    return f"the disk of {server.engine} is full for 4 s"


def _filler(server: Server) -> Path:
    return server.folder / "filler"


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass


@strike("group")
def group(kit: Kit) -> str:
    """XGROUP DESTROY by foreign hands."""
    stage = kit.chance.choice(STAGES)
    done = kit.client.call("XGROUP", "DESTROY", kit.client.topology.stream(stage), GROUP_OF_STAGE[stage])
    return f"XGROUP DESTROY {GROUP_OF_STAGE[stage]}: {done}"


@strike("setid")
def setid(kit: Kit) -> str:
    """XGROUP SETID 0 by foreign hands: everything is delivered once more."""
    stage = kit.chance.choice(STAGES)
    kit.client.call("XGROUP", "SETID", kit.client.topology.stream(stage), GROUP_OF_STAGE[stage], "0")
    return f"XGROUP SETID {GROUP_OF_STAGE[stage]} 0"


@strike("intruder", 2)
def intruder(kit: Kit) -> str:
    """A foreign consumer claims what workers have in hand: it will be delivered to somebody else as well."""
    stage, ids = _in_hand(kit)
    kit.blame(stage, ids)
    kit.client.call("XCLAIM", kit.client.topology.stream(stage), GROUP_OF_STAGE[stage], FOREIGN, 0, *ids)
    kit.handovers.watch(kit.client, "XCLAIM by a foreign consumer", stage, ids)
    return f"XCLAIM of {len(ids)} entries of {stage} by a foreign consumer"


@strike("delconsumer")
def delconsumer(kit: Kit) -> str:
    """XGROUP DELCONSUMER of a worker by foreign hands: its pending entries are gone with it."""
    name = kit.chance.choice(HOLDERS)
    stage = "raw" if name.startswith("transform") else "clean"
    kit.wait(lambda: kit.pending(stage, kit.consumer(name)), 2)
    ids = kit.pending(stage, kit.consumer(name))
    stream = kit.client.topology.stream(stage)
    done = kit.client.call("XGROUP", "DELCONSUMER", stream, GROUP_OF_STAGE[stage], kit.consumer(name))
    kit.handovers.watch(kit.client, "XGROUP DELCONSUMER", stage, ids)
    return f"XGROUP DELCONSUMER {name} with {done} pending entries"


def _in_hand(kit: Kit) -> tuple[str, list[str]]:
    """A stage, and up to ten entries that are in hand there; waits a moment for some."""
    stages = kit.chance.sample(STAGES, 2)
    kit.wait(lambda: any(kit.pending(stage) for stage in stages), 3)
    for stage in stages:
        if ids := kit.pending(stage, most=10):
            return stage, ids
    raise Missed("nothing is in hand")


@strike("xdel", 2)
def xdel(kit: Kit) -> str:
    """XDEL of entries under pending. Their events are noted first: they may be lost, and nothing else may be."""
    stage = kit.chance.choice(STAGES)
    chosen: dict[str, list[int]] = {}

    def found() -> bool:
        chosen.update(_countable(kit, stage))
        return bool(chosen)

    if not kit.wait(found, 5):
        raise Missed(f"nothing suitable is in hand of {stage}")
    line = f"XDEL of {len(chosen)} entries of {stage} ({next(iter(chosen))}…)"
    # Before the deletion: what is lost meanwhile is lost by it.
    kit.truth.deleted.update({number: line for inside in chosen.values() for number in inside})
    kit.handovers.forget(chosen)
    kit.client.call("XDEL", kit.client.topology.stream(stage), *chosen)
    return f"{line} with {sum(map(len, chosen.values()))} events"


def _countable(kit: Kit, stage: str) -> dict[str, list[int]]:
    """Entries in hand whose loss can be counted exactly: each event has one row, or none if it is lost."""
    found = {}
    for entry_id, fields in kit.bodies(stage, kit.pending(stage, most=10)).items():
        inside = numbers(fields)
        # A foreign entry is in no `open`: deleting one leaves no trace that anybody could count.
        if not is_foreign(fields) and all(kit.truth.kinds.get(number) in SIMPLE for number in inside):
            found[entry_id] = inside
    return found


@strike("flush")
def flush(kit: Kit) -> str:
    """FLUSHALL. One transaction reads what it destroys, so that the kit knows exactly."""
    keys = kit.client.topology
    pipe = kit.client.redis.pipeline(transaction=True)
    streams = {"raw": keys.stream("raw"), "clean": keys.stream("clean"), "retry": keys.retry, "dead": keys.dead}
    for key in streams.values():
        pipe.execute_command("XRANGE", key, "-", "+")  # type: ignore[no-untyped-call]
    for stage in STAGES:
        pipe.execute_command("HKEYS", keys.open(stage))  # type: ignore[no-untyped-call]
    pipe.execute_command("FLUSHALL")  # type: ignore[no-untyped-call]
    *found, raw_open, clean_open, _ = pipe.execute()
    line = f"FLUSHALL with {len(raw_open)} raw and {len(clean_open)} clean entries in flight"
    contents = {
        name: [(entry_id, pairs(fields)) for entry_id, fields in entries]
        for name, entries in zip(streams, found, strict=True)
    }
    in_flight = [
        fields
        for stage, unsettled in (("raw", set(raw_open)), ("clean", set(clean_open)))
        for entry_id, fields in contents[stage]
        if entry_id in unsettled or is_foreign(fields)
    ] + [fields for _, fields in contents["retry"]]
    _note_destroyed(kit, line, in_flight, [fields for _, fields in contents["dead"]])
    return line


def _note_destroyed(kit: Kit, line: str, in_flight: list[dict[bytes, bytes]], dead: list[dict[bytes, bytes]]) -> None:
    """Files are read again; of foreign events nothing is left but what is in a table."""
    truth = kit.truth
    truth.flushes += 1
    truth.deleted_before.update(truth.deleted)
    truth.deleted.clear()
    truth.destroyed.update({number: line for fields in in_flight for number in numbers(fields)})
    for fields in dead:
        truth.destroyed_letters.update(dict.fromkeys(numbers(fields), fields[b"reason"].decode()))
    kit.handovers.forget()
