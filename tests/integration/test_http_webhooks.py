"""Webhooks as a real process: senders that sign by the published protocols are accepted, all else is refused."""

import base64
import gzip
import hashlib
import hmac
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from standardwebhooks import Webhook

from tests import workers
from tests.receiving import GITHUB_SECRET, HOOKS, NEW_KEY, OLD_KEY, SECRETS, Receiver, receiving
from tests.wait import until

ORDER = json.dumps({"id": 820982911946154508, "total_price": "403.00", "customer": None}).encode()
SHOP, STANDARD, HUB = "/webhooks/shop", "/webhooks/standard", "/webhooks/hub"


@pytest.fixture(scope="module")
def receiver(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    name = f"test-{secrets.token_hex(6)}"
    folder = tmp_path_factory.mktemp("http")
    (folder / "secrets").write_text(SECRETS)
    with receiving(redis_url, folder / "p", name, hooks=HOOKS, INGEST_WEBHOOK_SECRETS_FILE=folder / "secrets") as found:
        yield found
        log = found.worker.log_text() + found.worker.get("/metrics")[1]
        assert not any(word in log for word in ("hush", "old-secret", "s3cr3t-token", OLD_KEY, GITHUB_SECRET))
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*client.scan_iter(match=f"{{{name}*", count=1_000))


def _shopify(body: bytes, secret: str = "hush", delivery: str | None = None) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    return {
        "X-Shopify-Hmac-Sha256": base64.b64encode(digest).decode(),
        "X-Shopify-Webhook-Id": delivery or secrets.token_hex(8),
        "X-Shopify-Topic": "orders/create",
    }


def _standard(
    body: bytes, key: str = NEW_KEY, *, delivery: str = "msg_1", age: timedelta | None = None
) -> dict[str, str]:
    sent = datetime.now(UTC) - (age or timedelta(0))
    return {
        "webhook-id": delivery,
        "webhook-timestamp": str(int(sent.timestamp())),
        "webhook-signature": Webhook(key).sign(delivery, sent, body.decode()),
    }


def _refused(receiver: Receiver, response: httpx.Response, webhook: str, reason: str, before: int) -> None:
    assert (response.status_code, response.headers["content-type"]) == (401, "application/problem+json")
    assert response.headers["www-authenticate"]
    assert response.json()["reason"] == reason
    assert _count(receiver, webhook, reason) == before + 1


def _count(receiver: Receiver, webhook: str, reason: str) -> int:
    return receiver.counted("refused_deliveries", webhook=webhook, reason=reason)


def test_an_order_of_shopify_sent_five_times_has_one_id(receiver: Receiver) -> None:
    headers = _shopify(ORDER)
    found = [receiver.added(receiver.post(SHOP, ORDER, headers=headers)) for _ in range(5)]
    assert len({event["id"] for (event,) in found}) == 1
    ((event,), *_) = found
    assert event["type"] == "orders/create"
    assert event["data"]["id"] == 820982911946154508
    assert event["source"] == "http/webhooks/shop"
    (other,) = receiver.added(receiver.post(SHOP, ORDER, headers=_shopify(ORDER)))
    assert other["id"] != event["id"], "another delivery is another event"


def test_without_a_header_for_the_type_the_configured_one_counts(receiver: Receiver) -> None:
    headers = _shopify(ORDER)
    del headers["X-Shopify-Topic"]
    (event,) = receiver.added(receiver.post(SHOP, ORDER, headers=headers))
    assert event["type"] == "order"


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (ORDER + b" ", _shopify(ORDER), "mismatch"),
        (ORDER[:-1], _shopify(ORDER), "mismatch"),
        (ORDER, _shopify(ORDER, "another secret"), "mismatch"),
        (ORDER, _shopify(ORDER) | {"X-Shopify-Hmac-Sha256": "no base64 é"}, "mismatch"),
        (ORDER, {}, "missing"),
        (ORDER, {"X-Shopify-Hmac-Sha256": ""}, "missing"),
    ],
)
def test_orders_that_are_not_genuine(receiver: Receiver, body: bytes, headers: dict[str, str], reason: str) -> None:
    before = _count(receiver, "shop", reason)
    accepted = receiver.stored.counter("accepted")
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    _refused(receiver, receiver.post(SHOP, body, headers=sent), "shop", reason, before)
    assert receiver.stored.counter("accepted") == accepted


def test_an_order_that_breaks_off_is_counted(receiver: Receiver) -> None:
    before = _count(receiver, "shop", "truncated")
    host, port = receiver.address.split(":")
    head = f"POST {SHOP} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(ORDER)}\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in _shopify(ORDER).items())
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}{lines}\r\n".encode() + ORDER[:-5])
    until(lambda: _count(receiver, "shop", "truncated") == before + 1, what="the delivery to be counted")


def test_the_signature_is_of_the_body_as_it_was_sent(receiver: Receiver) -> None:
    body = gzip.compress(ORDER)
    assert receiver.post(SHOP, body, headers=_shopify(body) | {"Content-Encoding": "gzip"}).status_code == 202
    assert receiver.post(SHOP, body, headers=_shopify(ORDER) | {"Content-Encoding": "gzip"}).status_code == 401


def test_a_genuine_delivery_that_is_no_event(receiver: Receiver) -> None:
    body = b'["text"]'
    response = receiver.post(SHOP, body, headers=_shopify(body))
    assert (response.status_code, response.json()["index"]) == (422, 0)


@pytest.mark.parametrize("key", [OLD_KEY, NEW_KEY])
def test_standard_webhooks_by_either_key_of_a_rotation(receiver: Receiver, key: str) -> None:
    (event,) = receiver.added(receiver.post(STANDARD, b'{"a":"\xc3\xa9"}', headers=_standard(b'{"a":"\xc3\xa9"}', key)))
    assert event["type"] == "click", "that of [ingest]"


def test_standard_webhooks_signed_by_two_keys_of_which_one_is_known(receiver: Receiver) -> None:
    headers = _standard(b"{}")
    unknown = Webhook("whsec_" + base64.b64encode(b"unknown").decode()).sign("msg_1", datetime.now(UTC), "{}")
    headers["webhook-signature"] = f"v1a,xyz {unknown} {headers['webhook-signature']}"
    assert receiver.post(STANDARD, b"{}", headers=headers).status_code == 202


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        # Made when they are sent: they are stale after five minutes, and the tests take longer.
        (lambda: _standard(b"{}", age=timedelta(minutes=6)), "stale"),
        (lambda: _standard(b"{}", age=timedelta(minutes=-6)), "stale"),
        (lambda: _standard(b'{"a":1}'), "mismatch"),
        (lambda: _standard(b"{}") | {"webhook-id": "msg_2"}, "mismatch"),
        (lambda: _standard(b"{}") | {"webhook-timestamp": "soon"}, "mismatch"),
        (lambda: _standard(b"{}", "whsec_" + base64.b64encode(b"unknown").decode()), "mismatch"),
        (
            lambda: {name: value for name, value in _standard(b"{}").items() if name != "webhook-timestamp"},
            "missing",
        ),
    ],
)
def test_standard_webhooks_that_are_not_genuine(
    receiver: Receiver, make: Callable[[], dict[str, str]], reason: str
) -> None:
    before = _count(receiver, "standard", reason)
    _refused(receiver, receiver.post(STANDARD, b"{}", headers=make()), "standard", reason, before)


def test_a_resend_of_standard_webhooks_is_signed_anew_and_has_the_same_id(receiver: Receiver) -> None:
    early = receiver.post(STANDARD, b"{}", headers=_standard(b"{}", delivery="msg_9", age=timedelta(minutes=4)))
    late = receiver.post(STANDARD, b"{}", headers=_standard(b"{}", delivery="msg_9"))
    assert early.json() == late.json()


def test_github(receiver: Receiver) -> None:
    body = b'{"zen":"Keep it logically awesome."}'
    headers = {
        "X-Hub-Signature-256": "sha256=" + hmac.new(GITHUB_SECRET.encode(), body, hashlib.sha256).hexdigest(),
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    }
    (first,), (second,) = (receiver.added(receiver.post(HUB, body, headers=headers)) for _ in range(2))
    assert first["id"] == second["id"]
    bare = headers | {"X-Hub-Signature-256": headers["X-Hub-Signature-256"].removeprefix("sha256=")}
    before = _count(receiver, "hub", "mismatch")
    _refused(receiver, receiver.post(HUB, body, headers=bare), "hub", "mismatch", before)


@pytest.mark.parametrize("secret", ["old-secret", "new-secret"])
def test_a_signature_as_it_was_configured(receiver: Receiver, secret: str) -> None:
    digest = base64.b64encode(hmac.new(secret.encode(), b"{}", "sha512").digest()).decode()
    headers = {"X-Signature": f"v1:{digest}", "X-Delivery": secret}
    (first,), (second,) = (receiver.added(receiver.post("/webhooks/plain", b"{}", headers=headers)) for _ in range(2))
    assert first["id"] == second["id"]
    assert receiver.post("/webhooks/plain", b"{}", headers={"X-Signature": digest}).status_code == 401


def test_a_token(receiver: Receiver) -> None:
    def status(value: str) -> int:
        return receiver.post("/webhooks/token", b"{}", headers={"Authorization": value}).status_code

    assert [status(f"{scheme} s3cr3t-token") for scheme in ("Bearer", "bearer")] == [202, 202]
    assert [status(value) for value in ("Bearer s3cr3t", "Bearer", "Basic s3cr3t-token", "s3cr3t-token")] == [401] * 4
    response = receiver.post("/webhooks/token", b"{}")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


def test_secrets_that_do_not_fit_end_the_process(redis_url: str, tmp_path: Path) -> None:
    folder = workers.make_pipeline(tmp_path / "p", "never", append=HOOKS)
    given: dict[str, Any] = {
        "INGEST_SOURCE": "http",
        "INGEST_HTTP_PORT": 0,
        "INGEST_WEBHOOK_SECRETS": "shop=hush\nhush2",
    }
    worker = workers.start("ingest", redis_url, "", folder, **given)
    try:
        assert worker.wait() == 2
        assert "INGEST_WEBHOOK_SECRETS: line 2 is not <name>=<secret>" in worker.log_text()
        assert "hush" not in worker.log_text()
    finally:
        workers.end(worker)
