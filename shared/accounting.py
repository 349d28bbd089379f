"""The law: every accepted event is in exactly one place.

Pure arithmetic on figures read in one transaction. ``balance`` states the sum for an epoch and each
of the equations that it is made of, so that an imbalance says where to look.
"""

from collections.abc import Callable

import msgspec


class Figures(msgspec.Struct, frozen=True):
    """What Redis holds at one moment. All counts are of events, but for the two of entries added."""

    epoch: str | None
    counters: dict[str, int]
    open_raw: int
    open_clean: int
    retry: int
    dead: int
    raw_entries_added: int
    clean_entries_added: int


class Balance(msgspec.Struct, frozen=True):
    """The sum of an epoch; ``imbalance`` is what came in less what can be shown, 0 when all is well."""

    pipeline: str
    epoch: str | None
    accepted: int
    foreign: int
    replayed: int
    fanned_out: int
    loaded: int
    duplicates: int
    filtered: int
    unrouted: int
    dead: int
    purged: int
    lost: int
    in_flight: int
    in_raw: int
    in_clean: int
    in_retry: int
    imbalance: int
    findings: list[str]


#: Set back when a stream was deleted by foreign hands.
_MAY_FALL = ("raw.entries", "clean.entries")


def rewound(before: Figures, after: Figures) -> bool:
    """Whether the server went back in time within one epoch: its counters only ever rise."""
    return before.epoch == after.epoch and any(
        after.counters.get(name, 0) < value for name, value in before.counters.items() if name not in _MAY_FALL
    )


def _reader(counters: dict[str, int]) -> Callable[[str], int]:
    """A formula reads better without dictionaries."""
    return lambda name: counters.get(name, 0)


def balance(pipeline: str, figures: Figures) -> Balance:
    """State the law for the figures of one partition."""
    counter = figures.counters
    c = _reader(counter)
    foreign = {
        "raw": figures.raw_entries_added - c("raw.entries"),
        "clean": figures.clean_entries_added - c("clean.entries"),
    }
    foreign_waiting = {stage: added - c(f"{stage}.foreign") for stage, added in foreign.items()}
    in_raw = figures.open_raw + foreign_waiting["raw"]
    in_clean = figures.open_clean + foreign_waiting["clean"]
    lost = c("lost.raw") + c("lost.clean")
    came = c("accepted") + sum(foreign.values()) + c("replayed_range") + c("fanout")
    left = c("loaded") + c("duplicates") + c("filtered") + c("unrouted") + figures.dead + c("purged") + lost
    in_flight = in_raw + in_clean + figures.retry
    return Balance(
        pipeline=pipeline,
        epoch=figures.epoch,
        accepted=c("accepted"),
        foreign=sum(foreign.values()),
        replayed=c("replayed_range"),
        fanned_out=c("fanout"),
        loaded=c("loaded"),
        duplicates=c("duplicates"),
        filtered=c("filtered"),
        unrouted=c("unrouted"),
        dead=figures.dead,
        purged=c("purged"),
        lost=lost,
        in_flight=in_flight,
        in_raw=in_raw,
        in_clean=in_clean,
        in_retry=figures.retry,
        imbalance=came - left - in_flight,
        findings=_findings(counter, figures, foreign_waiting),
    )


def _findings(counter: dict[str, int], figures: Figures, foreign_waiting: dict[str, int]) -> list[str]:
    c = _reader(counter)
    raw_settled = c("mapped") + c("filtered") + c("retry.added") + c("dead.transform") + c("split") + c("lost.raw")
    clean_settled = c("loaded") + c("duplicates") + c("unrouted") + c("dead.loader") + c("lost.clean")
    raw_added = c("accepted") - c("dead.ingest") + c("retry.moved") + c("split") + c("dead.replayed.raw")
    dead = c("dead.ingest") + c("dead.transform") + c("dead.loader") - c("dead.replayed") - c("purged")
    equations = {
        "open:raw = raw.added - raw.settled": (figures.open_raw, c("raw.added") - c("raw.settled")),
        "open:clean = clean.added - clean.settled": (
            figures.open_clean,
            c("clean.added") - c("clean.settled"),
        ),
        "raw.added": (c("raw.added"), raw_added + c("replayed_range")),
        "raw.settled": (c("raw.settled") + c("raw.foreign"), raw_settled),
        "clean.added": (c("clean.added"), c("mapped") + c("fanout") + c("dead.replayed.clean")),
        "clean.settled": (c("clean.settled") + c("clean.foreign"), clean_settled),
        "length of retry": (figures.retry, c("retry.added") - c("retry.moved")),
        "length of dead": (figures.dead, dead),
    }
    found = [f"{name}: {left} is not {right}" for name, (left, right) in equations.items() if left != right]
    found += [
        f"{stage}: {-waiting} more foreign entries were settled than added; the stream was deleted or made anew"
        for stage, waiting in foreign_waiting.items()
        if waiting < 0
    ]
    return found
