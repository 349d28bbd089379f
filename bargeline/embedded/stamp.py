"""Every data directory says which engine and version wrote it: another could not read it, or worse, would."""

import json
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigurationError

STAMP = "bargeline.json"


@dataclass(frozen=True)
class Stamp:
    """An engine and its version, such as ``Valkey 9.1.2``."""

    engine: str
    version: str

    def __str__(self) -> str:
        return f"{self.engine} {self.version}"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version in a form that can be compared."""
        return tuple(int(part) for part in self.version.split("."))


def write_stamp(data: Path, stamp: Stamp) -> None:
    """Record who wrote the directory."""
    (data / STAMP).write_text(json.dumps({"engine": stamp.engine, "version": stamp.version}) + "\n")


def read_stamp(data: Path) -> Stamp | None:
    """Who wrote the directory, or None if it does not say."""
    try:
        content = json.loads((data / STAMP).read_text())
        return Stamp(content["engine"], content["version"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"{data / STAMP} is damaged: it must name the engine and version that wrote {data}."
        ) from None


def check_stamp(data: Path, ours: Stamp, *, same_major: bool) -> None:
    """Refuse a directory that ``ours`` cannot read; note the version when a newer one takes it over.

    Newer servers read what older ones wrote; with ``same_major`` (PostgreSQL) only within a major version.
    """
    wrote = read_stamp(data)
    if wrote is None:
        raise _mismatch(data, "an unknown server (it has no stamp of bargeline's)", ours)
    older = wrote.numbers <= ours.numbers
    if wrote.engine != ours.engine or not older or (same_major and wrote.numbers[0] != ours.numbers[0]):
        raise _mismatch(data, str(wrote), ours)
    if wrote != ours:
        write_stamp(data, ours)


def _mismatch(data: Path, wrote: str, ours: Stamp) -> ConfigurationError:
    return ConfigurationError(
        f"The data in {data} was written by {wrote}, and this is {ours}, which cannot read it. Install the "
        f"version that wrote it, or move the directory away and start anew: `mv {data} {data}.old`."
    )
