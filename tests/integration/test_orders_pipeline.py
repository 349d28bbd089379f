"""The pipeline orders as a whole: files and a shop's signed deliveries, through real workers, into its tables."""

import base64
import hashlib
import hmac
import itertools
import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from shared.accounting import Balance
from shared.streams import Client
from tests import workers
from tests.integration import protocol
from tests.receiving import Receiver, started
from tests.wait import until

SECRET = "hush"
ORDER: dict[str, Any] = {
    "id": 820982911946154508,
    "email": "ada@example.com",
    "customer": {"id": 115310627314723954, "email": "ada@example.com", "tags": ""},
    "line_items": [
        {"id": 1, "title": "Hat", "sku": "H-1", "quantity": 2, "price": "12.00", "grams": 80},
        {"id": 2, "title": "Belt", "sku": None, "quantity": 1, "price": "0.10", "grams": 200},
    ],
    "total_price": "24.10",
    "currency": "EUR",
    "financial_status": "pending",
    "fulfillment_status": None,
    "created_at": "2026-11-21T10:00:00+01:00",
    "updated_at": "2026-11-21T11:00:00+01:00",
    "cancelled_at": None,
}
HOURS = """SELECT to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24') AS hour, * FROM order_states_by_hour"""
_deliveries = itertools.count(1)


@pytest.fixture
def given(fitting: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return fitting("orders")


def _rows(given: dict[str, Any], query: str) -> list[dict[str, Any]]:
    with psycopg.connect(given["database_url"], row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def _settled(client: Client, accepted: int) -> Balance:
    def settled() -> bool:
        found = protocol.assert_law(client)
        return found.accepted == accepted and not found.in_flight

    until(settled, what=f"{accepted} events to be settled")
    return protocol.assert_law(client)


def _expected(orders: list[dict[str, Any]]) -> dict[int, tuple[Any, ...]]:
    """Of each order its newest state, worked out from the lines alone."""
    newest = {order["id"]: order for order in sorted(orders, key=lambda one: str(one["updated_at"]))}
    return {number: _expected_row(order) for number, order in newest.items()}


def _expected_row(order: dict[str, Any]) -> tuple[Any, ...]:
    quantities = [item["quantity"] for item in order["line_items"]]
    worth = sum(Decimal(item["price"]) * item["quantity"] for item in order["line_items"])
    return (
        order["state"],
        order.get("customer", {}).get("id"),
        Decimal(order["total_price"]),
        sum(quantities),
        round(worth / sum(quantities), 4),
    )


def _loaded(given: dict[str, Any]) -> dict[int, tuple[Any, ...]]:
    names = ("state", "customer_id", "total_price", "item_count", "average_item_price")
    return {row["order_id"]: tuple(row[name] for name in names) for row in _rows(given, "SELECT * FROM orders")}


def test_the_newest_state_of_each_order_stands_whatever_order_they_come_in(
    given: dict[str, Any], client: Client, tmp_path: Path
) -> None:
    sample = given["pipeline_folder"] / "sample.ndjson"
    lines = sample.read_bytes().splitlines(keepends=True)
    orders = [json.loads(line) for line in lines]
    states = Counter((order["updated_at"][:13], order["state"]) for order in orders)
    backwards = tmp_path / "backwards.ndjson"
    backwards.write_bytes(b"".join(reversed(lines)))
    with workers.running("transform", "loader", **given):
        # First each newest state before the others; then all others come to rows that are there.
        for times, path in enumerate((backwards, sample), 1):
            assert workers.start("ingest", **given, INGEST_PATH=path).wait() == 0
            count = times * len(orders)
            found = _settled(client, count)
            assert (found.fanned_out, found.dead, found.loaded + found.duplicates) == (count, 0, 2 * count)
            assert _loaded(given) == _expected(orders)
            hours = _rows(given, HOURS)
            counted = {(row["hour"], row["state"]): row["events"] for row in hours}
            assert counted == {key: times * events for key, events in states.items()}
    assert len(_rows(given, "SELECT FROM order_events")) == 2 * len(orders)
    guests = {order["id"] for order in orders if "customer" not in order}
    assert {row["order_id"] for row in _rows(given, "SELECT * FROM orders WHERE customer_id IS NULL")} == guests
    assert guests


def _deliver(shop: Receiver, times: int = 1, **changes: Any) -> None:
    """One delivery, signed as Shopify signs, sent so many times."""
    body = json.dumps(ORDER | changes).encode()
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).digest()
    headers = {
        "X-Shopify-Hmac-Sha256": base64.b64encode(digest).decode(),
        "X-Shopify-Webhook-Id": f"delivery-{next(_deliveries)}",
        "X-Shopify-Topic": "orders/updated",
    }
    for _ in range(times):
        response = shop.post("/webhooks/shopify", body, headers=headers)
        assert response.status_code == 202, response.text


def test_a_shops_deliveries_become_orders(given: dict[str, Any], client: Client, pipeline_name: str) -> None:
    shop = started(
        given["redis_url"], given["pipeline_folder"], pipeline_name, INGEST_WEBHOOK_SECRETS=f"shopify={SECRET}"
    )
    try:
        with workers.running("transform", "loader", **given):
            _deliver(shop, times=5)
            _settled(client, 5)
            (row,) = _rows(given, "SELECT * FROM orders")
            assert (row["order_id"], row["customer_id"]) == (820982911946154508, 115310627314723954)
            assert (row["state"], row["item_count"], row["total_price"]) == ("new", 3, Decimal("24.10"))
            assert row["average_item_price"] == Decimal("8.0333")
            assert str(row["total_price"]) == "24.10", "as many digits as were sent"
            assert row["payload"]["line_items"][1]["title"] == "Belt"
            _deliver(shop, financial_status="paid", updated_at="2026-11-21T12:00:00+01:00")
            _deliver(shop, financial_status="authorized", updated_at="2026-11-21T11:30:00+01:00")
            _deliver(shop, id=7, customer=None, email="", updated_at="2026-11-21T09:00:00+01:00")
            _deliver(shop, id=8, total_price="-1.00")
            found = _settled(client, 9)
        assert shop.worker.stop() == 0
    finally:
        shop.http.close()
        shop.stored.client.close()
        workers.end(shop.worker)
    rows = _rows(given, "SELECT order_id, state, customer_id, email FROM orders ORDER BY order_id DESC")
    assert [tuple(row.values()) for row in rows] == [
        (820982911946154508, "paid", 115310627314723954, "ada@example.com"),
        (7, "new", None, None),
    ]
    history = _rows(given, "SELECT order_id, financial_status FROM order_events ORDER BY occurred_at")
    assert [tuple(row.values()) for row in history] == [
        (7, "pending"),
        (820982911946154508, "pending"),
        (820982911946154508, "authorized"),
        (820982911946154508, "paid"),
    ]
    assert found.dead == 1
