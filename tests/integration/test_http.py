"""POST /events as a real process: what is sent is in Redis once it is answered, all of a request or none."""

import gzip
import json
import secrets
import socket
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
import zstandard
from cloudevents.core.bindings import http as binding
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tests.receiving import Receiver, receiving

NDJSON = "application/x-ndjson"
LIMIT = 100_000


@pytest.fixture(scope="module")
def receiver(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One process for all of these tests; they look only at events of their own."""
    name = f"test-{secrets.token_hex(6)}"
    folder = tmp_path_factory.mktemp("http") / "p"
    with receiving(redis_url, folder, name, INGEST_HTTP_MAX_BYTES=LIMIT, INGEST_SOURCE_NAME="gate") as found:
        yield found
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*client.scan_iter(match=f"{{{name}*", count=1_000))


def _data(events: list[dict[str, Any]]) -> list[Any]:
    return [event["data"] for event in events]


def test_an_object_an_array_and_lines(receiver: Receiver) -> None:
    (event,) = receiver.added(receiver.post("/events", '{\n "a": 1.10,\r\n "b": "é\\n"\n}'))
    assert event["data"] == {"a": 1.10, "b": "é\n"}
    assert (event["type"], event["source"]) == ("click", "gate/events")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(event["time"])).total_seconds()) < 60
    assert _data(receiver.added(receiver.post("/events", ' [{"a": 1}, {"a":\n2}]'))) == [{"a": 1}, {"a": 2}]
    assert _data(receiver.added(receiver.post("/events", '{"a":3}\r\n\n{"a":4}', NDJSON))) == [{"a": 3}, {"a": 4}]
    assert receiver.added(receiver.post("/events", '{"a":5}', None)), "without a Content-Type it is JSON"
    assert receiver.added(receiver.post("/events", "[]")) == []


def test_numbers_keep_their_digits(receiver: Receiver) -> None:
    response = receiver.post("/events", '{"n": 12345678901234567890.123456789012345678901}')
    body = b"".join(entry.fields[b"d"] for entry in receiver.stored.entries())
    assert response.json()["ids"][0].encode() in body
    assert b"12345678901234567890.123456789012345678901" in body


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", lambda body: gzip.compress(body[:7]) + gzip.compress(body[7:])),
        ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("Identity", bytes),
    ],
)
def test_compressed_bodies(receiver: Receiver, coding: str, encode: Any) -> None:
    body = b'{"n":1}\n' * 1_000
    response = receiver.post("/events", encode(body), NDJSON, headers={"Content-Encoding": coding})
    assert _data(receiver.added(response)) == [{"n": 1}] * 1_000


def test_a_resend_has_the_same_ids(receiver: Receiver) -> None:
    def ids(key: str, body: str = '[{"a":1},{"a":2}]') -> list[str]:
        found: list[str] = receiver.post("/events", body, headers={"Idempotency-Key": key}).json()["ids"]
        return found

    first = ids("k-1")
    assert len(set(first)) == 2
    assert ids("k-1") == first
    assert not set(ids("k-2")) & set(first)
    assert receiver.post("/events", "{}", headers={"Idempotency-Key": ""}).status_code == 400


def test_a_large_request_is_as_many_entries_as_it_needs_in_order(receiver: Receiver) -> None:
    before = len(receiver.stored.entries())
    response = receiver.post("/events", "".join(f'{{"n":{n}}}\n' for n in range(1_200)), NDJSON)
    assert _data(receiver.added(response)) == [{"n": n} for n in range(1_200)]
    assert [entry.events for entry in receiver.stored.entries()[before:]] == [500, 500, 200]


def test_cloudevents_structured_and_binary(receiver: Receiver) -> None:
    attributes = {
        "id": "A234",
        "source": "/mycontext/ü",
        "type": "com.example.someevent",
        "time": datetime(2018, 4, 5, 17, 31, tzinfo=UTC),
        "datacontenttype": "application/json",
        "partitionkey": "k 1",
    }
    event = CloudEvent(attributes, {"hello": "wörld"})
    found = []
    for message in (binding.to_structured(event, JSONFormat()), binding.to_binary(event, JSONFormat())):
        response = receiver.http.post("/events", content=message.body, headers=message.headers)
        found += receiver.added(response)
    assert found[0] == found[1], "both modes are the same event"
    assert {name: found[0][name] for name in ("type", "source", "key", "data")} == {
        "type": "com.example.someevent",
        "source": "/mycontext/ü",
        "key": "k 1",
        "data": {"hello": "wörld"},
    }
    assert datetime.fromisoformat(found[0]["time"]) == attributes["time"]


def test_cloudevents_in_a_batch(receiver: Receiver) -> None:
    one = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    batch = [
        one | {"data": {"n": 1}, "time": None},
        one | {"id": "2", "data_base64": "eyJuIjoyfQ==", "datacontenttype": "application/vnd.x+json"},
        one | {"source": "/other", "subject": "ignored"},
    ]
    response = receiver.post("/events", json.dumps(batch), "application/cloudevents-batch+json; charset=UTF-8")
    assert _data(receiver.added(response)) == [{"n": 1}, {"n": 2}, {}]
    ids = response.json()["ids"]
    assert len(set(ids)) == 3, "an id is unique only together with its source"
    again = receiver.post("/events", json.dumps(batch[0]), "application/cloudevents+json")
    assert again.json()["ids"] == ids[:1]


_CLOUD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
_DEEP = '{"a":' * 65 + "1" + "}" * 65


def _cloud(**more: Any) -> tuple[str, str]:
    return json.dumps(_CLOUD | more), "application/cloudevents+json"


@pytest.mark.parametrize(
    ("status", "body", "kind", "detail"),
    [
        (400, "", "application/json", "empty"),
        (400, '{"a":', "application/json", "event 0: no JSON"),
        (400, '[{"a":1},{"a"}]', "application/json", "no JSON array"),
        (400, '{"a":1}\n{"a":1}x\n', NDJSON, "event 1: no JSON"),
        (400, b'{"a":"\xff"}', "application/json", "event 0: no JSON"),
        (400, '{"a":1}{"b":2}', "application/json", "trailing"),
        (415, '{"a":1}', "text/plain", "send application/json"),
        (415, "a=1", "application/x-www-form-urlencoded", "send application/json"),
        (415, '{"a":1}', "application/json; charset=latin-1", "charset"),
        (422, "5", "application/json", "event 0: no JSON object"),
        (422, '[{"a":1},[2]]', "application/json", "event 1: no JSON object"),
        (422, '{"a":1e999}', "application/json", "out of range"),
        (422, _DEEP, "application/json", "deeper than 64"),
        (422, '[{"a":' + "[" * 49_000 + "]" * 49_000 + "}]", "application/json", "deeper than 64"),
        (422, '{"a":' + "[" * 49_000 + "]" * 49_000 + "}", "application/json", "deeper than 64"),
        (422, *_cloud(specversion="0.3"), "specversion"),
        (422, *_cloud(id=""), "$.id"),
        (422, *_cloud(type=5), "$.type"),
        (422, *_cloud(time="yesterday"), "yesterday"),
        (422, *_cloud(data="text"), "no JSON object"),
        (422, *_cloud(data={"a": 1}, datacontenttype="text/plain"), "datacontenttype"),
        (422, *_cloud(data={"a": 1}, data_base64="e30="), "both"),
        (422, *_cloud(data_base64="e"), "base64"),
        (422, "[{}]", "application/cloudevents-batch+json", "event 0: no CloudEvent"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_wrong_is_said_and_nothing_is_added(
    receiver: Receiver, status: int, body: str | bytes, kind: str, detail: str
) -> None:
    before = receiver.stored.counter("accepted")
    response = receiver.post("/events", body, kind)
    problem = response.json()
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert problem["status"] == status
    assert detail in problem["detail"]
    assert receiver.stored.counter("accepted") == before


def test_every_bad_event_is_named_up_to_ten_and_no_good_one_is_added(receiver: Receiver) -> None:
    before = receiver.stored.counter("accepted")
    lines = [f'{{"n":{n}}}' if n % 100 != 99 else "[]" for n in range(2_000)]
    problem = receiver.post("/events", "\n".join(lines), NDJSON).json()
    assert problem["index"] == 99
    assert [one["index"] for one in problem["errors"]] == list(range(99, 1_000, 100))
    assert {one["reason"] for one in problem["errors"]} == {"schema"}
    assert receiver.stored.counter("accepted") == before


def test_binary_cloudevents_that_are_none(receiver: Receiver) -> None:
    response = receiver.post("/events", "{}", headers={"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t"})
    assert (response.status_code, "`source`" in response.json()["detail"]) == (422, True)
    headers = {f"ce-{name}": value for name, value in _CLOUD.items()}
    assert receiver.post("/events", "{}", "text/plain", headers=headers).status_code == 415


@pytest.mark.parametrize(
    ("status", "coding", "body"),
    [
        (415, "br", b"x"),
        (415, "gzip, gzip", b"x"),
        (400, "gzip", b"no gzip at all"),
        (400, "gzip", gzip.compress(b'{"a":1}')[:-1]),
        (400, "gzip", zlib.compress(b'{"a":1}')),
        (400, "gzip", gzip.compress(b'{"a":1}') + b"more"),
        (400, "gzip", b""),
        (400, "zstd", zstandard.compress(b'{"a":1}' * 100)[:-1]),
        (400, "zstd", b"no zstd at all"),
        (413, "gzip", gzip.compress(b" " * (LIMIT + 1))),
        (413, "gzip", gzip.compress(b" " * (1 << 28))[:LIMIT]),
        (413, "zstd", zstandard.compress(b" " * (1 << 30))),
        (413, "identity", b" " * (LIMIT + 1)),
    ],
    ids=lambda value: value if isinstance(value, str | int) else "",
)
def test_encodings_that_are_refused(receiver: Receiver, status: int, coding: str, body: bytes) -> None:
    response = receiver.post("/events", body, headers={"Content-Encoding": coding})
    assert response.status_code == response.json()["status"] == status
    assert (response.headers.get("accept-encoding") == "gzip, zstd") == (status == 415)


def test_the_size_is_checked_while_a_body_of_unknown_length_arrives(receiver: Receiver) -> None:
    response = receiver.http.post("/events", content=(b" " * 100_000 for _ in range(100)))
    assert response.status_code == 413
    assert receiver.post("/events", b" " * 10_000_000).status_code == 413
    assert receiver.added(receiver.post("/events", "{}")), "the connection is as good as before"


def test_paths_and_methods(receiver: Receiver) -> None:
    response = receiver.post("/webhooks/nobody", "{}")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    response = receiver.http.get("/events")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    response = receiver.http.delete("/openapi.json")
    assert (response.status_code, response.headers["allow"]) == (405, "GET")
    assert receiver.counted("http_requests", path="other", status="404") >= 1


def _converse(receiver: Receiver, sent: bytes) -> bytes:
    """All that is answered until the other side closes."""
    host, port = receiver.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_a_client_that_offers_http_2_keeps_its_body(receiver: Receiver) -> None:
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    assert _data(receiver.added(receiver.post("/events", '{"upgrade":true}', headers=upgrade))) == [{"upgrade": True}]


def test_a_head_without_an_end_is_cut_off(receiver: Receiver) -> None:
    answered = _converse(receiver, b"POST /events HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 12_000)
    assert answered.startswith(b"HTTP/1.1 400 ")
    answered = _converse(receiver, b"no HTTP at all\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 400 ")
    assert receiver.added(receiver.post("/events", "{}"))


def test_requests_in_one_packet_are_answered_in_order(receiver: Receiver) -> None:
    one = b'POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":%d}'
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close") % 3
    answered = _converse(receiver, one % 1 + one % 2 + last)
    assert answered.count(b"HTTP/1.1 202 ") == 3
    bodies = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in answered.split(b"HTTP/1.1 ")[1:]]
    by_id = {event["id"]: event["data"] for event in receiver.stored.events()}
    assert [by_id[body["ids"][0]] for body in bodies] == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_the_document_is_served(receiver: Receiver) -> None:
    response = receiver.http.get("/openapi.json")
    document = response.json()
    assert document["openapi"].startswith("3.1")
    assert list(document["paths"]) == ["/events", "/openapi.json"]
