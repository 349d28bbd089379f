"""The source http as a real process: started, asked by clients that know only HTTP."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import redis

from tests import workers
from tests.integration.stored import Stored
from tests.workers import Worker

#: A secret that the documentation of GitHub uses, with blanks and a quote in it.
GITHUB_SECRET = "It's a Secret to Everybody"
OLD_KEY, NEW_KEY = "whsec_b2xkIGtleSBvZiB0aGUgdGVzdHM=", "whsec_bmV3IGtleSBvZiB0aGUgdGVzdHM="
SECRETS = f"""
shop=hush
plain=old-secret
plain=new-secret
hub={GITHUB_SECRET}
standard={OLD_KEY}
standard={NEW_KEY}
token=s3cr3t-token
"""
HOOKS = """
[[webhook]]
name = "shop"
verify = "shopify"
type = "order"
type_header = "X-Shopify-Topic"

[[webhook]]
name = "hub"
verify = "github"

[[webhook]]
name = "standard"
verify = "standard"

[[webhook]]
name = "plain"
verify = "hmac"
header = "X-Signature"
algorithm = "sha512"
encoding = "base64"
prefix = "v1:"
delivery_header = "X-Delivery"

[[webhook]]
name = "token"
verify = "bearer"
"""


@dataclass(frozen=True)
class Receiver:
    """A process that listens, a client of it, and what it left in Redis."""

    worker: Worker
    address: str
    http: httpx.Client
    stored: Stored

    def post(
        self, path: str, content: bytes | str, kind: str | None = "application/json", **more: Any
    ) -> httpx.Response:
        """POST a body."""
        headers = {**({} if kind is None else {"Content-Type": kind}), **more.pop("headers", {})}
        return self.http.post(path, content=content, headers=headers, **more)

    def added(self, response: httpx.Response) -> list[dict[str, Any]]:
        """The events in Redis that were answered with, in this order."""
        assert response.status_code == 202, response.text
        answered = response.json()
        assert answered["accepted"] == len(answered["ids"])
        by_id = {event["id"]: event for event in self.stored.events()}
        return [by_id[one] for one in answered["ids"]]

    def counted(self, name: str, **labels: str) -> int:
        """Value of a counter."""
        lines = self.worker.get("/metrics")[1].splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return int(
            sum(
                float(line.split()[-1])
                for line in lines
                if line.startswith(f"bargeline_{name}_total{{") and all(one in line for one in wanted)
            )
        )


def started(redis_url: str, folder: Path, name: str, *, database_url: str = "", **env: Any) -> Receiver:
    """Start a process of the pipeline in ``folder``, called ``name``; whoever starts it ends it."""
    given = {"INGEST_SOURCE": "http", "INGEST_HTTP_PORT": 0, **env}
    worker = workers.start("ingest", redis_url, database_url, folder, **given)
    try:
        worker.until_started()
    except BaseException:
        workers.end(worker)
        raise
    address = worker.records(action="listen")[-1]["address"]
    stored = Stored(redis.Redis.from_url(redis_url), name)
    return Receiver(worker, address, httpx.Client(base_url=f"http://{address}", timeout=30), stored)


@contextmanager
def receiving(
    redis_url: str,
    folder: Path,
    name: str,
    *,
    hooks: str = "",
    edits: Mapping[str, str] | None = None,
    **env: Any,
) -> Iterator[Receiver]:
    """A process of a pipeline of its own; afterwards it ends with 0, unless the test ended it."""
    workers.make_pipeline(folder, name, edits=edits, append=hooks)
    found = started(redis_url, folder, name, **env)
    try:
        yield found
        if found.worker.process.returncode is None:
            assert found.worker.stop() == 0
    except BaseException as error:
        error.add_note(f"--- log:\n{found.worker.log_text()[-4_000:]}")
        raise
    finally:
        found.http.close()
        found.stored.client.close()
        workers.end(found.worker)
