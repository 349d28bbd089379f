"""What is answered to a request that is not accepted: problem details, RFC 9457."""

from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

Header = tuple[bytes, bytes]


class Answer(NamedTuple):
    """Status, headers and body of a response."""

    status: int
    headers: list[Header]
    body: bytes


class Problem(Exception):
    """A request that is not accepted; ``members`` are more of the document, such as the index of the event."""

    def __init__(self, status: int, detail: str, *headers: tuple[str, str], **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self._headers = headers
        self._members = members

    def answer(self) -> Answer:
        """The response that says so."""
        title = HTTPStatus(self.status).phrase
        document = {"type": "about:blank", "title": title, "status": self.status, "detail": str(self), **self._members}
        headers = [(name.lower().encode(), value.encode()) for name, value in self._headers]
        # Bytes of a stranger may be part of the text.
        return answer(self.status, b"application/problem+json", _encode(document), *headers)


def answer(status: int, kind: bytes, body: bytes, *headers: Header) -> Answer:
    """A response of that content type."""
    return Answer(status, [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers], body)


def unavailable(detail: str, seconds: int = 1) -> Problem:
    """A request that may be sent again after so many seconds."""
    return Problem(503, detail, ("Retry-After", str(seconds)))


def _encode(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document)
