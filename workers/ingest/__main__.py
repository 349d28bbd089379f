"""The ingest worker: events from the configured source into the raw stream."""

import importlib

from shared import run
from shared.errors import ConfigurationError
from shared.run import Runtime, Step
from shared.settings import Settings
from shared.streams import check_durability

#: The module of each source; it has ``start(runtime) -> Step``. Only the one that is asked for is imported.
_MODULES = {"file": "whole", "stdin": "stdin"}


def start(runtime: Runtime) -> Step:
    """Return the step of the configured source."""
    settings = runtime.settings
    _refuse_contradictions(settings)
    runtime.hold(lambda: check_durability(runtime.client, settings.ingest_durability))
    module = importlib.import_module(f"workers.ingest.{_MODULES[settings.ingest_source]}")
    step: Step = module.start(runtime)
    return step


def _refuse_contradictions(settings: Settings) -> None:
    if settings.ingest_follow and settings.ingest_source != "file":
        raise ConfigurationError(
            f"INGEST_FOLLOW=true follows files, but INGEST_SOURCE={settings.ingest_source}. "
            "Unset one of them: standard input is read as it comes anyway."
        )
    if settings.ingest_follow and settings.ingest_watch:
        raise ConfigurationError(
            "INGEST_FOLLOW=true and INGEST_WATCH=true are both set. Follow files that somebody writes to and rotates; "
            "watch a folder that whole files are dropped into. Unset the other one."
        )
    if settings.ingest_start != "beginning" and not settings.ingest_follow:
        raise ConfigurationError(
            f"INGEST_START={settings.ingest_start} needs INGEST_FOLLOW=true: otherwise files are read whole."
        )


if __name__ == "__main__":
    run.main("ingest", start)
