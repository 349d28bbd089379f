"""User code with every way to fail: each event says by its kind what is to happen to it."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bargeline import Event, InvalidEvent

FOLDER = Path(__file__).parent
#: While this file is missing every event takes a moment: a worker that is done at once is never struck in mid-batch.
HURRY = FOLDER / "hurry"
PACE_SECONDS = 0.001
EXIT_CODE = 77
FAILURES_BEFORE_HEALED = 2


class Fact(msgspec.Struct):
    """The data of an event."""

    no: int
    kind: str
    grp: str
    amount: int
    at: str


Result = Event[Fact] | list[Event[Fact]] | None


def act(event: Event[Fact]) -> Result:
    """Do what the kind of the event says."""
    if not HURRY.exists():
        time.sleep(PACE_SECONDS)
    return ACTS[event.data.kind](event)


def _pass(event: Event[Fact]) -> Result:
    return event


def _fan_out(event: Event[Fact]) -> Result:
    return [event, msgspec.structs.replace(event, type="echo")]


def _drop(_event: Event[Fact]) -> Result:
    return None


def _exit(_event: Event[Fact]) -> Result:
    os._exit(EXIT_CODE)


def _be_killed(_event: Event[Fact]) -> Result:
    """What becomes of a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def _raise(event: Event[Fact]) -> Result:
    raise RuntimeError(f"event {event.data.no} always fails")


def _heal(event: Event[Fact]) -> Result:
    for attempt in range(FAILURES_BEFORE_HEALED):
        try:
            os.close(os.open(FOLDER / f"{event.data.no}.{attempt}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        raise ConnectionError(f"event {event.data.no} fails for the time {attempt + 1}")
    return event


def _refuse(event: Event[Fact]) -> Result:
    raise InvalidEvent(f"event {event.data.no} can never succeed")


def _spoil(event: Event[Fact]) -> Result:
    """A row that PostgreSQL refuses: a constraint, a number too large, text with a NUL."""
    match event.data.no % 3:
        case 0:
            event.data.amount = -1
        case 1:
            event.data.amount = 2**63 - 1 + 2**63
        case _:
            event.data.grp = "\0"
    return event


def _stray(event: Event[Fact]) -> Result:
    event.type = "nowhere"
    return event


ACTS: dict[str, Callable[[Event[Fact]], Result]] = {
    "plain": _pass,
    "jump": _pass,
    "fanned": _fan_out,
    "filtered": _drop,
    "heals": _heal,
    "raises": _raise,
    "invalid": _refuse,
    "bad_row": _spoil,
    "stray": _stray,
    "exits": _exit,
    "killed": _be_killed,
}
