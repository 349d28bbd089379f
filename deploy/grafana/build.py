"""Writes the dashboards that Grafana reads: `python -m deploy.grafana.build`."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.dead_letters import DEAD_LETTERS
from deploy.grafana.overview import OVERVIEW
from deploy.grafana.servers import SERVERS
from deploy.grafana.workers import WORKERS

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = {"overview": OVERVIEW, "workers": WORKERS, "dead-letters": DEAD_LETTERS, "servers": SERVERS}


def rendered() -> dict[str, str]:
    """File name → its text."""
    return {
        f"{name}.json": json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }


def main() -> None:
    """Write every dashboard, and remove files of dashboards that are no more."""
    files = rendered()
    for stale in FOLDER.glob("*.json"):
        if stale.name not in files:
            stale.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
