"""The clickstream pipeline's function for data without a model: plain dicts in, the same rows out."""

from typing import Any

from bargeline import Event, InvalidEvent


def enrich(event: Event[dict[str, Any]]) -> Event[dict[str, Any]] | None:
    """Trim the timezone, refuse a click that names none, drop what declares itself a bot."""
    click = event.data
    if click["device_type"] == "Bot":
        return None
    click["os_timezone"] = click["os_timezone"].strip()
    if not click["os_timezone"]:
        raise InvalidEvent("os_timezone is empty: a click without a timezone belongs to no rollup")
    return event
