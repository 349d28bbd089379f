"""The protocol against a plain model: random steps of workers, crashes, zombies, janitors and foreign hands."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from shared.entries import Entry, batch_fields
from shared.streams import (
    Added,
    Client,
    Consumer,
    Full,
    HeldLease,
    Loaded,
    Outcome,
    Stale,
    ensure_group,
    settle_clean,
    split,
)
from shared.streams.client import pairs
from shared.streams.inspect import entries as stream_entries
from shared.streams.keeper import (
    delete_consumer,
    due_retries,
    id_order,
    lost,
    move,
    reclaim,
    repair,
    server_ms,
    smallest_open,
    trim,
)
from shared.topology import GROUP_OF_STAGE, RECLAIMED, STAGES, Topology
from tests.integration import protocol
from tests.integration.modelled import Stage
from tests.wait import until

HIGH_WATER = 30
MOST_EVENTS = 5
NAMES = ("a", "b")
FANNED_OUT = 1_000_000
NEVER_MS = 3_600_000
WORKERS = tuple(itertools.product(STAGES, NAMES))
#: How often each kind of step is tried: mostly ordinary ones, crashes and zombies, or no fault meets anything.
WEIGHTS = {
    "ingest": 5,
    "add_foreign": 2,
    "read": 8,
    "settle": 8,
    "take": 5,
    "split": 2,
    "hold": 1,
    "crash": 5,
    "start_again": 4,
    "zombie_settles": 5,
    "reclaim": 4,
    "repair": 2,
    "move": 2,
    "trim": 2,
    "delete_consumer": 1,
    "delete_body": 1,
    "move_group": 2,
    "destroy_group": 1,
    "delete_consumer_by_force": 1,
    "flush": 1,
}
ACTIONS = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
#: What becomes of one event after another: mapped (loaded), fanned out, filtered (duplicate), retried (unrouted), dead.
KINDS = st.lists(st.sampled_from("mmmFfrd"), min_size=1, max_size=5)


Worker = tuple[str, str]  # stage and name
Kinds = list[str]
T = TypeVar("T")


def _one_of(items: Sequence[T], choice: int) -> T:
    return items[choice % len(items)]


class Machine(RuleBasedStateMachine):
    """The real partition and the model, always side by side."""

    url = ""
    names = iter("")

    def __init__(self) -> None:
        super().__init__()
        self.client = Client(self.url, Topology(next(self.names)))
        self.stages = {stage: Stage(stage) for stage in STAGES}
        self.raw, self.clean = self.stages["raw"], self.stages["clean"]
        self.retry: dict[str, tuple[int, int]] = {}
        self.ended: dict[str, list[int]] = {kind: [] for kind in ("loaded", "other", "filtered", "lost", "dead")}
        self.born: list[int] = []
        self.destroyed: set[int] = set()
        self.checkpoint = 0
        self.leases: dict[Worker, HeldLease] = {}
        self.hands: dict[Worker, dict[str, Entry]] = {}
        self.zombies: list[tuple[str, dict[str, Entry]]] = []
        for stage, name in WORKERS:
            ensure_group(self.client, stage, GROUP_OF_STAGE[stage])
            self._start(stage, name)

    # One rule, because hypothesis leaves out many rules of each run, and these need one another.
    @rule(action=st.sampled_from(ACTIONS), choice=st.integers(0, 1_000), kinds=KINDS)
    def step(self, action: str, choice: int, kinds: Kinds) -> None:
        needed: dict[str, Callable[[], object]] = {
            "read": self._waited_for,
            "take": self._suspected,
            "start_again": self._down,
            "zombie_settles": lambda: self.zombies,
        }
        needed |= dict.fromkeys(("settle", "split", "hold", "crash"), self._busy)
        if action not in needed or needed[action]():
            getattr(self, action)(choice, kinds)

    def teardown(self) -> None:
        self.client.close()

    def _start(self, stage: str, name: str) -> None:
        self.leases[stage, name] = protocol.hold_lease(self.client, stage, name)
        self.client.call("PERSIST", self.client.topology.lease(GROUP_OF_STAGE[stage], name))
        self.hands[stage, name] = {}

    def _new(self, count: int = 1) -> list[int]:
        events = list(range(len(self.born), len(self.born) + count))
        self.born += events
        return events

    def _take_over(self, stage: Stage, expected: list[list[int]]) -> None:
        """What the real stream got since the model last looked."""
        found = stream_entries(self.client, self.client.topology.stream(stage.name), f"({stage.last}", 10_000)
        assert [protocol.numbers(fields) for _, fields in found] == expected
        for (entry_id, _), events in zip(found, expected, strict=True):
            stage.add(entry_id, events)

    # Producers

    def ingest(self, choice: int, _kinds: Kinds) -> None:
        count, letters = 1 + choice % 8, choice // 8 % 2
        expected, new = str(self.checkpoint or ""), str(self.checkpoint + 1)
        in_flight = self.raw.in_flight + len(self.retry)
        full = in_flight >= HIGH_WATER
        batch, dead = ([], []) if full else (self._new(count), self._new(letters))
        arguments = {"source": "file", "expected": expected, "new": new, "high_water": HIGH_WATER}
        sent = [protocol.letter("ingest", b"%d" % event) for event in dead]
        result = protocol.try_add(self.client, batch or [0], dead=sent, **arguments)  # type: ignore[arg-type]
        if full:
            assert result == Full(in_flight)
            return
        assert isinstance(result, Added)
        self.checkpoint += 1
        self._take_over(self.raw, [batch])
        self.ended["dead"] += dead
        assert protocol.try_add(self.client, [0], **arguments) == Stale(new)  # type: ignore[arg-type]

    def add_foreign(self, choice: int, _kinds: Kinds) -> None:
        stage = _one_of(STAGES, choice)
        (event,) = self._new()
        self.stages[stage].add(protocol.add_foreign(self.client, stage, event), [event], foreign=True)

    # Workers

    def _busy(self) -> list[Worker]:
        return [worker for worker, hand in self.hands.items() if hand]

    def _down(self) -> list[Worker]:
        return [worker for worker in WORKERS if worker not in self.leases]

    def _waited_for(self) -> list[Worker]:
        """Living workers of stages with entries that nobody has read."""
        unread = {name for name, one in self.stages.items() if not all(map(one.was_delivered, one.bodies))}
        return [worker for worker in self.leases if worker[0] in unread]

    def _suspected(self) -> list[Worker]:
        """Living workers with leftovers, or with a pool to take from."""
        return [one for one in self.leases if any(map(self.stages[one[0]].held_by, (one[1], RECLAIMED)))]

    def read(self, choice: int, _kinds: Kinds) -> None:
        stage, name = _one_of(self._waited_for(), choice)
        count = 1 + choice // 8 % 4
        found = protocol.read(self.client, stage, name, count)
        assert [entry.id for entry in found] == self.stages[stage].read(name, count)
        self.hands[stage, name] |= {entry.id: entry for entry in found}

    def take(self, choice: int, _kinds: Kinds) -> None:
        stage, name = _one_of(self._suspected(), choice)
        entry, expected = Consumer(self.client, stage, name).take(), self.stages[stage].take(name)
        if expected is None:
            assert entry is None
            return
        assert entry is not None
        assert (entry.id, entry.deliveries, entry.reclaimed) == (expected.id, expected.deliveries, expected.reclaimed)
        assert bool(entry.fields) == (entry.id in self.stages[stage].bodies)
        if entry.fields:
            self.hands[stage, name][entry.id] = entry
        else:
            self._lose(stage, entry.id)

    def settle(self, choice: int, kinds: Kinds) -> None:
        worker = _one_of(self._busy(), choice)
        if self._settle_hand(worker[0], self.hands[worker], kinds):
            self.hands[worker] = {}

    def split(self, choice: int, _kinds: Kinds) -> None:
        hand = self.hands[_one_of(self._busy(), choice)]
        for entry in [one for one in hand.values() if one.id in self.raw.bodies and one.events > 1][:1]:
            events = protocol.numbers(entry.fields)
            first = self.raw.fence(entry.id)
            singles = [batch_fields(protocol.body([event]), 1, 1) for event in events]
            assert split(self.client, entry, singles) is first
            self._take_over(self.raw, [[event] for event in events] if first else [])
            del hand[entry.id]

    def hold(self, choice: int, _kinds: Kinds) -> None:
        stage, name = _one_of(self._busy(), choice)
        hand = list(self.hands[stage, name].values())
        Consumer(self.client, stage, name).hold(hand)
        for entry in hand:
            self.stages[stage].hold(name, entry)

    # Crashes and zombies

    def crash(self, choice: int, _kinds: Kinds) -> None:
        """The lease is gone; whether the process is, shows when its hand settles after all."""
        worker = _one_of(self._busy(), choice)
        if worker in self.leases:
            self.leases.pop(worker).release()
            self.zombies.append((worker[0], self.hands[worker]))
            self.hands[worker] = {}

    def start_again(self, choice: int, _kinds: Kinds) -> None:
        stage, name = _one_of(self._down(), choice)
        self._start(stage, name)
        Consumer(self.client, stage, name).join()
        self.stages[stage].release(name)

    def zombie_settles(self, choice: int, kinds: Kinds) -> None:
        self._settle_hand(*_one_of(self.zombies, choice), kinds)

    # Janitor

    def reclaim(self, choice: int, _kinds: Kinds) -> None:
        stage = _one_of(STAGES, choice)
        gone = [name for name in NAMES if (stage, name) not in self.leases]
        moved, missing = self.stages[stage].reclaim(gone)
        swept = reclaim(self.client, stage, NEVER_MS)
        assert (swept.moved, sorted(swept.missing)) == (moved, sorted(missing))
        for entry_id in missing:
            self._lose(stage, entry_id)

    def repair(self, choice: int, _kinds: Kinds) -> None:
        stage = _one_of(STAGES, choice)
        moved, missing = self.stages[stage].repair()
        swept = repair(self.client, stage, list(self.stages[stage].open))
        assert (swept.moved, sorted(swept.missing)) == (moved, sorted(missing))
        for entry_id in missing:
            self._lose(stage, entry_id)

    def move(self, choice: int, _kinds: Kinds) -> None:
        now = _one_of((5, 15, 25), choice)
        due = [entry_id for entry_id, (_, when) in self.retry.items() if when <= now]
        assert due_retries(self.client, now) == due
        assert move(self.client, now, list(self.retry)) == len(due)
        self._take_over(self.raw, [[self.retry.pop(entry_id)[0]] for entry_id in due])

    def trim(self, choice: int, _kinds: Kinds) -> None:
        stage = _one_of(STAGES, choice)
        one = self.stages[stage]
        smallest = min(one.open, key=id_order, default=None)
        assert smallest_open(self.client, stage) == smallest
        ids = [*one.bodies, "99999999999999-0"]
        limit = min((known for known in (_one_of(ids, choice // 2), smallest) if known), key=id_order)
        assert trim(self.client, stage, limit).entries == one.trim(limit)

    def delete_consumer(self, choice: int, _kinds: Kinds) -> None:
        stage, name = _one_of(WORKERS, choice)
        if delete_consumer(self.client, stage, name, 0):
            assert (stage, name) not in self.leases
            assert not self.stages[stage].held_by(name)

    # Foreign hands

    def delete_body(self, choice: int, _kinds: Kinds) -> None:
        stage = _one_of(STAGES, choice)
        one = self.stages[stage]
        ids = [entry_id for entry_id in one.bodies if entry_id in one.open]
        if ids:
            entry_id = _one_of(ids, choice // 2)
            self.client.call("XDEL", self.client.topology.stream(stage), entry_id)
            del one.bodies[entry_id]

    def move_group(self, choice: int, _kinds: Kinds) -> None:
        stage, back = _one_of(STAGES, choice), choice // 2 % 2 == 0
        one = self.stages[stage]
        if back or not one.foreign_waiting:  # foreign entries that are skipped are not in our hands
            position = "0-0" if back else one.last
            self.client.call("XGROUP", "SETID", self.client.topology.stream(stage), GROUP_OF_STAGE[stage], position)
            one.delivered = position

    def destroy_group(self, choice: int, _kinds: Kinds) -> None:
        stage = _one_of(STAGES, choice)
        protocol.make_group_anew(self.client, stage)
        self.stages[stage].pending.clear()
        self.stages[stage].delivered = "0-0"

    def delete_consumer_by_force(self, choice: int, _kinds: Kinds) -> None:
        stage, name = _one_of(WORKERS, choice)
        one = self.stages[stage]
        if not one.foreign_waiting:
            names = (self.client.topology.stream(stage), GROUP_OF_STAGE[stage], name)
            self.client.call("XGROUP", "DELCONSUMER", *names)
            for entry_id in one.held_by(name):
                del one.pending[entry_id]

    def flush(self, _choice: int, _kinds: Kinds) -> None:
        """Everything is gone but what workers have in hand; they make their groups anew and take their leases again."""
        names = self.client.topology
        leases = [names.lease(GROUP_OF_STAGE[stage], name) for stage, name in WORKERS]
        self.client.call("DEL", *names.script_keys(), *map(names.leased, GROUP_OF_STAGE.values()), *leases)
        newest = max(id_order(one.last)[0] for one in self.stages.values())
        until(lambda: server_ms(self.client) > newest, what="another millisecond, for ids are made of it")
        for stage in STAGES:
            self.stages[stage].forget()
            ensure_group(self.client, stage, GROUP_OF_STAGE[stage])
        for (stage, name), lease in self.leases.items():
            assert lease.renew()
            self.client.call("PERSIST", names.lease(GROUP_OF_STAGE[stage], name))
        self.retry.clear()
        self.ended = {kind: [] for kind in self.ended}
        self.destroyed = set(self.born)
        self.checkpoint = 0

    # What several of them do

    def _lose(self, stage: str, entry_id: str) -> None:
        events = self.stages[stage].open[entry_id]
        assert lost(self.client, stage, entry_id) == len(events)
        self.stages[stage].fence(entry_id)
        self.ended["lost"] += events

    def _settle_hand(self, stage: str, hand: dict[str, Entry], kinds: Kinds) -> bool:
        """False: the next stage is full, and the hand is kept."""
        if stage == "raw":
            return self._settle(list(hand.values()), kinds)
        self._settle_clean(list(hand.values()), kinds)
        return True

    def _settle(self, hand: list[Entry], kinds: Kinds) -> bool:
        fates = [list(zip(_events(entry), itertools.cycle(kinds), strict=False)) for entry in hand]
        outcomes = [_outcome(entry, fate) for entry, fate in zip(hand, fates, strict=True)]
        result = protocol.settle_raw(self.client, *outcomes, high_water=HIGH_WATER, most_events=MOST_EVENTS)
        if self.clean.in_flight >= HIGH_WATER:
            assert result == Full(self.clean.in_flight)
            return False
        firsts = [self.raw.fence(entry.id) for entry in hand]
        assert result == firsts
        outputs: list[int] = []
        retries: list[int] = []
        for event, kind in itertools.chain.from_iterable(itertools.compress(fates, firsts)):
            outputs += {"m": [event], "F": [event, event + FANNED_OUT]}.get(kind, [])
            retries += [event] if kind == "r" else []
            self.ended["filtered"] += [event] if kind == "f" else []
            self.ended["dead"] += [event] if kind == "d" else []
        chunks = [outputs[first : first + MOST_EVENTS] for first in range(0, len(outputs), MOST_EVENTS)]
        self._take_over(self.clean, chunks)
        known = max(self.retry, key=id_order, default="0-0")
        waiting = stream_entries(self.client, self.client.topology.retry, f"({known}", 10_000)
        assert [protocol.numbers(fields) for _, fields in waiting] == [[event] for event in retries]
        self.retry |= {one: (event, _due(event)) for (one, _), event in zip(waiting, retries, strict=True)}
        return True

    def _settle_clean(self, hand: list[Entry], kinds: Kinds) -> None:
        results = []
        for entry in hand:
            fate = list(zip(_events(entry), itertools.cycle(kinds), strict=False))
            counts = Counter(kind for _, kind in fate)
            dead = [protocol.letter("loader", b"%d" % event) for event, kind in fate if kind == "d"]
            loaded, duplicates = counts["m"] + counts["F"], counts["f"]
            results.append(Loaded(entry.id, entry.foreign, len(fate), loaded, duplicates, counts["r"], dead))
            if self.clean.unsettled(entry.id):
                for event, kind in fate:
                    self.ended[{"m": "loaded", "F": "loaded", "d": "dead"}.get(kind, "other")].append(event)
        assert settle_clean(self.client, results) == [self.clean.fence(entry.id) for entry in hand]

    # What must hold after every step

    @invariant()
    def streams_are_as_the_model_says(self) -> None:
        for stage, one in self.stages.items():
            found = stream_entries(self.client, self.client.topology.stream(stage), "-", 10_000)
            assert {entry_id: _events(Entry(entry_id, fields)) for entry_id, fields in found} == one.bodies
            assert protocol.is_open(self.client, stage) == {key: len(events) for key, events in one.open.items()}
            assert protocol.pending(self.client, stage) == one.pending
            (group,) = self.client.call("XINFO", "GROUPS", self.client.topology.stream(stage))
            assert pairs(group)[b"last-delivered-id"].decode() == one.delivered

    @invariant()
    def every_event_is_in_exactly_one_place(self) -> None:
        waiting = [event for event, _ in self.retry.values()]
        places = [*self.raw.unsettled_events, *self.clean.unsettled_events, *waiting]
        places += itertools.chain.from_iterable(self.ended.values())
        assert len(places) == len(set(places))
        assert {event for event in places if event < FANNED_OUT} == set(self.born) - self.destroyed

    @invariant()
    def the_law_holds(self) -> None:
        found = protocol.assert_law(self.client)
        assert (found.in_raw, found.in_clean) == (len(self.raw.unsettled_events), len(self.clean.unsettled_events))
        assert (found.loaded, found.lost, found.filtered) == tuple(
            len(self.ended[kind]) for kind in ("loaded", "lost", "filtered")
        )
        letters = stream_entries(self.client, self.client.topology.dead, "-", 10_000)
        assert sorted(int(fields[b"event"]) for _, fields in letters) == sorted(self.ended["dead"])
        assert found.in_retry == len(self.retry)


def _events(entry: Entry) -> list[int]:
    return [int(entry.fields[b"click"])] if entry.foreign else protocol.numbers(entry.fields)


def _due(event: int) -> int:
    return 10 if event % 2 else 20


def _outcome(entry: Entry, fate: list[tuple[int, str]]) -> Outcome:
    outcome = Outcome(entry)
    for event, kind in fate:
        match kind:
            case "m" | "F":
                outcome.mapped += 1
                outputs = [event] if kind == "m" else [event, event + FANNED_OUT]
                outcome.segments += [(1, protocol.body([output])) for output in outputs]
            case "f":
                outcome.filtered += 1
            case "r":
                outcome.retries.append(protocol.retry(event, _due(event)))
            case _:
                outcome.dead.append(protocol.letter(text=b"%d" % event))
    return outcome


def test_the_protocol_does_what_the_model_says(redis_url: str, pipeline_name: str) -> None:
    class Bound(Machine):
        url = redis_url
        names = (f"{pipeline_name}-{number}" for number in itertools.count())

    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=30,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
