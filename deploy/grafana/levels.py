"""Where a panel turns orange and red: at the levels of the alerts, so that the two never disagree."""

import tomllib
from pathlib import Path

_THRESHOLDS = Path(__file__).parents[1] / "prometheus" / "thresholds.toml"


def levels(alert: str, name: str) -> tuple[float, ...]:
    """The value called ``name`` at which an alert warns, and at which it is critical."""
    thresholds = tomllib.loads(_THRESHOLDS.read_text())[alert]
    return tuple(float(thresholds[level][name]) for level in ("warning", "critical"))
