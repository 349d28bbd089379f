"""Where things lie on disk: the state folder, and a second place for what root hands away."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from bargeline.embedded.accounts import Account, reaches
from shared.errors import ConfigurationError

#: Tried in this order by root when the servers' account cannot reach the state folder. The first
#: is for data that outlives a reboot; systems without it have the second.
SECOND_HOMES = (Path("/var/lib/bargeline"), Path("/var/tmp/bargeline"))  # noqa: S108 -- see own_folder


def state_folder(var: Path) -> Path:
    """Create the state folder if need be; raises ConfigurationError if it cannot be written."""
    try:
        var.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=var).close()
    except OSError as error:
        raise ConfigurationError(
            f"BARGELINE_VAR={var}: the state folder cannot be written ({error.strerror}). "
            "Set BARGELINE_VAR to a folder that you may write."
        ) from None
    return var


def home_of_servers(var: Path, account: Account | None) -> Path:
    """The folder that holds the servers' data: ``var``, or a second home if the account cannot reach it."""
    if reaches(account, var):
        return var
    for parent in SECOND_HOMES:
        home = parent / f"{var.parent.name}-{short_hash(var)}"
        if _usable(parent) and _usable(home) and reaches(account, home):
            return home
    raise ConfigurationError(
        f"BARGELINE_VAR={var}: the account that runs the servers cannot reach this folder, nor any of "
        f"{', '.join(map(str, SECOND_HOMES))}. Set BARGELINE_VAR to a folder that other users may traverse, "
        "such as /srv/bargeline."
    )


def short_hash(path: Path) -> str:
    """A short name for a path, always the same for the same path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:10]


def _usable(folder: Path) -> bool:
    try:
        own_folder(folder)
    except (OSError, ConfigurationError):
        return False
    return True


def own_folder(folder: Path) -> Path:
    """Create ``folder``, or make sure that it is a real folder that nobody else can write.

    In a place that everybody may write, another user could have put one there first.
    """
    folder.mkdir(mode=0o755, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigurationError(f"{folder} must be a folder that belongs to you alone. Remove it and try again.")
    return folder
