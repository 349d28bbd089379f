"""The pages of a measurement: for the terminal, the README and the docs."""

from collections.abc import Sequence
from pathlib import Path

from bench import tables
from bench.result import Result

README = Path(__file__).parent.parent / "README.md"
CAPACITY = README.parent / "docs" / "capacity.md"
METHOD = Path(__file__).parent / "README.md"


def readme(result: Result) -> str:
    """Who did how many events, what the source http takes, and what was asked for."""
    return _page(tables.rounds(result), tables.http(result), tables.targets(result), tables.footnote(result))


def capacity(result: Result) -> str:
    """What to plan with."""
    return _page(
        tables.needs(result),
        tables.latency(result),
        tables.http(result),
        tables.recovery(result),
        tables.rolling(result.rolling),
        tables.footnote(result),
    )


def detail(result: Result) -> str:
    """Where the CPU time goes, and the floor's check."""
    return _page(tables.cpu(result), tables.check(result.checks), tables.footnote(result))


def growth(result: Result) -> str:
    """How it does with more of everything; raises ValueError for a measurement that has none of this."""
    if result.growth is None:
        raise ValueError("only `python -m bench --full` measures growth")
    return _page(tables.growth(result.growth), tables.footnote(result))


def everything(result: Result) -> str:
    """All tables, for the terminal; the targets come last, with what falls short."""
    more = [] if result.growth is None else [tables.growth(result.growth)]
    return _page(
        tables.rounds(result),
        tables.cpu(result),
        tables.check(result.checks),
        tables.needs(result),
        tables.latency(result),
        tables.http(result),
        tables.recovery(result),
        tables.rolling(result.rolling),
        *more,
        tables.footnote(result),
        tables.targets(result),
        tables.short(result),
    )


def write_between_markers(page: Path, table: str, name: str = "bench") -> None:
    """Put the table between the markers of that name; raises ValueError when they are not there."""
    start, end = markers(name)
    text = page.read_text()
    if start not in text or end not in text:
        raise ValueError(f"{page.name} has no {start} … {end}")
    head, _, rest = text.partition(start)
    tail = rest.partition(end)[2]
    page.write_text(f"{head}{start}\n{table}\n{end}{tail}")


def markers(name: str) -> tuple[str, str]:
    """Where a generated part begins and ends."""
    return f"<!-- {name}:start -->", f"<!-- {name}:end -->"


def _page(*parts: Sequence[str]) -> str:
    return "\n\n".join("\n".join(lines) for lines in parts)
