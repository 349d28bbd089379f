"""Whether a delivery comes from who it says: pure, and in constant time where it compares.

Shopify: base64 of HMAC-SHA256 of the body as it was sent. GitHub: ``sha256=`` and hex of the same.
Standard Webhooks: github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

import binascii
import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from shared.errors import ConfigurationError
from shared.metrics import Refusal
from shared.pipeline import WebhookSection

#: A delivery of Standard Webhooks is refused when its time is farther away than this, earlier or later.
TOLERANCE_SECONDS = 300
SECRETS = "INGEST_WEBHOOK_SECRETS"
_STANDARD_PREFIX = "whsec_"
Headers = Mapping[str, str]


class Refused(Exception):
    """A delivery that was not verified; the text says what was wrong, and nothing of what would have been right."""

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.reason: Refusal = reason


Verify = Callable[[Headers, bytes, float], None]


@dataclass(frozen=True)
class Hook:
    """A configured webhook: ``verify(headers, body as it was sent, now)`` raises Refused."""

    name: str
    verify: Verify
    #: Header in which the sender names a delivery, small letters.
    delivery_header: str
    #: What a 401 names as the way to authenticate.
    scheme: str


def make_hook(section: WebhookSection, secrets: Iterable[str]) -> Hook:
    """The webhook of a section with its secrets; raises ConfigurationError where they cannot be used."""
    given = tuple(secrets)
    if not given:
        raise ConfigurationError(
            f"{SECRETS} has no line for the webhook {section.name}: write {section.name}=<secret>, best in a file that "
            f"{SECRETS}_FILE names."
        )
    keys = tuple(secret.encode() for secret in given)
    delivery = (section.delivery_header or "Idempotency-Key").lower()
    match section.verify:
        case "shopify":
            verify = _signed("X-Shopify-Hmac-Sha256", keys, "sha256", "base64", "")
            return Hook(section.name, verify, "x-shopify-webhook-id", "HMAC")
        case "github":
            verify = _signed("X-Hub-Signature-256", keys, "sha256", "hex", "sha256=")
            return Hook(section.name, verify, "x-github-delivery", "HMAC")
        case "standard":
            return Hook(section.name, _standard(_standard_keys(section.name, given)), "webhook-id", "HMAC")
        case "bearer":
            return Hook(section.name, bearer(keys), delivery, "Bearer")
        case "hmac":
            assert section.header is not None  # checked when it was read
            verify = _signed(section.header, keys, section.algorithm, section.encoding, section.prefix)
            return Hook(section.name, verify, delivery, "HMAC")


def bearer(tokens: tuple[bytes, ...]) -> Verify:
    """Verifies by a token, any one of these."""

    def verify(headers: Headers, _body: bytes, _now: float) -> None:
        scheme, _, token = _header(headers, "Authorization").strip().partition(" ")
        if scheme.lower() != "bearer" or not _any_equal(tokens, token.strip().encode("latin-1")):
            raise Refused("mismatch", "Authorization holds no valid Bearer token")

    return verify


def signature(key: bytes, content: bytes, algorithm: str, encoding: str) -> bytes:
    """HMAC of a content, as text."""
    digest = hmac.digest(key, content, algorithm)
    return b64encode(digest) if encoding == "base64" else digest.hex().encode()


def _signed(header: str, keys: tuple[bytes, ...], algorithm: str, encoding: str, prefix: str) -> Verify:
    def verify(headers: Headers, body: bytes, _now: float) -> None:
        given = _header(headers, header).strip()
        value = given.removeprefix(prefix).encode("latin-1")
        expected = (signature(key, body, algorithm, encoding) for key in keys)
        if not given.startswith(prefix) or not _any_equal(expected, value.lower() if encoding == "hex" else value):
            raise Refused("mismatch", f"{header} does not fit the body")

    return verify


def _standard(keys: tuple[bytes, ...]) -> Verify:
    def verify(headers: Headers, body: bytes, now: float) -> None:
        delivery, sent, given = (_header(headers, f"webhook-{name}") for name in ("id", "timestamp", "signature"))
        content = b"%b.%b.%b" % (delivery.encode("latin-1"), sent.encode("latin-1"), body)
        expected = [signature(key, content, "sha256", "base64") for key in keys]
        # After a rotation the sender signs with its old and its new key.
        versions = (one.partition(",") for one in given.split())
        found = [value.encode("latin-1") for version, _, value in versions if version == "v1"]
        if not any([_any_equal(expected, value) for value in found]):  # noqa: C419 -- all of them: see _any_equal
            raise Refused("mismatch", "webhook-signature has no v1 signature that fits")
        if not sent.isascii() or not sent.isdigit() or abs(now - int(sent[:15])) > TOLERANCE_SECONDS:
            raise Refused("stale", f"webhook-timestamp is not within {TOLERANCE_SECONDS} s of this server's clock")

    return verify


def _standard_keys(name: str, secrets: tuple[str, ...]) -> tuple[bytes, ...]:
    texts = [secret.removeprefix(_STANDARD_PREFIX) for secret in secrets]
    try:
        # Some senders show their keys without the padding.
        keys = tuple(b64decode(text + "=" * (-len(text) % 4), validate=True) for text in texts)
    except (binascii.Error, ValueError):
        keys = (b"",)
    if not all(keys):
        raise ConfigurationError(f"{SECRETS}: {name}: a secret of Standard Webhooks is {_STANDARD_PREFIX} and base64.")
    return keys


def _header(headers: Headers, name: str) -> str:
    found = headers.get(name.lower())
    if not found:
        raise Refused("missing", f"{name} is missing")
    return found


def _any_equal(expected: Iterable[bytes], given: bytes) -> bool:
    """Whether one is the given text; each is compared, so that the time does not tell which."""
    return any([hmac.compare_digest(one, given) for one in expected])  # noqa: C419


def parse_secrets(text: str) -> dict[str, list[str]]:
    """Secrets by webhook, out of lines ``<name>=<secret>``. Raises ConfigurationError that shows none of them."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, secret = line.partition("=")
        if not line.strip():
            continue
        if not equals or not name.strip() or not secret.strip():
            raise ConfigurationError(f"{SECRETS}: line {number} is not <name>=<secret>.")
        found.setdefault(name.strip(), []).append(secret.strip())
    return found


def make_hooks(sections: Iterable[WebhookSection], text: str) -> dict[str, Hook]:
    """The webhooks by name; raises ConfigurationError where a secret is missing, or belongs to none of them."""
    secrets = parse_secrets(text)
    hooks = {one.name: make_hook(one, secrets.pop(one.name, ())) for one in sections}
    if secrets:
        # What stands before the = is not shown: it may be a part of a secret.
        known = ", ".join(hooks) or "none at all"
        raise ConfigurationError(f"{SECRETS} has a line for a [[webhook]] that pipeline.toml lacks; it has {known}.")
    return hooks
