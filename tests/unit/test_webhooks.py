"""Webhooks: what the pipeline file may say, and signatures by the examples that others publish."""

import hmac
import re
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.mistakes import PipelineError
from shared.pipeline import WebhookSection, load_pipeline
from tests import workers
from workers.ingest.http.signatures import Refused, make_hook, make_hooks, parse_secrets


def _section(**options: str) -> WebhookSection:
    return WebhookSection.model_validate({"name": "hook", **options})


def test_the_example_that_github_documents() -> None:
    hook = make_hook(_section(verify="github"), ["It's a Secret to Everybody"])
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    hook.verify({"x-hub-signature-256": f"sha256={digest}"}, b"Hello, World!", 0)
    with pytest.raises(Refused, match="X-Hub-Signature-256 does not fit the body"):
        hook.verify({"x-hub-signature-256": f"sha256={digest}"}, b"Hello, World", 0)


def test_the_example_that_standard_webhooks_documents() -> None:
    hook = make_hook(_section(verify="standard"), ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    hook.verify(headers, b'{"test": 2432232314}', 1614265330 + 300)
    with pytest.raises(Refused, match="not within 300 s"):
        hook.verify(headers, b'{"test": 2432232314}', 1614265330 + 301)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
def test_hex_in_either_case(algorithm: str) -> None:
    hook = make_hook(_section(verify="hmac", header="X-Sig", algorithm=algorithm, encoding="hex"), ["key"])
    digest = hmac.new(b"key", b"body", algorithm).hexdigest()
    hook.verify({"x-sig": digest}, b"body", 0)
    hook.verify({"x-sig": digest.upper()}, b"body", 0)
    with pytest.raises(Refused):
        hook.verify({"x-sig": digest[:-1]}, b"body", 0)


def test_secrets_are_lines_and_may_hold_anything() -> None:
    text = "a=one=two== \n\n b = with blanks \r\na=three\n"
    assert parse_secrets(text) == {"a": ["one=two==", "three"], "b": ["with blanks"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "INGEST_WEBHOOK_SECRETS has no line for the webhook hook: write hook=<secret>"),
        ("hook=whsec_aHVzaA\naHVzaA==", r"has a line for a \[\[webhook\]\] that pipeline.toml lacks; it has hook"),
        ("hook=hush hush", "hook: a secret of Standard Webhooks is whsec_ and base64"),
        ("hook=whsec_", "hook: a secret of Standard Webhooks is whsec_ and base64"),
        ("hook=\n", "line 1 is not <name>=<secret>"),
    ],
)
def test_secrets_that_do_not_fit_are_named_and_not_shown(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_hooks([_section(verify="standard")], text)
    assert not re.search("hush|aHVz", str(caught.value))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('name = "a"\nverify = "hmac"', 'webhook.0.verify: verify = "hmac" needs header'),
        ('name = "a"\nverify = "github"\nheader = "X"', 'webhook.0.header: verify = "github" has no header'),
        ('name = "a"\nverify = "bearer"\nencoding = "hex"', 'webhook.0.encoding: verify = "bearer" has no encoding'),
        ('name = "a"\nverify = "md5"', "webhook.0.verify"),
        ('name = "a/b"\nverify = "github"', "webhook.0.name"),
        ('name = "a"\nverify = "github"\nsecret = "x"', "webhook.0.secret: there is no such setting"),
        ('name = "a"\nverify = "hmac"\nheader = "X Y"', "webhook.0.header"),
        ('name = "a"\nverify = "github"\n[[webhook]]\nname = "a"\nverify = "shopify"', "another webhook 'a'"),
    ],
)
def test_mistakes_in_the_pipeline_file_are_named_with_their_line(tmp_path: Path, section: str, message: str) -> None:
    folder = workers.make_pipeline(tmp_path / "p", "test", append=f"\n[[webhook]]\n{section}\n")
    with pytest.raises(PipelineError) as caught:
        load_pipeline(str(folder))
    assert message in str(caught.value)
    assert f"{folder / 'pipeline.toml'}:" in str(caught.value)
