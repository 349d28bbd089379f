"""What is chosen once and remembered in ``<var>/state.json``: ports, the password, the second home."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.errors import ConfigurationError


@dataclass(frozen=True)
class State:
    """The content of the state file. ``home`` is set only where it is not the state folder itself."""

    valkey_port: int | None = None
    postgres_port: int | None = None
    postgres_password: str | None = None
    home: str | None = None


def state_file(var: Path) -> Path:
    """Path of the state file."""
    return var / "state.json"


def read_state(var: Path) -> State:
    """The remembered choices; all None if there are none yet."""
    path = state_file(var)
    try:
        return State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}). It belongs to the user who ran `bargeline up`: "
            "run this as that user."
        ) from None
    except (ValueError, TypeError):
        raise ConfigurationError(
            f"{path} is damaged. With the fleet down, delete it: ports and password are chosen anew, no data is lost."
        ) from None


def write_state(var: Path, state: State) -> None:
    """Replace the state file. It holds a password, so only its owner may read it."""
    write_private(state_file(var), json.dumps(asdict(state), indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; a crash leaves the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
