"""Made-up events, from a seed: clicks, orders or sensor readings, with bad ones and duplicates among them."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any, NamedTuple

from shared.events import SourceIds
from shared.generate import BLOCK_EVENTS, block
from shared.run import Runtime, Step
from shared.settings import Settings
from workers.ingest.objects import Made, encoded
from workers.ingest.own import OwnSource
from workers.ingest.source import object_maker

#: A duplicate repeats one of so many events before it.
_RECENT = 100
#: Pauses are not shorter: at a high rate several events come after each.
_SHORTEST_PAUSE_SECONDS = 0.002
#: What was missed while the stream was full is made up for at most so long.
_CATCH_UP_SECONDS = 0.1


class Generated(NamedTuple):
    """Event ``number`` of the source: it is a new one, or repeats event ``original``; a bad one is cut off."""

    number: int
    original: int
    data: dict[str, Any]
    bad: bool


def start(runtime: Runtime) -> Step:
    """Return the step that makes INGEST_GENERATOR_TOTAL events, or events for ever."""
    settings = runtime.settings
    kind, seed = settings.ingest_generator_kind, settings.ingest_generator_seed
    name = settings.ingest_source_name or f"generator:{kind}:{seed}"

    def read(position: int | None) -> Iterator[Generated]:
        first = 0 if position is None else position + 1
        made = mixed(settings, first)
        if settings.ingest_generator_total is not None:
            made = islice(made, max(settings.ingest_generator_total - first, 0))
        return paced(made, settings.ingest_generator_rate, runtime.stop.wait)

    return OwnSource(runtime, name, read, GeneratedMaker(runtime, name)).step


def mixed(settings: Settings, first: int) -> Iterator[Generated]:
    """Events for ever, from number ``first`` on; the same for the same settings, wherever it begins."""
    for number in count(first // BLOCK_EVENTS):
        yield from islice(_block(settings, number), max(first - number * BLOCK_EVENTS, 0), None)


def _block(settings: Settings, number: int) -> Iterator[Generated]:
    seed, first = settings.ingest_generator_seed, number * BLOCK_EVENTS
    # Draws of its own: the events are the same with and without bad ones among them.
    draw = random.Random(f"{seed}/{number}")
    new = block(settings.ingest_generator_kind, seed, number)
    recent: deque[Generated] = deque(maxlen=_RECENT)
    for place in range(first, first + BLOCK_EVENTS):
        if draw.random() < settings.ingest_generator_duplicates and recent:
            yield recent[int(draw.random() * len(recent))]._replace(number=place)
            continue
        made = Generated(place, place, next(new), draw.random() < settings.ingest_generator_bad)
        if not made.bad:
            recent.append(made)
        yield made


def paced(made: Iterator[Generated], rate: float, pause: Callable[[float], object]) -> Iterator[Generated]:
    """The same events, ``rate`` a second; 0: as fast as they are taken."""
    if not rate:
        yield from made
        return
    due = time.monotonic()
    for one in made:
        now = time.monotonic()
        due = max(due + 1 / rate, now - _CATCH_UP_SECONDS)
        if due - now >= _SHORTEST_PAUSE_SECONDS:
            pause(due - now)
        yield one


class GeneratedMaker:
    """Makes positions and events of what is generated; a duplicate has the id of its original."""

    where = "INGEST_SOURCE=generator"

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._objects = object_maker(runtime, name)
        self._id: Callable[[int, bytes], str] = SourceIds(name).id

    def make(self, given: Generated) -> tuple[int, Made]:
        """Number and event."""
        content = encoded(given.data)
        origin = {"position": given.number}
        if given.bad:
            return given.number, self._objects.from_text(content[: len(content) // 2], "", origin)
        event_id = self._id(given.original, content)
        return given.number, self._objects.from_dict(given.data, content, event_id, origin)
