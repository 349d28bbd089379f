"""The verdict: every event is where it has to be, counted outside Redis."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from shared.accounting import Balance, balance
from shared.pipeline import load_pipeline
from shared.streams.client import pairs
from shared.streams.inspect import figures
from shared.topology import STAGES
from tests.faults.exits import exits
from tests.faults.kit import Kit, numbers
from tests.faults.load import FATES, Fate, Truth

_SHOWN = 8
_RECOUNTS = {
    "facts_by_group": """
        SELECT date_bin('1 minute', at, 'epoch') AS window_start, grp, sum(amount) AS total, count(*) AS events
        FROM facts GROUP BY 1, 2""",
    "everything_by_day": """
        SELECT date_bin('1 day', at, 'epoch') AS window_start, sum(amount) AS total, count(*) AS events
        FROM (SELECT at, amount FROM facts UNION ALL SELECT at, amount FROM echoes) AS everything GROUP BY 1""",
}
_ROWS = "SELECT no, grp, amount, (extract(epoch FROM at) * 1000000)::bigint FROM {}"
_DIFFERENCE = "SELECT count(*) FROM ((TABLE {0} EXCEPT {1}) UNION ALL ({1} EXCEPT TABLE {0})) AS difference"
_LOADED = """
    SELECT (SELECT coalesce(sum(loaded), 0) FROM load_ledger) + (SELECT coalesce(sum(loaded), 0) FROM load_totals)"""


@dataclass
class Ends:
    """Where events really are: rows by number, dead letters by number with their reasons."""

    facts: Counter[int] = field(default_factory=Counter)
    echoes: Counter[int] = field(default_factory=Counter)
    dead: dict[int, list[str]] = field(default_factory=dict)
    unnumbered: int = 0
    #: Rows that do not hold what was put in.
    altered: int = 0


@dataclass
class Report:
    """What a run found; ``violations`` is empty when the promise held."""

    lines: list[str]
    violations: list[str]

    def __str__(self) -> str:
        return "\n".join([*self.lines, *(f"VIOLATION {one}" for one in self.violations)])


@dataclass
class Losses:
    """Events that are nowhere, by what took them."""

    by_deletion: list[int] = field(default_factory=list)
    by_flush: list[int] = field(default_factory=list)
    unexplained: list[int] = field(default_factory=list)
    blamed: list[int] = field(default_factory=list)


def judge(kit: Kit, seed: int, undrained: str) -> Report:
    """Compare what is with what has to be."""
    ends = _ends(kit)
    found = balance(kit.client.topology.partition, figures(kit.client))
    violations = [*kit.violations, *exits(kit)]
    if undrained:
        violations.append(f"not drained: {undrained}; {'; '.join(kit.handovers.unfinished)}")
    losses = Losses()
    violations += _events(kit, ends, losses)
    violations += _ledger(kit, ends, losses, found)
    violations += _database(kit, ends)
    violations += _groups(kit)
    violations += _operator(kit)
    return Report(_lines(kit, seed, ends, losses, found), violations)


def _ends(kit: Kit) -> Ends:
    ends = Ends()
    with kit.ground.database() as connection:
        for table, counter in (("facts", ends.facts), ("echoes", ends.echoes)):
            rows: Iterable[Any] = connection.execute(_ROWS.format(table).encode())
            for number, *content in rows:
                counter[number] += 1
                ends.altered += tuple(content) != kit.truth.contents.get(number)
    for _, flat in kit.client.call("XRANGE", kit.client.topology.dead, "-", "+"):
        fields = pairs(flat)
        inside = numbers(fields)
        ends.unnumbered += len(inside) != 1
        for number in inside:
            ends.dead.setdefault(number, []).append(fields[b"reason"].decode())
    return ends


def _events(kit: Kit, ends: Ends, losses: Losses) -> Iterator[str]:
    truth = kit.truth
    doubled = [number for counter in (ends.facts, ends.echoes) for number, count in counter.items() if count > 1]
    if doubled:
        yield f"twice in a table: {_some(truth, doubled)}"
    if several := [number for number, reasons in ends.dead.items() if len(reasons) > 1]:
        yield f"several dead letters of one event: {_some(truth, several)}"
    if ends.altered:
        yield f"{ends.altered} rows do not hold what was put in"
    if ends.unnumbered:
        yield f"{ends.unnumbered} dead letters do not hold exactly one event"
    everywhere = ends.facts.keys() | ends.echoes.keys() | ends.dead.keys()
    if strangers := sorted(everywhere - truth.kinds.keys() - truth.unsure.keys()):
        yield f"events that were never put in: {strangers[:_SHOWN]}"
    wrong = [number for number in truth.kinds if not _is_right(kit, ends, losses, number)]
    # Of those whose answer was lost nothing has to be there, but what is has to be whole.
    wrong += [number for number in truth.unsure if number in everywhere and not _is_right(kit, ends, Losses(), number)]
    if wrong:
        described = [f"{_some(truth, [number])} {_where(ends, number)}" for number in wrong[:_SHOWN]]
        yield f"{len(wrong)} events are not where they have to be: {'; '.join(described)}"
    if losses.unexplained:
        yield f"LOST {len(losses.unexplained)} events: {_some(truth, losses.unexplained)}"


def _is_right(kit: Kit, ends: Ends, losses: Losses, number: int) -> bool:
    """Whether an event is where it has to be; one that is nowhere is sorted by what took it."""
    truth = kit.truth
    fate = FATES[truth.kinds.get(number) or truth.unsure[number]]
    reasons = ends.dead.get(number, [])
    found = Fate(min(ends.facts[number], 1), min(ends.echoes[number], 1), reasons[0] if reasons else None)
    if found == fate:
        return True
    if found.reason == "deliveries" and _is_blamed(kit, number):
        losses.blamed.append(number)
        # Before a FLUSHALL it may have been loaded.
        return found == Fate(reason="deliveries") or truth.flushes > 0
    if fate.reason and truth.destroyed_letters.get(number) == fate.reason and found == Fate():
        return True
    if found != Fate() and not _is_half(truth, number, found, fate):
        return False
    if number in truth.deleted or (number in truth.deleted_before and number in truth.foreign):
        losses.by_deletion.append(number)
    elif number in truth.destroyed and number in truth.foreign:
        losses.by_flush.append(number)
    else:
        losses.unexplained.append(number)
    return True


def _is_half(truth: Truth, number: int, found: Fate, fate: Fate) -> bool:
    """Whether one output of a foreign event that fanned out was loaded before a FLUSHALL took the other."""
    return number in truth.destroyed and found.reason is None and found.facts + found.echoes < fate.facts + fate.echoes


def _is_blamed(kit: Kit, number: int) -> bool:
    """Whether the kit's own strikes made an event look like poison.

    It was dead-lettered after ``max_deliveries - 1`` ends of its workers. Poison beside it in a batch can
    explain two of them: the batch itself, and the single events that were read together after its split.
    """
    most = load_pipeline(str(kit.ground.pipeline)).file.pipeline.max_deliveries
    return kit.truth.blamed[number] >= most - 3


def _ledger(kit: Kit, ends: Ends, losses: Losses, found: Balance) -> Iterator[str]:
    truth = kit.truth
    if found.imbalance or found.findings:
        yield f"the ledger does not balance: {found.imbalance} {found.findings}"
    if found.in_flight:
        yield f"{found.in_flight} events are in flight by the ledger"
    if found.accepted != truth.file_events:
        yield f"the ledger accepted {found.accepted} events of files; there are {truth.file_events}"
    rows = ends.facts.total() + ends.echoes.total()
    if not truth.flushes:
        certain = len(truth.foreign)
        if not certain <= found.foreign <= certain + len(truth.unsure):
            yield f"the ledger has {found.foreign} foreign events; {certain} were acknowledged"
        if found.duplicates:
            yield f"the ledger counts {found.duplicates} duplicates, and nothing was read twice"
        if found.loaded != rows:
            yield f"the ledger loaded {found.loaded}; there are {rows} rows"
        if found.lost != len(losses.by_deletion):
            yield f"the ledger lost {found.lost}; of the deleted entries {len(losses.by_deletion)} events are missing"
    elif not len([one for one in losses.by_deletion if one in truth.deleted]) <= found.lost <= len(truth.deleted):
        deleted = f"{len(truth.deleted)} events were deleted since the flush"
        yield f"the ledger lost {found.lost}; {deleted}, {len(losses.by_deletion)} are missing"


def _database(kit: Kit, ends: Ends) -> Iterator[str]:
    rows = ends.facts.total() + ends.echoes.total()
    with kit.ground.database() as connection:
        (recorded,) = connection.execute(_LOADED).fetchone() or (0,)
        if recorded != rows:
            yield f"the load ledger has {recorded} loaded events; the tables have {rows} rows"
        for table, recount in _RECOUNTS.items():
            (different,) = connection.execute(_DIFFERENCE.format(table, recount).encode()).fetchone() or (0,)
            if different:
                yield f"rollup {table} differs from a recount in {different} rows"


def _operator(kit: Kit) -> Iterator[str]:
    """What the operator is told has to be as good as what the kit counts."""
    for command in ("reconcile", "status"):
        if (code := kit.run(command)) != 0:
            yield f"`bargeline {command}` ends with {code}"


def _groups(kit: Kit) -> Iterator[str]:
    for stage in STAGES:
        if pending := kit.pending(stage):
            yield f"{len(pending)} entries of {stage} are pending at the end"


def _some(truth: Truth, found: Iterable[int]) -> str:
    named = [f"{number} ({truth.kinds.get(number, 'unsure')})" for number in sorted(found)[:_SHOWN]]
    return ", ".join(named)


def _where(ends: Ends, number: int) -> str:
    places = (f"facts {ends.facts[number]}", f"echoes {ends.echoes[number]}", f"dead {ends.dead.get(number, [])}")
    return f"[{', '.join(places)}]"


def _lines(kit: Kit, seed: int, ends: Ends, losses: Losses, found: Balance) -> list[str]:
    truth = kit.truth
    reasons = Counter(reason for reasons in ends.dead.values() for reason in reasons)
    took = Counter(truth.deleted.get(one) or truth.deleted_before[one] for one in losses.by_deletion)
    took += Counter(truth.destroyed[one] for one in losses.by_flush)
    explained = "".join(f"\n  {count} by {line}" for line, count in took.items())
    unsure = sum(1 for one in truth.unsure if ends.facts[one] or ends.dead.get(one))
    blamed = "".join(f"\n  {_some(truth, [one])} at {truth.blamed[one]} strikes" for one in losses.blamed)
    lines = {
        "accepted": f"{len(truth.kinds):,}: {truth.file_events:,} in files, {len(truth.foreign):,} foreign ones "
        f"(and {unsure} of {len(truth.unsure)} whose answer was lost)",
        "loaded": f"{ends.facts.total():,} facts and {ends.echoes.total():,} echoes",
        "dead": f"{reasons.total():,}: {', '.join(f'{name} {count}' for name, count in sorted(reasons.items()))}",
        "blamed": f"{len(losses.blamed)} innocent events that looked like poison: in hand at too many strikes{blamed}",
        "lost": f"{len(losses.unexplained)}, and {took.total()} that faults destroyed{explained}",
        "duplicates": f"{_surplus(ends)} in tables",
        "ledger": f"epoch {found.epoch}: imbalance {found.imbalance}, in flight {found.in_flight}, lost {found.lost}, "
        f"duplicates {found.duplicates}; {truth.flushes} epochs before it ended by FLUSHALL",
        "missed": f"{kit.missed} strikes found nothing to strike at",
        "hand-over": str(kit.handovers),
        "seed": str(seed),
    }
    return [f"{name:12}{text}" for name, text in lines.items()]


def _surplus(ends: Ends) -> int:
    """Rows beyond one of each number in each table."""
    return sum(counter.total() - len(counter) for counter in (ends.facts, ends.echoes))
