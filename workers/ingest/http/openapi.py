"""The OpenAPI document of what this server does; tests hold the two together."""

from collections.abc import Sequence
from typing import Any

from shared.pipeline import WebhookSection
from shared.version import VERSION
from workers.ingest.http.bodies import MOST_DEPTH, NDJSON
from workers.ingest.http.cloudevents import BATCH, STRUCTURED

Document = dict[str, Any]
_OBJECT: Document = {"type": "object", "description": f"Nested {MOST_DEPTH} levels deep at most."}
_CLOUD_EVENT: Document = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        **{name: {"type": "string", "minLength": 1} for name in ("id", "source", "type")},
        "time": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
        "datacontenttype": {"enum": ["application/json", None]},
        "partitionkey": {"type": ["string", "null"]},
        "data": {"type": ["object", "null"]},
    },
}
_PROBLEM: Document = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string", "description": "Why a delivery was not verified."},
        "index": {"type": "integer", "minimum": 0, "description": "The first bad event, counted from 0."},
        "errors": {
            "type": "array",
            "description": "The bad events, ten at most.",
            "items": {
                "type": "object",
                "required": ["index", "reason", "detail"],
                "properties": {
                    "index": {"type": "integer", "minimum": 0},
                    "reason": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
_ACCEPTED: Document = {
    "type": "object",
    "required": ["accepted", "ids"],
    "properties": {
        "accepted": {"type": "integer", "minimum": 0},
        "ids": {"type": "array", "items": {"type": "string", "format": "uuid"}},
    },
}
_REFUSALS = {
    "400": "The body is no JSON, or not in its encoding; nothing of the request was added.",
    "401": "Not verified: the signature, the token or the time.",
    "405": "Another method.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "A media type, charset or encoding that is not understood.",
    "422": "JSON, but not of events: `index` names the first bad one. Nothing of the request was added.",
    "429": "Above the rate limit: `Retry-After` says when to try again.",
    "503": "The pipeline is full or Redis is away: `Retry-After` says when to try again.",
}
_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}


def document(webhooks: Sequence[WebhookSection], *, has_tokens: bool) -> Document:
    """The document; with ``has_tokens`` `POST /events` asks for a token."""
    paths: Document = {"/events": {"post": _events(has_tokens=has_tokens)}}
    for section in webhooks:
        paths[f"/webhooks/{section.name}"] = {"post": _delivery(section)}
    paths["/openapi.json"] = {"get": _own()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bargeline", "version": VERSION, "description": "Takes events into a pipeline."},
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM, "Accepted": _ACCEPTED, "CloudEvent": _CLOUD_EVENT},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _events(*, has_tokens: bool) -> Document:
    return {
        "operationId": "addEvents",
        "summary": "Add events: all of a request, or none.",
        "security": [{"token": []}] if has_tokens else [],
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Names this request: sent again with the same key it gives the same ids.",
                "schema": {"type": "string", "minLength": 1},
            }
        ],
        "requestBody": _body(
            {
                "application/json": {"schema": {"oneOf": [_OBJECT, {"type": "array", "items": _OBJECT}]}},
                NDJSON[0]: {"schema": {"type": "string", "description": "A JSON object on each line."}},
                STRUCTURED: {"schema": _reference("CloudEvent")},
                BATCH: {"schema": {"type": "array", "items": _reference("CloudEvent")}},
            }
        ),
        "responses": _responses(),
    }


def _delivery(section: WebhookSection) -> Document:
    return {
        "operationId": f"deliver-{section.name}",
        "summary": f"Deliveries verified by {section.verify}.",
        "security": [{"token": []}] if section.verify == "bearer" else [],
        "requestBody": _body(
            {"application/json": {"schema": {"oneOf": [_OBJECT, {"type": "array", "items": _OBJECT}]}}}
        ),
        "responses": _responses(),
    }


def _own() -> Document:
    shown = {"description": "This document.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {"operationId": "describe", "security": [], "responses": {"200": shown}}


def _body(content: Document) -> Document:
    return {"required": True, "description": "Also with Content-Encoding gzip or zstd.", "content": content}


def _responses() -> Document:
    accepted = {
        "description": "The events are in Redis, as durably as INGEST_DURABILITY says.",
        "content": {"application/json": {"schema": _reference("Accepted")}},
    }
    return {"202": accepted, **{status: _refusal(status, text) for status, text in _REFUSALS.items()}}


def _refusal(status: str, text: str) -> Document:
    content = {"application/problem+json": {"schema": _reference("Problem")}}
    return {"description": text, "content": content, **({"headers": _RETRY} if status in ("429", "503") else {})}


def _reference(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}
