"""What the programs share: the click, its check, its row, and the first lines of a file."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

COLUMNS = (
    "event_id, occurred_at, click_id, os_name, os_timezone, device_type, device_is_mobile, user_domain_id, payload"
)

#: All these libraries deliver a click again after a crash, so its row takes its id from it.
INSERT = f"INSERT INTO clicks ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"


class Click(BaseModel):
    """One click as the browser sends it."""

    click_id: str
    os: str
    os_name: str
    os_timezone: str
    device_type: str
    device_is_mobile: bool
    user_custom_id: str
    user_domain_id: str


def tidied(click: Click) -> Click:
    """Trim the timezone; raises ValueError for a click that names none."""
    click.os_timezone = click.os_timezone.strip()
    if not click.os_timezone:
        raise ValueError("os_timezone is empty")
    return click


def row(click: Click) -> tuple[Any, ...]:
    """The values of COLUMNS."""
    return (
        click.click_id,
        datetime.now(UTC),
        click.click_id,
        click.os_name,
        click.os_timezone,
        click.device_type,
        click.device_is_mobile,
        click.user_domain_id,
        click.model_dump_json(),
    )


def read(path: str, events: int) -> Iterator[Click]:
    """The first clicks of a file of NDJSON."""
    with Path(path).open("rb") as lines:
        yield from map(Click.model_validate_json, itertools.islice(lines, events))
