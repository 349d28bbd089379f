"""Every Redis key of a pipeline, and who reads what.

The braces are a Redis Cluster hash tag: all keys of one partition live on one node, so that one
script can change them together. A partition is named like its pipeline.
"""

from dataclasses import dataclass

#: The janitor's consumer: entries of consumers that are gone wait here for a worker with empty hands.
RECLAIMED = "~reclaimed"

#: Stage of the pipeline → the consumer group that reads its stream.
GROUP_OF_STAGE = {"raw": "transform", "clean": "loader"}
STAGE_OF_GROUP = {group: stage for stage, group in GROUP_OF_STAGE.items()}
STAGES = tuple(GROUP_OF_STAGE)
KINDS = ("ingest", "transform", "loader", "janitor")


@dataclass(frozen=True)
class Topology:
    """The keys of one partition."""

    partition: str

    def _key(self, suffix: str) -> str:
        return f"{{{self.partition}}}:{suffix}"

    def stream(self, stage: str) -> str:
        """Stream of a stage: ``raw`` or ``clean``."""
        return self._key(stage)

    def open(self, stage: str) -> str:
        """Hash of unsettled entries: entry id → number of events."""
        return self._key(f"open:{stage}")

    @property
    def retry(self) -> str:
        """Stream of single events that wait for another attempt."""
        return self._key("retry")

    @property
    def dead(self) -> str:
        """Stream of dead letters."""
        return self._key("dead")

    @property
    def ledger(self) -> str:
        """Hash of the epoch and the counters, in events."""
        return self._key("ledger")

    @property
    def checkpoint(self) -> str:
        """Hash of source → position."""
        return self._key("checkpoint")

    @property
    def breaker(self) -> str:
        """Hash of stages that stopped consuming: stage → why."""
        return self._key("breaker")

    @property
    def lease_prefix(self) -> str:
        """What every lease key starts with."""
        return self._key("consumer:")

    def lease(self, group: str, name: str) -> str:
        """Lease of a consumer, a string with a time to live."""
        return f"{self.lease_prefix}{group}:{name}"

    def leased(self, group: str) -> str:
        """Set of consumer names that ever held a lease, to tell ours from foreign consumers."""
        return self._key(f"leased:{group}")

    def script_keys(self) -> list[str]:
        """KEYS of every script, in the order that ``lua/prelude.lua`` names them."""
        return [
            self.stream("raw"),
            self.stream("clean"),
            self.open("raw"),
            self.open("clean"),
            self.ledger,
            self.retry,
            self.dead,
            self.checkpoint,
            self.lease_prefix,
            self.leased(""),
            self.breaker,
        ]
