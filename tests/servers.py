"""Real servers for the tests, each chosen by itself.

In this order: what the environment names (REDIS_URL, DATABASE_URL), a container where a Docker
engine answers, else the servers that come as Python packages.
"""

import functools
import gc
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal

from bargeline.embedded import throwaway

Origin = Literal["environment", "container", "embedded"]

VALKEY_IMAGE = "valkey/valkey:9"
POSTGRES_IMAGE = "postgres:18"
_ENGINE_TIMEOUT_SECONDS = 3


def choose(given_url: str | None) -> Origin:
    """Where a server comes from."""
    if given_url:
        return "environment"
    return "container" if docker_answers() else "embedded"


def describe(given: Mapping[str, str]) -> str:
    """One line for the header of the test run."""
    redis, database = choose(given.get("REDIS_URL")), choose(given.get("DATABASE_URL"))
    return f"servers: Redis from {redis}, PostgreSQL from {database}"


@functools.cache
def docker_answers() -> bool:
    """Whether a Docker engine can be used here."""
    import docker
    from docker.errors import DockerException

    answers = False
    with warnings.catch_warnings():
        # The socket of a refused connection is left to the collector, which is to say nothing of it here.
        warnings.simplefilter("ignore", ResourceWarning)
        with suppress(DockerException), closing(docker.from_env(timeout=_ENGINE_TIMEOUT_SECONDS)) as client:
            answers = bool(client.ping())
        gc.collect()
    return answers


@contextmanager
def redis_server(given_url: str | None, directory: Path) -> Iterator[str]:
    """URL of a Redis or Valkey; what this starts is stopped afterwards."""
    match choose(given_url):
        case "environment":
            assert given_url
            yield given_url
        case "container":
            from testcontainers.community.valkey import ValkeyContainer

            with ValkeyContainer(VALKEY_IMAGE) as container:
                yield f"redis://{container.get_host()}:{container.get_exposed_port()}/0"
        case "embedded":
            process, url = throwaway.start_valkey(directory)
            try:
                yield url
            finally:
                throwaway.stop(process)


@contextmanager
def database_server(given_url: str | None, directory: Path) -> Iterator[str]:
    """URL of a PostgreSQL in which databases may be created; what this starts is stopped afterwards."""
    match choose(given_url):
        case "environment":
            assert given_url
            yield given_url
        case "container":
            from testcontainers.community.postgres import PostgresContainer

            with PostgresContainer(POSTGRES_IMAGE, driver=None) as container:
                yield container.get_connection_url()
        case "embedded":
            process, url = throwaway.start_postgres(directory, fsync="off", max_connections="200")
            try:
                yield url
            finally:
                throwaway.stop(process)
