"""Clock skew between this machine, Redis and PostgreSQL."""

from itertools import combinations

from bargeline.doctor.report import Finding, Verdict
from shared.streams.server import Clock

#: Clocks that are kept by NTP agree within milliseconds; the first retry comes after one second.
SKEW_SECONDS = 1.0


def skew(of: str, clocks: dict[str, Clock]) -> Verdict:
    """Compare the clock ``of`` a server with the others (each as its offset from this machine's), less what the
    round trips hide."""
    known = {"this machine": Clock(0.0, 0.0), **clocks}
    found = []
    for (one, a), (other, b) in combinations(known.items(), 2):
        if of not in (one, other):
            continue
        apart = abs(b.offset_seconds - a.offset_seconds) - a.uncertainty_seconds - b.uncertainty_seconds
        if apart > SKEW_SECONDS:
            ahead = other if b.offset_seconds > a.offset_seconds else one
            behind = one if ahead == other else other
            found.append(
                Finding(
                    "clock_skew",
                    "warning",
                    f"The clock of {ahead} is at least {apart:,.1f} s ahead of that of {behind}.",
                    "Ages, latencies and the times of retries are wrong by so much; entry ids carry Redis' time.",
                    "Let all of them be kept by NTP (`timedatectl`, `chronyc tracking`).",
                    {"ahead": ahead, "behind": behind, "seconds": apart},
                )
            )
    return Verdict(f"{', '.join(known)} agree within {SKEW_SECONDS:.0f} s", found)
