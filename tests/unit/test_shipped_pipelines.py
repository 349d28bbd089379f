"""What the pipelines orders and sensors make of an event, by the worker's own handler and no server."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from shared import events
from shared.attributes import Attributes
from shared.entries import Entry, batch_fields
from shared.generate import orders, sensors
from shared.pipeline import load_pipeline
from workers.transform.check import check
from workers.transform.deadline import Deadline
from workers.transform.function import load_decoder, load_function
from workers.transform.handler import Handler, handle

MOMENT = events.parse_time("2026-11-21T10:00:00Z")
PARENT = events.SourceIds("s").id(1, b"")
HAT = {"title": "Hat", "sku": "H-1", "quantity": 2, "price": "12.00"}
BELT = {"title": "Belt", "sku": None, "quantity": 1, "price": "0.01"}
ORDER: dict[str, Any] = {
    "id": 820982911946154508,
    "email": "ada@example.com",
    "customer": {"id": 115310627314723954, "email": "ada@example.com", "first_name": "Ada"},
    "line_items": [HAT, BELT],
    "total_price": "29.01",
    "currency": "EUR",
    "financial_status": "paid",
    "fulfillment_status": None,
    "created_at": "2026-11-21T10:00:00+01:00",
    "updated_at": "2026-11-21T11:00:00+01:00",
    "cancelled_at": None,
    "test": False,
}
READING = {"sensor_id": "7", "temp": 21.5, "humidity": 40}


def _handled(
    name: str, *data: dict[str, Any], text: bool = False
) -> tuple[list[events.AnyEvent], list[dict[str, str]]]:
    """Events that come of these, and errors of the dead ones; nothing may be tried again."""
    pipeline = load_pipeline(name)
    handler = Handler(
        decode=load_decoder(pipeline),
        function=load_function(pipeline),
        batch=False,
        deadline=Deadline(30),
        attributes=Attributes(pipeline.file.ingest, pipeline.name),
        limits=pipeline.file.pipeline,
        stream="{p}:raw",
        consumer="tf-1",
    )
    lines = events.encode_lines([events.Event(PARENT, "t", "s", MOMENT, one, "k") for one in data])
    fields = [str(part).encode() if not isinstance(part, bytes) else part
              for part in batch_fields(lines, len(data), 5, text=text)]  # fmt: skip
    outcome = handle(handler, Entry("7-1", dict(zip(fields[::2], fields[1::2], strict=True))))
    assert outcome.retries == []
    letters = [dict(zip(letter[::2], letter[1::2], strict=True)) for letter in outcome.dead]
    errors = [msgspec.json.decode(letter["error"]) | {"reason": letter["reason"]} for letter in letters]
    made = b"".join(body for _, body in outcome.segments)
    return msgspec.json.Decoder(events.AnyEvent).decode_lines(made), errors


def _state(**changes: Any) -> dict[str, Any]:
    (order, _), errors = _handled("orders", ORDER | changes)
    assert errors == []
    found: dict[str, Any] = order.data
    return found


def _error(name: str, data: dict[str, Any], *, text: bool = False) -> dict[str, str]:
    made, (error,) = _handled(name, data, text=text)
    assert made == []
    return error


@pytest.mark.parametrize(("name", "made"), [("orders", orders(1, 100)), ("sensors", sensors(2, 100))])
def test_the_sample_is_what_the_generator_makes_and_goes_through(name: str, made: Any) -> None:
    pipeline = load_pipeline(name)
    lines = (pipeline.folder / "sample.ndjson").read_bytes().splitlines()
    assert [msgspec.json.decode(line) for line in lines] == list(made)
    report = check(pipeline)
    assert (report.findings, report.events) == ([], 100)


def test_of_an_order_two_events_are_made_with_ids_of_their_own() -> None:
    made, errors = _handled("orders", ORDER)
    assert errors == []
    assert [event.type for event in made] == ["order", "order_event"]
    assert [event.id for event in made] == [events.derived_id(PARENT, index) for index in (0, 1)]
    assert {(event.source, event.time, event.key) for event in made} == {("s", MOMENT, "k")}
    assert made[0].data == made[1].data


def test_what_is_derived_of_an_order() -> None:
    found = _state()
    assert found["order_id"] == 820982911946154508
    assert (found["customer_id"], found["email"]) == (115310627314723954, "ada@example.com")
    assert (found["item_count"], found["average_item_price"]) == (3, "8.0033")
    assert (found["state"], found["financial_status"], found["cancelled_at"]) == ("paid", "paid", None)
    assert [item["quantity"] for item in found["line_items"]] == [2, 1]


@pytest.mark.parametrize(
    ("guest", "email"), [({"customer": None}, None), ({"customer": {}}, ""), ({"customer": {"id": None}}, None)]
)
def test_guests_have_no_customer_and_are_kept(guest: dict[str, Any], email: str | None) -> None:
    found = _state(**guest, email=email)
    assert (found["customer_id"], found["email"]) == (None, None)
    assert found["order_id"] == ORDER["id"]


def test_a_guests_order_may_lack_the_field() -> None:
    guest = {name: value for name, value in ORDER.items() if name not in ("customer", "email")}
    (order, _), errors = _handled("orders", guest)
    assert (order.data["customer_id"], errors) == (None, [])


def test_prices_keep_every_digit() -> None:
    exact = "123456789012.123456789012345678"
    assert _state(total_price=exact)["total_price"] == exact
    tenths = [{"title": "a", "quantity": 1, "price": "0.10"}, {"title": "b", "quantity": 1, "price": 0.2}]
    assert Decimal(_state(line_items=tenths)["average_item_price"]) == Decimal("0.15")
    assert _state(total_price="12.00")["total_price"] == "12.00"


def test_an_order_of_nothing_has_no_average() -> None:
    assert [_state(line_items=[])[name] for name in ("item_count", "average_item_price")] == [0, None]
    assert _state(line_items=[HAT | {"quantity": 0}])["average_item_price"] is None


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"financial_status": "pending"}, "new"),
        ({"financial_status": None}, "new"),
        ({"financial_status": "paid"}, "paid"),
        ({"financial_status": "partially_refunded"}, "paid"),
        ({"fulfillment_status": "partial"}, "paid"),
        ({"fulfillment_status": "fulfilled"}, "shipped"),
        ({"fulfillment_status": "fulfilled", "cancelled_at": "2026-11-21T12:00:00+01:00"}, "cancelled"),
        ({"state": "shipped", "cancelled_at": "2026-11-21T12:00:00+01:00"}, "shipped"),
    ],
)
def test_the_state_is_the_senders_or_follows_from_the_other_fields(changes: dict[str, Any], state: str) -> None:
    assert _state(**changes)["state"] == state


@pytest.mark.parametrize(
    "price", ["NaN", "sNaN", "Infinity", "-0.01", "1E+12", "1E+999999999", "", "12,00", True, None]
)
def test_what_is_no_price_is_refused(price: Any) -> None:
    total = _error("orders", ORDER | {"total_price": price})
    item = _error("orders", ORDER | {"line_items": [HAT, BELT | {"price": price}]})
    assert [total["reason"], item["reason"]] == ["schema"] * 2
    assert "line_items[1]" in item["message"]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"id": 0}, ".data.id"),
        ({"id": 2**63}, ".data.id"),
        ({"id": "1001"}, ".data.id"),
        ({"currency": "euro"}, ".data.currency"),
        ({"line_items": None}, ".data.line_items"),
        ({"line_items": [HAT | {"quantity": -1}]}, ".data.line_items[0].quantity"),
        ({"line_items": [HAT | {"quantity": 1.5}]}, ".data.line_items[0].quantity"),
        ({"customer": {"id": "x"}}, ".data.customer.id"),
        ({"state": "lost"}, ".data.state"),
        ({"cancelled_at": "soon"}, ".data.cancelled_at"),
    ],
)
def test_an_order_that_does_not_fit_the_model_names_the_place(changes: dict[str, Any], place: str) -> None:
    error = _error("orders", ORDER | changes)
    assert error["reason"] == "schema"
    assert f"{place}`" in error["message"]


def test_a_reading_passes_and_its_sensor_is_text() -> None:
    made, errors = _handled("sensors", READING, READING | {"sensor_id": 7})
    assert errors == []
    assert [event.data for event in made] == [{"sensor_id": "7", "temp": 21.5, "humidity": 40.0}] * 2


def test_all_fields_of_a_reading_may_be_text_where_they_have_no_other_type() -> None:
    texts = {"sensor_id": "007", "temp": "21.5", "humidity": "40"}
    ((event,), errors) = _handled("sensors", texts, text=True)
    assert (event.data, errors) == ({"sensor_id": "007", "temp": 21.5, "humidity": 40.0}, [])
    assert _error("sensors", texts)["reason"] == "schema", "JSON has numbers, so there text is a mistake"


@pytest.mark.parametrize("more", [{"temp": "60"}, {"temp": "-100"}, {"humidity": "0"}, {"humidity": "100"}])
def test_the_bounds_themselves_are_within(more: dict[str, str]) -> None:
    texts = {"sensor_id": "7", "temp": "21.5", "humidity": "40"}
    assert _handled("sensors", texts | more, text=True)[1] == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"temp": "60.1"}, "temp is 60.1 °C, not from -100 to 60"),
        ({"temp": "-100.5"}, "temp is -100.5 °C"),
        ({"temp": "nan"}, "temp is nan"),
        ({"temp": "inf"}, "temp is inf"),
        ({"temp": "-inf"}, "temp is -inf"),
        ({"humidity": "100.1"}, "humidity is 100.1 %, not from 0 to 100"),
        ({"humidity": "-1"}, "humidity is -1 %"),
        ({"humidity": "nan"}, "humidity is nan"),
        ({"sensor_id": " "}, "sensor_id is empty"),
    ],
)
def test_a_reading_that_cannot_be_true_is_refused_alone(more: dict[str, str], message: str) -> None:
    texts = {"sensor_id": "7", "temp": "21.5", "humidity": "40"}
    made, (error,) = _handled("sensors", texts, texts | more, texts, text=True)
    assert len(made) == 2
    assert error["reason"] == "invalid"
    assert message in error["message"]


@pytest.mark.parametrize("missing", ["sensor_id", "temp", "humidity"])
def test_a_reading_needs_all_three(missing: str) -> None:
    error = _error("sensors", {name: value for name, value in READING.items() if name != missing})
    assert (error["reason"], f"`{missing}`" in error["message"]) == ("schema", True)
