"""The commands that look at a pipeline folder."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bargeline.checking import Report
    from shared.pipeline import Pipeline


@click.group()
def pipeline() -> None:
    """Look at a pipeline folder."""


@pipeline.command()
@click.argument("name", metavar="[DIR|NAME]", required=False)
@click.option(
    "--database/--no-database",
    "asked",
    default=None,
    help="Look at the tables too, or not (default: where a database is known and answers).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check(name: str | None, asked: bool | None, as_json: bool) -> None:
    """Say what is wrong with a pipeline folder, with file and line, and what in the database does not fit it.

    Runs the sample through the transform; loads nothing. Exit 1 if anything is wrong, 4 if --database does not answer.
    """
    import msgspec

    from bargeline.checking import check_folder
    from bargeline.target import chosen_pipeline
    from shared.settings import load_settings
    from shared.text import printable

    report, found = check_folder(name or chosen_pipeline(load_settings()))
    if found is not None:
        _database(report, found, asked)
    if as_json:
        fields = {"folder": str(report.folder), "findings": report.findings}
        whole = fields | {"checked": report.checked, "not_checked": report.not_checked}
        click.echo(printable(msgspec.json.encode(whole).decode()))
    else:
        for line in _text(report):
            click.echo(printable(line))
    sys.exit(1 if report.findings else 0)


def _database(report: "Report", found: "Pipeline", asked: bool | None) -> None:
    """Look at the database; one that was not asked for may be missing."""
    from bargeline.checking import check_database
    from bargeline.fleet.control import urls
    from shared.errors import ConfigurationError, TransientError, Unreachable
    from shared.settings import load_settings

    if asked is False:
        report.not_checked.append("the database: --no-database")
        return
    settings = load_settings()
    try:
        url = settings.require_database_url() if settings.database_url else urls(settings)["DATABASE_URL"]
        check_database(report, found, url)
    except (ConfigurationError, TransientError) as error:
        if asked and isinstance(error, TransientError):
            raise Unreachable(str(error)) from error
        if asked:
            raise
        report.not_checked.append(f"the database: {error}")


def _text(report: "Report") -> list[str]:
    lines = [str(finding) for finding in report.findings]
    lines += [f"not checked: {what}" for what in report.not_checked]
    count = len(report.findings)
    verdict = f"{count} finding{'' if count == 1 else 's'}" if count else "all is well"
    return [*lines, f"{report.folder.name}: {verdict}; looked at {', '.join(report.checked) or 'the pipeline file'}"]
