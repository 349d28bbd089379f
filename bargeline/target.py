"""What a command works on: the pipeline, and the servers that the environment or the fleet names."""

from dataclasses import dataclass

from bargeline.fleet.control import urls
from shared.errors import TransientError, Unreachable
from shared.pipeline import Pipeline, load_pipeline
from shared.settings import Settings, load_settings
from shared.streams import Client
from shared.topology import Topology


@dataclass(frozen=True)
class Target:
    """A pipeline and its servers."""

    settings: Settings
    pipeline: Pipeline
    redis_url: str
    database_url: str
    client: Client


def find_target(pipeline: str | None = None) -> Target:
    """The pipeline by option or environment; servers by environment, else those of the fleet in BARGELINE_VAR.

    Raises Unreachable when Redis does not answer.
    """
    settings = load_settings()
    found = load_pipeline(pipeline or settings.pipeline)
    servers = urls(settings)
    client = Client(servers["REDIS_URL"], Topology(found.name), "bargeline-command")
    try:
        client.call("PING")
    except TransientError as error:
        raise Unreachable(f"{error} Is the fleet up? `bargeline up` starts it, `bargeline status` shows it.") from error
    return Target(settings, found, servers["REDIS_URL"], servers["DATABASE_URL"], client)
