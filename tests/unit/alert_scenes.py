"""A whole fleet's series for half an hour in which nothing is wrong. No alert may fire in any of these scenes."""

from tests.unit.alert_cases import IN, JN, LD, TF, Series, consumers, gauge, group, info

TF2 = TF.replace("tf-1", "tf-2")


def fleet(**changed: Series) -> Series:
    """One worker of each kind and a second transform, idle; each keyword replaces or adds series."""
    series: Series = {}
    for scrape, kind in ((TF, "transform"), (TF2, "transform"), (LD, "loader"), (IN, "ingest"), (JN, "janitor")):
        series[f"up{{{scrape}}}"] = "1x130"
        series[f"process_start_time_seconds{{{scrape}}}"] = "-9000x130"
        series[info(scrape, kind)] = "1x130"
    for name in ("transform", "loader"):
        for scrape in (JN, TF if name == "transform" else LD):
            series |= {
                gauge("group_lag_events", scrape, group=name): "0x130",
                gauge("group_lag_seconds", scrape, group=name): "0x130",
                gauge("group_pending_entries", scrape, group=name): "0x130",
                gauge("group_added_events_total", scrape, group=name): "5000x130",
                gauge("group_settled_events_total", scrape, group=name): "5000x130",
            }
    series |= consumers("1x130", "0x130", "0x130")
    for stage in ("raw", "clean"):
        series |= {gauge("backpressure_active", stage=stage): "0x130", gauge("breaker_open", stage=stage): "0x130"}
    series |= {
        gauge("ledger_imbalance_events"): "0x130",
        gauge("dead_letter_events"): "12x130",
        gauge("redis_memory_ratio"): "0.2x130",
        gauge("cdc_slot_retained_bytes", IN, slot="s"): "16777216x130",
        gauge("events_total", TF, stage="transform", outcome="mapped"): "5000x130",
        gauge("events_total", TF, stage="transform", outcome="retried"): "40x130",
        gauge("consumer_pending_entries", group="loader", consumer="ld-1"): "0x130",
        gauge("consumer_idle_seconds", group="loader", consumer="ld-1"): "1x130",
    }
    for change in changed.values():
        series |= change
    return series


def _all(values: str, *names: str) -> Series:
    """The same values for metrics of the loader's group, as its worker and the janitor tell them."""
    return {group(name, scrape): values for name in names for scrape in (JN, LD)}


def _young() -> Series:
    """Every process started a moment ago: nothing has a history, and nobody has read yet."""
    return {
        name: "0x130" if name.startswith("process") else f"_x2 {values}"
        for name, values in fleet(new=consumers("0x2 1x128", "0x130", "0x130")).items()
    }


#: On servers before Redis 7.2 a consumer that waits for new entries counts as idle.
_SEVEN = consumers("0x130", "1x130", "0x130") | {
    gauge("consumer_idle_seconds", group="loader", consumer="ld-1"): "0+15x130"
}

SCENES: dict[str, Series] = {
    "idle": fleet(),
    "idle on Redis 7.0": fleet(idle=_SEVEN),
    "just started": _young(),
    "a large file: under pressure for ten minutes, the oldest a few seconds old": fleet(
        pressure={gauge("backpressure_active", stage=stage): "0x20 1x40 0x70" for stage in ("raw", "clean")},
        age=_all("0x20 8x40 0x70", "group_lag_seconds"),
        lag=_all("0x20 150000x40 0x70", "group_lag_events"),
        came=_all("5000x20 205000+375000x40 15205000x70", "group_added_events_total"),
        went=_all("5000x20 5000+375000x40 15205000x70", "group_settled_events_total"),
        pending=_all("0x20 900x40 0x70", "group_pending_entries"),
    ),
    "a worker is gone after scaling down": fleet(
        gone={
            f"up{{{TF2}}}": "1x40 0 stale",
            f"process_start_time_seconds{{{TF2}}}": "-9000x40 stale",
            info(TF2, "transform"): "1x40 stale",
            gauge("consumers", group="loader", state="dead"): "0x40 1x5 0x90",
        }
    ),
    "every worker is restarted, one after the other": fleet(
        restarted={
            f"{name}{{{scrape}}}": values
            for at, scrape in ((20, TF), (22, TF2), (24, LD), (26, IN), (28, JN))
            for name, values in (
                ("up", f"1x{at} 0x1 1x90"),
                ("process_start_time_seconds", f"-9000x{at} _ _ {at * 15}x90"),
            )
        },
        away={
            info(LD, "loader"): "1x24 stale _ 1x90",
            info(JN, "janitor"): "1x28 stale _ 1x90",
            info(IN, "ingest"): "1x26 stale _ 1x90",
            gauge("consumers", group="loader", state="live"): "1x24 0 0 1x90",
            gauge("consumers", group="loader", state="dead"): "0x24 1 1 0x90",
        },
        counters={gauge("events_total", TF, stage="transform", outcome="retried"): "40x20 _ _ 0x90"},
    ),
    "after a flush the ledger begins anew": fleet(
        flushed=_all("5000x20 0x110", "group_added_events_total", "group_settled_events_total")
        | {gauge("dead_letter_events"): "12x20 0x110"}
    ),
    "a minute without Redis": fleet(
        away={
            name: values.replace("x130", "x20 stale _ _ _ ") + values.replace("x130", "x100")
            for name, values in fleet().items()
            if "group_" in name or "consumer" in name
        }
    ),
}
