"""Clicks: check the eight fields and tidy them; clicks of bots that say so are left out."""

import msgspec

from bargeline import Event, InvalidEvent


class Click(msgspec.Struct):
    """One click as the browser sends it."""

    click_id: str
    os: str
    os_name: str
    os_timezone: str
    device_type: str
    device_is_mobile: bool
    user_custom_id: str
    user_domain_id: str


def enrich(event: Event[Click]) -> Event[Click] | None:
    """Trim the timezone, refuse a click that names none, drop what declares itself a bot."""
    click = event.data
    if click.device_type == "Bot":
        return None
    click.os_timezone = click.os_timezone.strip()
    if not click.os_timezone:
        raise InvalidEvent("os_timezone is empty: a click without a timezone belongs to no rollup")
    return event
