"""The command that looks at servers and pipeline, and says what is wrong and what to do."""

import sys

import click


@click.command()
@click.option("--pipeline", metavar="NAME|FOLDER", help="The pipeline to look at (default: PIPELINE, or the fleet's).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: findings, and every check with its outcome.")
@click.option("--reader", is_flag=True, help="The users of the two URLs are only to look: ask no right to write.")
@click.option("--ignore", "ignored", multiple=True, metavar="CODE", help="A finding that is known; may be repeated.")
def doctor(pipeline: str | None, as_json: bool, reader: bool, ignored: tuple[str, ...]) -> None:
    """Say what is wrong, why it matters and what to do; exit 1 if anything is.

    What cannot be looked at is a finding too. 4: a server does not answer, 2: one refuses user or password.
    Changes nothing.
    """
    import msgspec

    from bargeline.doctor.examine import examine, patient_of
    from bargeline.doctor.report import Report, text
    from bargeline.doctor.source import CdcSource
    from bargeline.fleet.control import urls
    from bargeline.target import chosen_pipeline
    from shared.pipeline import load_pipeline
    from shared.settings import load_settings
    from shared.text import printable

    settings = load_settings()
    servers = urls(settings)
    chosen = load_pipeline(pipeline or chosen_pipeline(settings))
    cdc = None
    if settings.ingest_cdc_url is not None:
        names = settings.cdc_slot(chosen.name), settings.cdc_publication(chosen.name)
        cdc = CdcSource(settings.require_cdc_url(), *names)
    patient = patient_of(
        chosen,
        servers["REDIS_URL"],
        servers["DATABASE_URL"],
        reader=reader,
        foreign_idle_seconds=settings.janitor_foreign_idle_seconds,
        durability=settings.ingest_durability,
        cdc=cdc,
    )
    try:
        found = examine(patient)
    finally:
        patient.close()
    report = Report(found.pipeline, [one for one in found.findings if one.code not in ignored], found.checks)
    click.echo(printable(msgspec.json.encode(report).decode()) if as_json else "\n".join(text(report)))
    # The server that is away counts most: what else was found is then only a part of the truth.
    codes = [4 if one.exit_code == 1 else one.exit_code for one in patient.failures.values()]
    sys.exit(max(codes, default=1 if report.findings else 0))
