"""The floor checked against itself: the servers spend their time on the floor's own commands and on nothing else.

Three comparisons, each a quotient whose median over the runs may be 1.1 at most:

- what the servers executed: the time of all commands and statements that they recorded ÷ that of the floor's own;
- PostgreSQL: CPU time of all its processes ÷ the time that pg_stat_statements attributes to the floor's COPY;
- Valkey: CPU time of all its threads ÷ the time of its event loop, which served the floor alone. A child that rewrites
  the append-only file is left out: the server begins one by itself whenever the file has doubled.

commandstats alone would not do for Valkey: it counts a command from its call to its end, neither the reading of 140 KB
from the socket nor the writing to the append-only file, which the event loop's time holds too.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psycopg
import redis

from bench.ground import Ground
from bench.processes import Measured

MOST = 1.1
_OWN_COMMANDS = ("xadd", "xreadgroup", "xack", "xgroup|create")
_OWN_STATEMENT = "COPY clicks"


class SelfCheck(msgspec.Struct, frozen=True):
    """Seconds in one run of the floor, and what they are compared with."""

    executed_seconds: float
    own_seconds: float
    postgres_cpu_seconds: float
    statements_seconds: float
    valkey_cpu_seconds: float
    event_loop_seconds: float
    commands_seconds: float

    @property
    def ratios(self) -> dict[str, float]:
        """The three quotients that the floor has to pass."""
        return {
            "all commands ÷ the floor's own": self.executed_seconds / self.own_seconds,
            "PostgreSQL, CPU ÷ pg_stat_statements": self.postgres_cpu_seconds / self.statements_seconds,
            "Valkey, CPU ÷ event loop": self.valkey_cpu_seconds / self.event_loop_seconds,
        }

    @property
    def attributed_ratio(self) -> float:
        """CPU of both servers ÷ what commandstats and pg_stat_statements attribute; told, not judged."""
        cpu = self.valkey_cpu_seconds + self.postgres_cpu_seconds
        return cpu / (self.commands_seconds + self.statements_seconds)


def checked(ground: Ground, measure: Callable[[Ground], Measured]) -> tuple[Measured, SelfCheck]:
    """Measure the floor, and what the servers themselves recorded meanwhile."""
    with redis.Redis.from_url(ground.redis_url) as client, psycopg.connect(ground.database_url) as connection:
        connection.execute("SELECT pg_stat_statements_reset()")
        connection.commit()
        client.config_resetstat()
        loop_before, cpu_before = _event_loop(client), _cpu(client)
        measured = measure(ground)
        loop, cpu = _event_loop(client) - loop_before, _cpu(client) - cpu_before
        commands = {name.removeprefix("cmdstat_"): one["usec"] / 1e6 for name, one in _commands(client).items()}
        query = "SELECT query, total_exec_time / 1000 FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_%'"
        statements = connection.execute(query).fetchall()
    own_commands = sum(commands.get(name, 0.0) for name in _OWN_COMMANDS)
    own_statements = sum(seconds for text, seconds in statements if text.startswith(_OWN_STATEMENT))
    # Our own questions before and after are not the floor's either, but they are no load of anybody.
    foreign = sum(seconds for name, seconds in commands.items() if name not in (*_OWN_COMMANDS, "info"))
    return measured, SelfCheck(
        executed_seconds=own_commands + foreign + sum(seconds for _, seconds in statements),
        own_seconds=own_commands + own_statements,
        postgres_cpu_seconds=measured.cpu_seconds["postgres"],
        statements_seconds=own_statements,
        valkey_cpu_seconds=cpu,
        event_loop_seconds=loop,
        commands_seconds=own_commands,
    )


def medians(checks: Sequence[SelfCheck]) -> dict[str, float]:
    """Each quotient's median over the runs; none where the floor did not run."""
    names = checks[0].ratios if checks else ()
    return {name: statistics.median(check.ratios[name] for check in checks) for name in names}


def failures(checks: Sequence[SelfCheck]) -> list[str]:
    """Quotients above the limit, in words."""
    return [f"{name} = {ratio:.2f}, more than {MOST}" for name, ratio in medians(checks).items() if ratio > MOST]


def _event_loop(client: redis.Redis) -> float:
    return float(client.info("stats")["eventloop_duration_sum"]) / 1e6


def _cpu(client: redis.Redis) -> float:
    found = client.info("cpu")
    return float(found["used_cpu_user"] + found["used_cpu_sys"])


def _commands(client: redis.Redis) -> dict[str, Any]:
    return dict(client.info("commandstats"))
