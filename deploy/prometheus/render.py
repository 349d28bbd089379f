"""Renders the alert rules from their template and the thresholds: `python -m deploy.prometheus.render`.

Needs nothing but Python, so that it runs where Prometheus does.
"""

import argparse
import re
import string
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

HERE = Path(__file__).parent
THRESHOLDS = HERE / "thresholds.toml"
TEMPLATE = HERE / "alerts.template.yml"
RULES = HERE / "rules" / "alerts.yml"
LEVELS = ("critical", "warning")

#: Alert → level → name of a value → the value.
Thresholds: TypeAlias = Mapping[str, Mapping[str, Any]]

_HEAD = "# Rendered from thresholds.toml and alerts.template.yml by `python -m deploy.prometheus.render`: edit those.\n"
_ALERT = re.compile(r"^ *- alert: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^ *#.*\n", re.MULTILINE)


class _Block(string.Template):
    """``$`` and braces are Prometheus' own."""

    delimiter = "@"
    idpattern = "[a-z_]+"


def render(template: str, thresholds: Thresholds) -> str:
    """The rules: each block of the template once for each level. Raises ValueError if the two do not fit."""
    head, *blocks = re.split(r"\n{2,}", _COMMENT.sub("", template).strip())
    named = {found[1]: block for block in blocks if (found := _ALERT.search(block))}
    if unknown := sorted(set(thresholds) - set(named)):
        raise ValueError(f"{', '.join(unknown)}: there is no such alert; there are {', '.join(sorted(named))}")
    rendered = [rule for name, block in named.items() for rule in _levels(name, block, thresholds.get(name, {}))]
    return "\n\n".join([_HEAD + head, *rendered]) + "\n"


def _levels(name: str, block: str, levels: Mapping[str, Any]) -> Iterator[str]:
    rule = _Block(block)
    needed = set(rule.get_identifiers()) - {"severity"}
    if unknown := sorted(set(levels) - set(LEVELS)):
        raise ValueError(f"{name}: {', '.join(unknown)} is no level; there are {' and '.join(LEVELS)}")
    for level in LEVELS:
        if level in levels:
            given = levels[level]
            if not isinstance(given, dict) or set(given) != needed:
                raise ValueError(f"{name}, {level}: {given} is not a value for each of {', '.join(sorted(needed))}")
            yield rule.substitute(given, severity=level)


def main() -> None:
    """Read the files and write the rules, or end with the reason why they do not fit."""
    parser = argparse.ArgumentParser(description="Render the alert rules from the thresholds.")
    parser.add_argument("--thresholds", type=Path, default=THRESHOLDS, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=RULES, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        rules = render(TEMPLATE.read_text(), tomllib.loads(arguments.thresholds.read_text()))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {arguments.thresholds}: {error}")
    arguments.output.write_text(rules)


if __name__ == "__main__":
    main()
