"""The ingest worker: events from the configured source into the raw stream."""

import importlib

from shared import run
from shared.errors import ConfigurationError
from shared.run import Runtime, Step
from shared.settings import Settings
from shared.streams import check_durability

#: The module of each source; it has ``start(runtime) -> Step``. Only the one that is asked for is imported.
_MODULES = {
    "file": "whole",
    "stdin": "stdin",
    "http": "http.server",
    "pubsub": "pubsub",
    "stream": "stream",
    "generator": "generator",
    "cdc": "cdc.source",
}
_OWN = "own"


def start(runtime: Runtime) -> Step:
    """Return the step of the configured source."""
    settings = runtime.settings
    _refuse_contradictions(settings)
    runtime.hold(lambda: check_durability(runtime.client, settings.ingest_durability))
    module = importlib.import_module(f"workers.ingest.{_MODULES.get(settings.ingest_source, _OWN)}")
    step: Step = module.start(runtime)
    return step


def _refuse_contradictions(settings: Settings) -> None:
    source, start = settings.ingest_source, settings.ingest_start
    if settings.ingest_follow and source != "file":
        raise ConfigurationError(
            f"INGEST_FOLLOW=true follows files, but INGEST_SOURCE={source}. Unset one of them: only files need to be "
            "followed."
        )
    if settings.ingest_follow and settings.ingest_watch:
        raise ConfigurationError(
            "INGEST_FOLLOW=true and INGEST_WATCH=true are both set. Follow files that somebody writes to and rotates; "
            "watch a folder that whole files are dropped into. Unset the other one."
        )
    if start != "beginning" and not settings.ingest_follow and source != "stream":
        raise ConfigurationError(
            f"INGEST_START={start} needs INGEST_FOLLOW=true or INGEST_SOURCE=stream: other sources are read whole, or "
            "from now on."
        )
    if settings.ingest_follow and start not in ("beginning", "latest"):
        raise ConfigurationError(f"INGEST_START={start}: a followed file is read from its beginning or latest line.")


if __name__ == "__main__":
    run.main("ingest", start)
