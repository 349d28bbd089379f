"""PromQL for the dashboards. Every query is of one pipeline, `$pipeline`, as chosen at the top of the page."""


def series(name: str, *matchers: str) -> str:
    """A metric of ours, without its prefix: ``series("events_total", 'outcome="dead"')``."""
    selected = ", ".join(('pipeline="$pipeline"', *matchers))
    return f"bargeline_{name}{{{selected}}}"


def rate(name: str, *matchers: str) -> str:
    """What a counter of ours rises by in a second, for each process."""
    return f"rate({series(name, *matchers)}[$__rate_interval])"


def rates(name: str, *by: str, matchers: tuple[str, ...] = ()) -> str:
    """What a counter of ours rises by in a second over all processes, for each value of the labels ``by``."""
    return f"sum by ({', '.join(by)}) ({rate(name, *matchers)})"


def rate_of_group(counter: str) -> str:
    """What a counter of the ledger rises by in a second; like a gauge, all processes of a group export it."""
    return f"max by (pipeline, group) ({rate(counter)})"


def of_group(gauge: str, *matchers: str) -> str:
    """A gauge of each group, which all of its workers and the janitor export: the highest counts."""
    return f"max by (pipeline, group) ({series(gauge, *matchers)})"


def of_stage(gauge: str) -> str:
    """A gauge of each stage, exported by several processes as well."""
    return f"max by (pipeline, stage) ({series(gauge)})"


def of_pipeline(gauge: str) -> str:
    """A gauge of the pipeline, exported by each janitor."""
    return f"max by (pipeline) ({series(gauge)})"


def quantile(share: float, histogram: str, *by: str, matchers: tuple[str, ...] = ()) -> str:
    """A quantile of a histogram of ours over all processes, or for each value of the labels ``by``."""
    return f"histogram_quantile({share}, {rates(f'{histogram}_bucket', *by, 'le', matchers=matchers)})"


def mean(histogram: str, *by: str, matchers: tuple[str, ...] = ()) -> str:
    """The mean of what a histogram of ours observed, for each value of the labels ``by``."""
    total, count = (rates(f"{histogram}_{part}", *by, matchers=matchers) for part in ("sum", "count"))
    return f"{total} / {count}"


def of_process(query: str) -> str:
    """A query on metrics that every Python program exports, kept to the processes of the pipeline."""
    return f"{query} and on (job, instance) {series('build_info')}"


#: From good to bad; a group's verdict is shown as its place here.
VERDICTS = ("ok", "slow", "stalled", "stopped")
_CLAIMS = [series("group_verdict", f'verdict="{word}"') + f" * {place}" for place, word in enumerate(VERDICTS)]
#: The processes of a group look at different moments: the worst that one of them says counts.
VERDICT = "max by (pipeline, group) (\n  {}\n)".format("\n  or ".join(_CLAIMS))
