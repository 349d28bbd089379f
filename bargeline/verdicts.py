"""How each group does, for a command that looks once: two looks, a moment apart, where events wait."""

import contextlib
import time
from collections.abc import Sequence

from shared.sampling import observe
from shared.streams import Client, GroupMissing
from shared.topology import STAGES
from shared.verdicts import OLD_SECONDS, GroupVerdict, Observation, judge

#: Rates over less are noise: a loader commits some batches a second.
LOOK_SECONDS = 1.0
#: Nothing settled for so long, and the oldest old: a stall.
LONGEST_LOOK_SECONDS = 3.0
_PAUSE_SECONDS = 0.1


def group_verdicts(client: Client) -> list[GroupVerdict]:
    """The verdict on each group that is there; returns at once when nothing waits. Raises TransientError."""
    first = _observations(client)
    last = first
    while _worth_another_look(first, last):
        time.sleep(_PAUSE_SECONDS)
        last = _observations(client)
    return [
        judge([one, two] if two.at_seconds > one.at_seconds and _same_epoch(one, two) else [two])
        for one, two in zip(first, last, strict=False)
    ]


def _observations(client: Client) -> list[Observation]:
    found = []
    for stage in STAGES:
        with contextlib.suppress(GroupMissing):
            found.append(observe(client, stage))
    return found


def _worth_another_look(first: Sequence[Observation], last: Sequence[Observation]) -> bool:
    pairs = [(one, two) for one, two in zip(first, last, strict=False) if one.state.unsettled_events > 0]
    watched = max((two.at_seconds - one.at_seconds for one, two in pairs), default=LONGEST_LOOK_SECONDS)
    if watched < LOOK_SECONDS:
        return True
    stands_still = any(
        (two.state.lag_seconds or 0) >= OLD_SECONDS and two.state.settled_events == one.state.settled_events
        for one, two in pairs
    )
    return stands_still and watched < LONGEST_LOOK_SECONDS


def _same_epoch(one: Observation, two: Observation) -> bool:
    return one.state.stage == two.state.stage and one.state.settled_events <= two.state.settled_events
