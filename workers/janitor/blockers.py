"""Locks in PostgreSQL that are held by a process whose lease is gone."""

import structlog

from shared.database import Connection, application_name, blockers, translated
from shared.run import Runtime
from shared.streams import live_workers

log = structlog.get_logger()


def terminate(runtime: Runtime, connection: Connection, url: str) -> None:
    """End the transactions of frozen processes of this pipeline that others wait for.

    Whoever wakes up to a broken connection tries again, and finds its entries settled or in the load ledger.
    """
    with translated(url):
        found = blockers.blockers(connection)
        # Asked afterwards: a process has its lease before it connects.
        live = {worker.instance for worker in live_workers(runtime.client)} if found else set()
        for pid, name in found:
            instance = name.partition(" ")[0]
            ours = name == application_name(instance, runtime.pipeline.name)
            if ours and instance not in live and blockers.terminate(connection, pid):
                runtime.metrics.incident("blocker_terminated")
                log.warning("ended the transaction of a process that is gone", action="blocker", instance=instance)
