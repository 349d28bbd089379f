"""Where the files of a fleet lie below its state folder."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bargeline.embedded.places import own_folder, short_hash, state_folder
from shared.errors import ConfigurationError

#: Bytes in the path of a Unix socket (104 on macOS, 108 on Linux), less the `.<pid>` that supervisord
#: appends while it creates one.
SOCKET_PATH_BYTES = 104 - len(".12345678") - 1
#: No escape makes supervisord read a path with one of these (it expands `%` once in some places, twice in others).
UNREADABLE = re.compile(r"[%*?\[\]\"'\n\r]|\s[;#]|^\s|\s$")


@dataclass(frozen=True)
class Paths:
    """The files of the fleet whose state folder is ``var`` (absolute)."""

    var: Path

    @property
    def folder(self) -> Path:
        """Folder of everything about supervisord; only its owner may look inside."""
        return self.var / "supervisor"

    @property
    def configuration(self) -> Path:
        """Configuration of supervisord itself."""
        return self.folder / "supervisord.conf"

    @property
    def programs(self) -> Path:
        """Folder with one file for each supervised process."""
        return self.folder / "programs"

    @property
    def plan(self) -> Path:
        """What the last `up` or `scale` asked for."""
        return self.folder / "plan.json"

    @property
    def lock(self) -> Path:
        """Held by a command that changes the fleet."""
        return self.folder / "lock"

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.var / "log"

    @property
    def inbox(self) -> Path:
        """Files dropped here are ingested."""
        return self.var / "inbox"

    @property
    def socket(self) -> Path:
        """Socket of supervisord, in a place with a short path if the state folder's is too long."""
        inside = self.folder / "socket"
        if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
            return inside
        # Not $TMPDIR: every shell must find the same one.
        return Path("/tmp") / f"bargeline-{os.geteuid()}" / short_hash(self.var)  # noqa: S108 -- see own_folder

    def log(self, program: str) -> Path:
        """Log file of a supervised process."""
        return self.logs / f"{program}.log"

    def create(self) -> None:
        """Create the folders; raises ConfigurationError if the state folder will not do."""
        if UNREADABLE.search(str(self.var)):
            raise ConfigurationError(
                f"BARGELINE_VAR={self.var}: supervisord cannot read a path with quotes, brackets, wildcards, %, "
                "or a blank before ; or #. Set BARGELINE_VAR to another folder."
            )
        state_folder(self.var)
        for folder in (self.folder, self.programs, self.logs, self.inbox):
            folder.mkdir(exist_ok=True)
        self.folder.chmod(0o700)
        if self.socket.parent != self.folder:
            own_folder(self.socket.parent).chmod(0o700)


def paths_of(var: Path) -> Paths:
    """Paths of the fleet in ``var``, the same for every spelling of that folder."""
    return Paths(var.resolve())
