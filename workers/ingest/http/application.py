"""The ASGI application: paths, bodies, answers."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from pydantic import SecretStr

from shared import events
from shared.attributes import Attributes
from shared.pipeline import WebhookSection
from shared.run import Runtime
from workers.ingest.http import openapi
from workers.ingest.http.bodies import expand
from workers.ingest.http.committing import Committer
from workers.ingest.http.making import Origin, make
from workers.ingest.http.problems import Answer, Problem, answer, unavailable
from workers.ingest.http.rate import Bucket
from workers.ingest.http.request import Gone, Receive, Request, Room, Scope
from workers.ingest.http.signatures import Hook, Refused, bearer, make_hooks

Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[Request], Awaitable[Answer]]
Verify = Callable[[Mapping[str, str], bytes], None]
log = structlog.get_logger()
EVENTS, HOOKS, DOCUMENT = "/events", "/webhooks/", "/openapi.json"
_OTHER = "other"


class Application:
    """Answers requests. Raises ConfigurationError for secrets that do not fit the pipeline's webhooks."""

    def __init__(self, runtime: Runtime, committer: Committer) -> None:
        settings, file = runtime.settings, runtime.pipeline.file
        self._runtime = runtime
        self._committer = committer
        self._bucket = Bucket(settings.ingest_http_rate_events)
        self._room = Room(settings.ingest_http_max_bytes)
        hooks = make_hooks(file.webhook, _text(settings.ingest_webhook_secrets))
        tokens = tuple(one.strip().encode() for one in _text(settings.ingest_http_tokens).splitlines() if one.strip())
        self._handlers: dict[str, tuple[str, Handler]] = {EVENTS: ("POST", self._events(tokens))}
        for section in file.webhook:
            self._handlers[HOOKS + section.name] = ("POST", self._deliveries(hooks[section.name], section))
        runtime.metrics.expect_requests(self._handlers, hooks)
        document = msgspec.json.encode(openapi.document(file.webhook, has_tokens=bool(tokens)))
        self._handlers[DOCUMENT] = ("GET", _document(document))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.perf_counter()
        request = Request(scope, receive, self._room)
        try:
            found = await self._answer(request)
        except Problem as problem:
            found = problem.answer()
        except Gone:
            return
        except asyncio.CancelledError:
            # Its body did not come within the time that there was left.
            found = unavailable("this process ends").answer()
        except Exception:
            log.exception("a request failed", action="request", path=request.path)
            found = Problem(500, "an error of this server; its log has it").answer()
        finally:
            request.close()
        path = request.path if request.path in self._handlers else _OTHER
        self._runtime.metrics.request(path, found.status, time.perf_counter() - began)
        await send({"type": "http.response.start", "status": found.status, "headers": found.headers})
        await send({"type": "http.response.body", "body": found.body})

    async def _answer(self, request: Request) -> Answer:
        method, handler = self._handlers.get(request.path, (None, None))
        if handler is None:
            raise Problem(404, f"there is {', '.join(self._handlers)}")
        if request.method != method:
            raise Problem(405, f"send {method}", ("Allow", str(method)))
        return await handler(request)

    def _events(self, tokens: tuple[bytes, ...]) -> Handler:
        origin = self._origin(EVENTS, None)
        verify = bearer(tokens) if tokens else None

        async def handle(request: Request) -> Answer:
            if verify is not None:
                try:
                    verify(request.headers, b"", 0)
                except Refused as refused:
                    raise _unauthorized(refused, "Bearer") from None
            return await self._take(origin, request, delivery=request.headers.get("idempotency-key"))

        return handle

    def _deliveries(self, hook: Hook, section: WebhookSection) -> Handler:
        origin = self._origin(HOOKS + hook.name, section.type)
        type_header = (section.type_header or "").lower()

        def verify(headers: Mapping[str, str], body: bytes) -> None:
            try:
                hook.verify(headers, body, time.time())
            except Refused as refused:
                self._runtime.metrics.refused(hook.name, refused.reason)
                raise _unauthorized(refused, hook.scheme) from None

        async def handle(request: Request) -> Answer:
            delivery, kind = request.headers.get(hook.delivery_header), request.headers.get(type_header)
            try:
                return await self._take(origin, request, delivery=delivery, kind=kind, verify=verify)
            except Gone:
                self._runtime.metrics.refused(hook.name, "truncated")
                raise

        return handle

    def _origin(self, path: str, kind: str | None) -> Origin:
        pipeline, settings = self._runtime.pipeline, self._runtime.settings
        section = pipeline.file.ingest
        if kind is not None:
            section = section.model_copy(update={"type": kind})
        attributes = Attributes(section, pipeline.name)
        return Origin((settings.ingest_source_name or "http") + path, attributes, settings.ingest_max_event_bytes)

    async def _take(
        self,
        origin: Origin,
        request: Request,
        *,
        delivery: str | None,
        kind: str | None = None,
        verify: Verify | None = None,
    ) -> Answer:
        """Take the events of a request, all or none."""
        if delivery == "":
            raise Problem(400, "the header that names the delivery is empty")
        if seconds := self._bucket.wait_seconds():
            raise Problem(429, "too many events (INGEST_HTTP_RATE_EVENTS)", ("Retry-After", str(math.ceil(seconds))))
        body, headers = await request.body(), request.headers
        if verify is not None:
            verify(headers, body)
        plain = expand(body, headers.get("content-encoding", ""), self._room.most_bytes)
        made = make(origin, headers, plain, delivery=delivery, arrived=events.now(), kind=kind or None)
        self._bucket.take(len(made))
        if made and (problem := await self._committer.add([events.encode(event) + b"\n" for event in made])):
            return problem.answer()
        return _accepted([event.id for event in made])


def _accepted(ids: list[str]) -> Answer:
    # An id has no character that JSON would have to escape.
    listed = ",".join([f'"{one}"' for one in ids])
    return answer(202, b"application/json", f'{{"accepted":{len(ids)},"ids":[{listed}]}}'.encode())


def _unauthorized(refused: Refused, scheme: str) -> Problem:
    return Problem(401, str(refused), ("WWW-Authenticate", scheme), reason=refused.reason)


def _document(body: bytes) -> Handler:
    async def handle(_request: Request) -> Answer:
        return answer(200, b"application/json", body)

    return handle


def _text(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
