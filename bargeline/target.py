"""What a command works on: the pipeline, and the servers that the environment or the fleet names."""

from dataclasses import dataclass

from bargeline.fleet.control import urls
from bargeline.fleet.paths import paths_of
from bargeline.fleet.plan import read_plan
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


def chosen_pipeline(settings: Settings) -> str:
    """Name or folder of the pipeline: of the environment, else of the fleet in BARGELINE_VAR, else the default."""
    plan = None if "pipeline" in settings.model_fields_set else read_plan(paths_of(settings.var))
    return plan.settings.pipeline if plan else settings.pipeline


def find_target(pipeline: str | None = None) -> Target:
    """The pipeline and servers by option or environment, else those of the fleet in BARGELINE_VAR.

    Raises Unreachable when Redis does not answer.
    """
    settings = load_settings()
    found = load_pipeline(pipeline or chosen_pipeline(settings))
    servers = urls(settings)
    client = Client(servers["REDIS_URL"], Topology(found.name), "bargeline-command")
    try:
        client.call("PING")
    except TransientError as error:
        raise Unreachable(f"{error} Is the fleet up? `bargeline up` starts it, `bargeline status` shows it.") from error
    return Target(settings, found, servers["REDIS_URL"], servers["DATABASE_URL"], client)
