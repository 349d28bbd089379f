"""Orders: check what a shop sends, count the items, and work out what one costs on average.

Takes the body of Shopify's order webhooks, and whatever else has these fields. Prices stay decimals: 0.1 + 0.2 = 0.3.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from bargeline import Event

#: A price is below this.
PRICE_LIMIT = 10**12
#: What an average is rounded to.
AVERAGE_STEP = Decimal("0.0001")

#: Values of ``financial_status``; what was refunded was paid before.
WAS_PAID = ("paid", "partially_refunded", "refunded")

Whole = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
State = Literal["new", "paid", "shipped", "cancelled"]


class Customer(msgspec.Struct):
    """Who ordered; a guest has no id."""

    id: Whole | None = None


class LineItem(msgspec.Struct):
    """So many of one thing, and what one of them costs."""

    title: str
    quantity: Annotated[int, msgspec.Meta(ge=0, le=10**6)]
    price: Decimal
    sku: str | None = None

    def __post_init__(self) -> None:
        _check_price(self.price)


class Order(msgspec.Struct):
    """One order in one state. ``state`` is for senders that have one; else the other fields tell it."""

    id: Whole
    line_items: list[LineItem]
    total_price: Decimal
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    customer: Customer | None = None
    email: str | None = None
    state: State | None = None
    financial_status: str | None = None
    fulfillment_status: str | None = None
    created_at: datetime | None = None
    cancelled_at: datetime | None = None

    def __post_init__(self) -> None:
        _check_price(self.total_price)


class OrderState(msgspec.Struct):
    """What the tables hold of an order. Prices are text, which a numeric column takes digit by digit."""

    order_id: int
    customer_id: int | None
    email: str | None
    state: State
    financial_status: str | None
    currency: str
    total_price: str
    item_count: int
    average_item_price: str | None
    created_at: datetime | None
    cancelled_at: datetime | None
    line_items: list[LineItem]


def derive(event: Event[Order]) -> tuple[Event[OrderState], Event[OrderState]]:
    """The order as it is now, for the table of orders, and the same as something that happened, for their history."""
    order = event.data
    item_count = sum(item.quantity for item in order.line_items)
    state = OrderState(
        order_id=order.id,
        customer_id=order.customer.id if order.customer else None,
        email=order.email or None,
        state=order.state or _state(order),
        financial_status=order.financial_status,
        currency=order.currency,
        total_price=str(order.total_price),
        item_count=item_count,
        average_item_price=_average_price(order.line_items, item_count),
        created_at=order.created_at,
        cancelled_at=order.cancelled_at,
        line_items=order.line_items,
    )
    return _event("order", event, state), _event("order_event", event, state)


def _event(kind: str, event: Event[Order], state: OrderState) -> Event[OrderState]:
    return Event(event.id, kind, event.source, event.time, state, event.key)


def _average_price(items: list[LineItem], count: int) -> str | None:
    """Of one item, before discounts, taxes and shipping; None where there are no items."""
    if not count:
        return None
    worth = sum((item.price * item.quantity for item in items), Decimal(0))
    return str((worth / count).quantize(AVERAGE_STEP))


def _state(order: Order) -> State:
    if order.cancelled_at:
        return "cancelled"
    if order.fulfillment_status == "fulfilled":
        return "shipped"
    return "paid" if order.financial_status in WAS_PAID else "new"


def _check_price(price: Decimal) -> None:
    """Decimals may also be NaN, infinite or 1E+999999."""
    if not (price.is_finite() and 0 <= price < PRICE_LIMIT):
        raise ValueError(f"{price} is no price")
