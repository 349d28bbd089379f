"""Logs: one line an occurrence, never one an event."""

import logging
import sys
from typing import Any

import structlog

from shared.text import printable


def _without_control(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Names and errors of strangers must not steer the terminal; JSON escapes them anyhow."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}


def configure(level: str, style: str, **bound: Any) -> None:
    """Send structured lines to stderr, as JSON or as text for people; ``bound`` is on every line."""

    def bind(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # Not context variables: threads (lease, sampler) would not see them.
        return {**event, **bound}

    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=0,
            # The default shows local variables, and one of them is a URL with its password.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    structlog.configure(
        processors=[
            bind,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if style == "json" else [_without_control]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
