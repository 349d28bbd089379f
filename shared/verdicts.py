"""How a group does: judged on what it settles and on the age of what waits, never on one sample of its lag.

A lag in entries or events is high in the middle of any burst, and low while a slow stage starves the next. What tells
is whether anything is settled, how old the oldest is, and how long an event that comes now would have to wait.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from shared.streams.inspect import ConsumerState, GroupState
from shared.topology import RECLAIMED

Word = Literal["ok", "slow", "stalled", "stopped"]
WORDS: tuple[Word, ...] = ("ok", "slow", "stalled", "stopped")

#: Rates are taken over so many seconds, where somebody looks for so long.
WINDOW_SECONDS = 30
#: An entry that waited for so long is late: it is a stall if nothing is settled, else the group is slow.
OLD_SECONDS = 60
#: Over a shorter time rates of whole batches say nothing about growth.
_GROWTH_SECONDS = 10
#: So much more must come in than goes out, and so long must an event that comes now have to wait.
_GROWTH_RATIO = 1.1
_GROWTH_WAIT_SECONDS = 10
#: A consumer that holds entries and asked for nothing for so long is named.
_HOLDS_SECONDS = 5


class Observation(msgspec.Struct, frozen=True):
    """A group at one moment of a monotonic clock, in seconds; ``paused`` is why its breaker is open."""

    at_seconds: float
    state: GroupState
    paused: str | None = None


class GroupVerdict(msgspec.Struct, frozen=True):
    """How a group does, and the cause in words. Rates are in events a second; what is unknown is None.

    ``drain_seconds`` is how long the backlog takes at these rates; None when it does not shrink.
    """

    stage: str
    group: str
    verdict: Word
    cause: str
    unsettled_events: int
    oldest_seconds: float | None
    in_per_second: float | None
    out_per_second: float | None
    drain_seconds: float | None
    consumer: str | None

    @property
    def is_finding(self) -> bool:
        """Whether somebody has to do something: work waits, and nothing is done."""
        return self.verdict == "stalled" or (self.verdict == "stopped" and self.unsettled_events > 0)


class _Rates(msgspec.Struct, frozen=True):
    seconds: float
    incoming: float
    outgoing: float


def recent(observations: Sequence[Observation], newest: Observation) -> list[Observation]:
    """What to keep of earlier observations when one is made: the window, of one epoch."""
    kept = [one for one in observations if newest.at_seconds - one.at_seconds <= WINDOW_SECONDS]
    if kept and (
        kept[-1].state.settled_events > newest.state.settled_events
        or kept[-1].state.added_events > newest.state.added_events
    ):
        kept = []  # Counters that only rise have fallen: another epoch.
    return [*kept, newest]


def judge(observations: Sequence[Observation]) -> GroupVerdict:
    """The verdict on a group that was looked at at least once, oldest observation first.

    With one observation the rates are unknown and a backlog that is old counts as slow.
    """
    newest = observations[-1]
    state, rates = newest.state, _rates(observations)
    holder = _holder(state.consumers)
    word = _word(newest, rates)
    return GroupVerdict(
        stage=state.stage,
        group=state.group,
        verdict=word,
        cause=_cause(word, newest, rates, holder),
        unsettled_events=state.unsettled_events,
        oldest_seconds=state.lag_seconds,
        in_per_second=None if rates is None else rates.incoming,
        out_per_second=None if rates is None else rates.outgoing,
        drain_seconds=_drain_seconds(state, rates),
        consumer=None if holder is None else holder.name,
    )


def _rates(observations: Sequence[Observation]) -> _Rates | None:
    first, last = observations[0], observations[-1]
    seconds = last.at_seconds - first.at_seconds
    if seconds <= 0:
        return None
    return _Rates(
        seconds,
        (last.state.added_events - first.state.added_events) / seconds,
        (last.state.settled_events - first.state.settled_events) / seconds,
    )


def _word(newest: Observation, rates: _Rates | None) -> Word:
    state = newest.state
    if newest.paused is not None or not state.workers:
        return "stopped"
    old = (state.lag_seconds or 0) >= OLD_SECONDS
    if state.unsettled_events <= 0:
        return "ok"
    if rates is None or rates.outgoing <= 0:
        return "ok" if not old else "slow" if rates is None else "stalled"
    wait_seconds = state.unsettled_events / rates.outgoing
    grows = rates.seconds >= _GROWTH_SECONDS and rates.incoming > _GROWTH_RATIO * rates.outgoing
    late = wait_seconds >= OLD_SECONDS and rates.seconds >= _GROWTH_SECONDS
    return "slow" if old or late or (grows and wait_seconds >= _GROWTH_WAIT_SECONDS) else "ok"


def _drain_seconds(state: GroupState, rates: _Rates | None) -> float | None:
    if state.unsettled_events <= 0:
        return 0.0
    if rates is None or rates.outgoing <= rates.incoming:
        return None
    return state.unsettled_events / (rates.outgoing - rates.incoming)


def _holder(consumers: Sequence[ConsumerState]) -> ConsumerState | None:
    """The consumer that has held entries for longest without asking for more, if for long."""
    holding = [one for one in consumers if one.pending_entries and one.idle_seconds >= _HOLDS_SECONDS]
    return max(holding, key=lambda one: one.idle_seconds, default=None)


def _cause(word: Word, newest: Observation, rates: _Rates | None, holder: ConsumerState | None) -> str:
    state = newest.state
    if newest.paused is not None:
        return f"the breaker is open: {newest.paused}; {_waiting(state)}"
    parts = [] if state.workers else [f"no {state.group} worker is alive"]
    parts.append(_waiting(state))
    if rates is not None and (state.unsettled_events > 0 or rates.outgoing > 0):
        parts.append(f"{rates.incoming:,.0f}/s in, {rates.outgoing:,.0f}/s out")
    if word in ("ok", "slow") and state.unsettled_events > 0 and rates is not None:
        drain = _drain_seconds(state, rates)
        parts.append("does not shrink" if drain is None else f"drains in {duration(drain)}")
    if holder is not None:
        parts.append(_held(holder))
    elif word == "stalled" and not state.pending_entries:
        parts.append("no worker takes any")
    return "; ".join(parts)


def _waiting(state: GroupState) -> str:
    if state.unsettled_events <= 0:
        return "nothing waits"
    oldest = "of unknown age" if state.lag_seconds is None else f"the oldest for {duration(state.lag_seconds)}"
    return f"{state.unsettled_events:,} events wait, {oldest}"


def _held(holder: ConsumerState) -> str:
    entries = f"{holder.pending_entries:,} {'entry' if holder.pending_entries == 1 else 'entries'}"
    seconds = duration(holder.idle_seconds)
    if holder.name == RECLAIMED:
        return f"{entries} of workers that ended have waited for {seconds} to be taken"
    return f"{holder.name} has held {entries} for {seconds}"


def duration(seconds: float) -> str:
    """Seconds for people: ``0.4 s``, ``12 s``, ``3 min``, ``5 h``, ``4 d``."""
    for limit, unit, text in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {text}" if seconds < 1 else f"{seconds / unit:.0f} {text}"
    return f"{seconds / 86_400:.0f} d"
