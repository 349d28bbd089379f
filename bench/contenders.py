"""Who runs in the rounds: all on the same servers, into the same table."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from bench import fleet, floor, naive
from bench.ground import Ground
from bench.processes import Measured


class Contender(NamedTuple):
    """A name for tables, the share of the events that it gets, and how it is measured."""

    title: str
    share: float
    measure: Callable[[Ground], Measured]


#: Half of the events for two variants, and few for the naive loop, so that a run takes less than ten minutes.
CONTENDERS = {
    "floor": Contender("floor", 1, floor.measure),
    "fleet": Contender("**Bargeline**", 1, fleet.measure),
    "fleet2": Contender("Bargeline, two loaders", 0.5, partial(fleet.measure, loaders=2)),
    "plain": Contender(
        "Bargeline, function of plain dicts", 0.5, partial(fleet.measure, pipeline=str(fleet.PIPELINES / "plain"))
    ),
    "naive": Contender("naive loop", 0.003, naive.measure),
}
