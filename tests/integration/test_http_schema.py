"""The OpenAPI document and the server agree, by Schemathesis: seeded, bounded, from outside."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.receiving import HOOKS, SECRETS, receiving

SEED = 2026
EXAMPLES = 20


def test_whatever_is_sent_is_answered_as_documented(redis_url: str, pipeline_name: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"INGEST_WEBHOOK_SECRETS": SECRETS, "INGEST_HTTP_TOKENS": "s3cr3t-token"}
    with receiving(redis_url, tmp_path / "p", pipeline_name, hooks=HOOKS, **given) as receiver:
        done = subprocess.run(
            [
                *(f"{Path(sys.executable).parent}/schemathesis", "run", f"http://{receiver.address}/openapi.json"),
                *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", str(SEED)),
                *("--exclude-path-regex", "hub|plain|standard"),
                *("--header", "Authorization: Bearer s3cr3t-token", "--no-color"),
            ],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
        assert "Tested: 3" in done.stdout, done.stdout
        lines = receiver.worker.get("/metrics")[1].splitlines()
        answered = [line for line in lines if line.startswith("bargeline_http_requests_total{")]
        assert not [line for line in answered if 'status="5' in line]
        for path in ("/events", "/webhooks/token"):
            assert receiver.counted("http_requests", path=path, status="202") > 10
            assert receiver.counted("http_requests", path=path, status="401") > 0
        assert receiver.stored.counter("accepted") == len(receiver.stored.events())
