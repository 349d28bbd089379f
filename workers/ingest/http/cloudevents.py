"""CloudEvents 1.0 over HTTP: structured, batched and binary: pure.

github.com/cloudevents/spec: cloudevents/spec.md, formats/json-format.md, bindings/http-protocol-binding.md.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import unquote

import msgspec

from shared.errors import InvalidEvent
from workers.ingest.http.bodies import is_json, media_type, one_line
from workers.ingest.http.problems import Problem

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
_VERSION = "1.0"
_ABSENT = msgspec.Raw(b"")
Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Envelope(msgspec.Struct):
    """The attributes that are looked at; an attribute that is null is absent."""

    specversion: str
    id: Text
    source: Text
    type: Text
    time: str | None = None
    datacontenttype: str | None = None
    partitionkey: str | None = None
    data: msgspec.Raw = _ABSENT
    data_base64: str | None = None


class CloudEvent(msgspec.Struct, frozen=True):
    """What is taken of one; ``data`` are the bytes of JSON, on one line."""

    id: str
    source: str
    type: str
    time: str | None
    partitionkey: str | None
    data: bytes


_decode = msgspec.json.Decoder(_Envelope).decode


def is_binary(headers: Mapping[str, str]) -> bool:
    """Whether the attributes of an event are in the headers."""
    return "ce-specversion" in headers


def structured(part: bytes) -> CloudEvent:
    """An event whose attributes and data are in one JSON object. Raises InvalidEvent."""
    try:
        envelope = _decode(part)
    except msgspec.ValidationError as error:
        raise InvalidEvent(f"no CloudEvent: {error}", "schema") from None
    except RecursionError:
        raise InvalidEvent("nested too deeply", "schema") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidEvent(f"no JSON: {error}", "not_json") from None
    return _event(envelope, _data(envelope))


def binary(headers: Mapping[str, str], media: str, body: bytes) -> CloudEvent:
    """An event whose attributes are in the headers, and whose data is the body. Raises InvalidEvent, Problem."""
    if not is_json(media):
        raise Problem(
            415, f"no Content-Type {media!r}: the data of an event is JSON", ("Accept-Post", "application/json")
        )
    given = {name.removeprefix("ce-"): unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    try:
        envelope = msgspec.convert({**given, "data": _ABSENT, "data_base64": None}, _Envelope)
    except msgspec.ValidationError as error:
        raise InvalidEvent(f"no CloudEvent in the headers ce-…: {error}", "schema") from None
    return _event(envelope, body)


def _event(envelope: _Envelope, data: bytes) -> CloudEvent:
    if envelope.specversion != _VERSION:
        raise InvalidEvent(f"specversion is {envelope.specversion!r}; {_VERSION} is what is understood", "schema")
    return CloudEvent(
        envelope.id,
        envelope.source,
        envelope.type,
        envelope.time,
        envelope.partitionkey,
        one_line(data) or b"{}",
    )


def _data(envelope: _Envelope) -> bytes:
    data = bytes(envelope.data)
    if data == b"null":
        data = b""
    if not is_json(_content_type(envelope)):
        raise InvalidEvent(f"datacontenttype is {envelope.datacontenttype!r}; the data of an event is JSON", "schema")
    if envelope.data_base64 is None:
        return data
    if data:
        raise InvalidEvent("it has both data and data_base64", "schema")
    try:
        return b64decode(envelope.data_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidEvent(f"data_base64 is no base64: {error}", "schema") from None


def _content_type(envelope: _Envelope) -> str:
    try:
        return media_type(envelope.datacontenttype)
    except Problem as problem:
        raise InvalidEvent(f"datacontenttype: {problem}", "schema") from None
