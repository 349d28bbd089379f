"""From somebody's NDJSON to a typed table in three commands, nothing edited: three shapes that nobody foresaw."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from shared.accounting import balance
from shared.streams import Client
from shared.streams.inspect import figures
from shared.topology import Topology
from tests.workers import ROOT, Ran

pytestmark = pytest.mark.acceptance

EVENTS = 1_200


@dataclass(frozen=True)
class Bench:
    """A folder with a file of events, and the environment in which somebody runs the command."""

    folder: Path
    pipeline: str
    environment: Mapping[str, str]

    def run(self, *arguments: str, inside: bool = True, **env: str) -> Ran:
        """Run the command within the pipeline's folder, or beside it; ``env`` are more variables."""
        done = subprocess.run(
            [sys.executable, "-m", "bargeline.cli", *arguments],
            cwd=self.folder / self.pipeline if inside else self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment, **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def bench(tmp_path: Path, pipeline_name: str, redis_url: str, empty_database_url: str) -> Bench:
    return Bench(tmp_path, pipeline_name, {"REDIS_URL": redis_url, "DATABASE_URL": empty_database_url})


@contextmanager
def loaded(bench: Bench, name: str, events: Sequence[Any]) -> Iterator[tuple[psycopg.Connection[Any], dict[str, str]]]:
    """The three commands; then a connection to the database and the types of the table's columns."""
    (bench.folder / name).write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in events))
    bench.run("init", bench.pipeline, "--sample", name, inside=False)
    try:
        bench.run("up")
        carried = bench.run("ingest", f"../{name}", "--wait")
        assert f"{len(events):,} events accepted; all settled" in carried.out
        client = Client(bench.environment["REDIS_URL"], Topology(bench.pipeline))
        law = balance(bench.pipeline, figures(client))
        client.close()
        assert (law.accepted, law.loaded, law.dead, law.imbalance) == (len(events), len(events), 0, 0)
        with psycopg.connect(bench.environment["DATABASE_URL"], autocommit=True) as connection:
            rows = connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s "
                "ORDER BY ordinal_position",
                (name.partition(".")[0],),
            ).fetchall()
            yield connection, dict(rows)
    finally:
        bench.run("down")


def _one(connection: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return tuple(row)


def _orders() -> list[Any]:
    draw = random.Random(1)
    return [
        {
            "order": number,
            "placed_at": f"2026-11-{1 + number % 28:02}T09:14:07.{number % 1000:03}+01:00",
            "customer": {
                "id": f"c-{draw.randrange(100)}",
                "email": None if number % 10 == 0 else f"c{number}@example.com",
                "address": {"city": "Kraków", "zip": f"{number % 10_000:05}"},
            },
            "items": [{"sku": f"A-{item}", "qty": item + 1} for item in range(number % 4)],
            "total": number if number % 5 == 0 else number + 0.25,
            "paid": number % 3 == 0,
            "invoice": str(UUID(int=number + (4 << 76) + (2 << 62))),
            **({"coupon": "WINTER"} if number % 7 == 0 else {}),
        }
        for number in range(EVENTS)
    ]


def test_nested_orders(bench: Bench) -> None:
    with loaded(bench, "orders.ndjson", _orders()) as (connection, types):
        assert types == {
            "event_id": "uuid",
            "occurred_at": "timestamp with time zone",
            "order_": "bigint",
            "placed_at": "timestamp with time zone",
            "customer_id": "text",
            "customer_email": "text",
            "customer_address_city": "text",
            "customer_address_zip": "text",
            "items": "jsonb",
            "total": "double precision",
            "paid": "boolean",
            "invoice": "uuid",
            "coupon": "text",
            "payload": "jsonb",
        }
        counts = "count(*), count(DISTINCT order_), sum(order_), count(customer_email), count(coupon), sum(paid::int)"
        whole = sum(range(EVENTS))
        assert _one(connection, f"SELECT {counts} FROM orders") == (
            *(EVENTS, EVENTS, whole, EVENTS * 9 // 10),
            *(len(range(0, EVENTS, 7)), EVENTS // 3),
        )
        assert _one(connection, "SELECT sum(total), sum(jsonb_array_length(items)) FROM orders") == (
            whole + EVENTS * 4 // 5 * 0.25,
            EVENTS * 3 // 2,
        )
        assert _one(connection, "SELECT count(*) FROM orders WHERE occurred_at = placed_at") == (EVENTS,)
        assert _one(
            connection,
            "SELECT customer_address_zip, customer_address_city, placed_at::text, invoice::text, payload->'order' "
            "FROM (SELECT set_config('TimeZone', 'UTC', false)) zone, orders WHERE order_ = 7",
        ) == ("00007", "Kraków", "2026-11-08 08:14:07.007+00", "00000000-0000-4000-8000-000000000007", 7)


def _readings() -> list[Any]:
    readings: list[Any] = []
    for number in range(EVENTS):
        reading: dict[str, Any] = {
            "ts": 1_763_629_200_000 + number,
            "Sensor ID": number % 7 or "gate",
            "temp °C": 20 + number % 3 / 10,
        }
        if number % 2:
            reading["value"] = [number, "n/a", None, 1.5][number % 8 // 2]
        if number % 50 == 0:
            reading |= {"err": {"code": number, "text": ""}, "fw": f"{number:03}", "": "odd", "net.ip": "10.0.0.1"}
        if number % 100 == 0:
            reading |= {
                "net": {"ip": {"v6": "::1"}, "up": True},
                "raw": {"a": 1} if number % 200 else [1],
                "gone": None,
            }
        readings.append(reading)
    return readings


def test_ragged_sensor_lines(bench: Bench) -> None:
    with loaded(bench, "sensors.ndjson", _readings()) as (connection, types):
        assert types == {
            "event_id": "uuid",
            "occurred_at": "timestamp with time zone",
            "ts": "bigint",
            "sensor_id": "text",
            "temp_c": "double precision",
            "err_code": "bigint",
            "err_text": "text",
            "fw": "text",
            "field": "text",
            "net_ip": "text",
            "net_ip_v6": "text",
            "net_up": "boolean",
            "raw": "jsonb",
            "gone": "text",
            "value": "text",
            "payload": "jsonb",
        }
        seldom = EVENTS // 50
        names = "err_code, err_text, fw, field, net_ip, net_ip_v6, net_up, raw, gone, value"
        counts = ", ".join(f"count({name})" for name in names.split(", "))
        assert _one(connection, f"SELECT count(*), {counts} FROM sensors") == (
            *(EVENTS, seldom, seldom, seldom, seldom, seldom),
            *(seldom // 2, seldom // 2, seldom // 2, 0, EVENTS * 3 // 8),
        )
        assert _one(connection, "SELECT count(*) FROM sensors WHERE sensor_id = 'gate'") == (len(range(0, EVENTS, 7)),)
        assert _one(connection, "SELECT array_agg(DISTINCT value) FROM sensors WHERE value !~ '^[0-9]+$'") == (
            ["1.5", "n/a"],
        )
        assert _one(
            connection,
            "SELECT fw, field, net_ip, net_ip_v6, err_text, raw FROM sensors WHERE ts = 1763629200100",
        ) == ("100", "odd", "10.0.0.1", "::1", "", {"a": 1})
        assert _one(
            connection,
            "SELECT count(*) FROM sensors "
            "WHERE extract(epoch FROM occurred_at) * 1000 = ts AND payload->>'ts' = ts::text",
        ) == (EVENTS,)


def _exported(number: int) -> dict[str, Any]:
    return {
        "ID": number,
        "order": f"O{number}",
        "user": "u",
        "User": number % 2 == 0,
        "table": 1,
        "select": "s",
        "from": "2026-11-21",
        "to": "" if number % 2 else "2026-11-22",
        "Date": f"2026-{1 + number % 12:02}-01",
        "Amount (EUR)": round(number / 100, 2),
        "amount_text": f"{number}.50",
        "Qty": str(number % 9),
        "1st": number % 2,
        "Größe": 1.5,
        "50 %": 2,
        'quo"te': "it's",
        "tab\there": "a\tb\\n\nc",
        "ctid": 3,
        "xmin": 4,
        "event_id": f"e{number}",
        "payload": "p",
        "updated at": "2026-11-21 10:00:00",
        "guid": str(UUID(int=number)),
        "huge": 10**19 + number,
        "mixedNumber": number if number % 2 else str(number),
        "allNull": None,
        "isActive": True,
        "zip": "00501",
        "x" * 70: 1,
        "x" * 70 + "y": 2,
    }


def test_a_flat_export_of_thirty_columns(bench: Bench) -> None:
    assert len(_exported(0)) == 30
    verdict = f"{bench.pipeline}: all is well; looked at pipeline.toml, 1 migration, the transform, with 100 lines of "
    with loaded(bench, "export.ndjson", [_exported(number) for number in range(EVENTS)]) as (connection, types):
        assert types == {
            "bargeline_id": "uuid",
            "occurred_at": "timestamp with time zone",
            "id": "bigint",
            "order_": "text",
            "user_": "text",
            "user_2": "boolean",
            "table_": "bigint",
            "select_": "text",
            "from_": "date",
            "to_": "text",
            "date": "date",
            "amount_eur": "double precision",
            "amount_text": "text",
            "qty": "text",
            "_1st": "bigint",
            "größe": "double precision",
            "_50": "bigint",
            "quo_te": "text",
            "tab_here": "text",
            "ctid_": "bigint",
            "xmin_": "bigint",
            "event_id": "text",
            "payload": "text",
            "updated_at": "timestamp without time zone",
            "guid": "uuid",
            "huge": "numeric",
            "mixed_number": "text",
            "all_null": "text",
            "is_active": "boolean",
            "zip": "text",
            "x" * 63: "bigint",
            "x" * 61 + "_2": "bigint",
            "bargeline_payload": "jsonb",
        }
        # Another folder has no .env: the pipeline is that of the fleet.
        var = {"BARGELINE_VAR": str(bench.folder / bench.pipeline / "var")}
        again = bench.run("up", inside=False, **var).out
        assert "every worker is ready" in again
        assert "started" not in again
        assert bench.run("reconcile", inside=False, **var).out.startswith(f"{bench.pipeline}: ")
        assert bench.run("pipeline", "check", "--database").out == f"{verdict}sample.ndjson, 1 table in the database\n"
        assert _one(
            connection, "SELECT count(*), sum(id), sum(huge), max(date)::text, count(all_null) FROM export"
        ) == (
            EVENTS,
            sum(range(EVENTS)),
            Decimal(10**19 * EVENTS + sum(range(EVENTS))),
            "2026-12-01",
            0,
        )
        assert _one(
            connection,
            f"SELECT order_, user_2, amount_eur, tab_here, zip, to_, updated_at::text, mixed_number, {'x' * 61}_2, "
            "quo_te FROM export WHERE id = 1199",
        ) == ("O1199", False, 11.99, "a\tb\\n\nc", "00501", "", "2026-11-21 10:00:00", "1199", 2, "it's")
