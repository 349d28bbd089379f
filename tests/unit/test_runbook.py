"""docs/runbook.md: a section for each alert, an alert for each section, and commands that there are."""

import re
import shlex
from pathlib import Path

import click
import pytest

from bargeline.cli import root
from deploy.prometheus.render import RULES

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
TEXT = RUNBOOK.read_text()
COMMANDS = sorted({found for text in (TEXT, RULES.read_text()) for found in re.findall(r"`(bargeline [^`{]+)`", text)})


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_alert_has_its_section_and_every_section_an_alert() -> None:
    sections = {f"docs/runbook.md#{_anchor(heading)}" for heading in re.findall(r"^## (.+)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"runbook: (\S+)", RULES.read_text())) == sections


def test_every_section_says_where_to_look_what_is_usual_and_what_to_do() -> None:
    for section in TEXT.split("\n## ")[1:]:
        for word in ("Look: ", "Usual: ", "Do: "):
            assert f"\n{word}" in section, section


def test_links_within_the_page_and_to_files_lead_somewhere() -> None:
    anchors = {_anchor(heading) for heading in re.findall(r"^## (.+)$", TEXT, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        assert anchor in anchors if anchor else (RUNBOOK.parent / path).exists(), target


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_that_is_named_exists_with_its_options(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = root.get_command(click.Context(root), name)
    assert command, name
    command.make_context(name, arguments)


def test_a_command_or_an_option_that_is_not_there_is_noticed() -> None:
    status = root.get_command(click.Context(root), "status")
    assert status
    with pytest.raises(click.NoSuchOption):
        status.make_context("status", ["--colour"])
    with pytest.raises(AssertionError, match="conjure"):
        test_every_command_that_is_named_exists_with_its_options("bargeline conjure")
