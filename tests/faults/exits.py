"""How processes of the fleet ended, against what the schedule explains."""

import re
import signal
from collections import Counter
from collections.abc import Iterator

from tests.faults.ground import WORKERS
from tests.faults.kit import Kit

_EXITED = re.compile(r"exited: (?P<name>[\w-]+) \((?P<how>exit status \d+|terminated by \w+)")
_FATAL = re.compile(r"gave up: (?P<name>[\w-]+) entered FATAL state")
#: What Python and the run loop write when something went wrong that nobody expected.
_TROUBLE = re.compile(r"^(Traceback \(most recent|Fatal Python error|Timeout \(|error: ).*", re.MULTILINE)
POISON_EXIT = "exit status 77"
REFUSED = "exit status 3"


def exits(kit: Kit) -> Iterator[str]:
    """Each end of a process that nothing in the schedule explains."""
    log = kit.ground.paths.logs / "supervisord.log"
    text = "".join(path.read_text(errors="replace") for path in sorted(log.parent.glob(f"{log.name}*")))
    ended = Counter((found["name"], found["how"]) for found in _EXITED.finditer(text))
    for (name, how), times in sorted(ended.items()):
        explained = _explained(kit, name, how)
        if times > explained:
            yield f"{name} ended {times} times by {how}; the schedule explains {explained}"
    for found in _FATAL.finditer(text):
        yield f"supervisord gave up {found['name']}"
    states = kit.ground.processes()
    for name in WORKERS:
        if name not in states or states[name].state not in ("RUNNING", "STARTING"):
            yield f"{name} is {states[name].state if name in states else 'gone'} at the end"
    yield from _trouble(kit)


def _explained(kit: Kit, name: str, how: str) -> int:
    """How often a worker may have ended so."""
    any_number = 1_000
    poisoned = kit.load.has_poison and name.startswith("transform")
    match how:
        case "exit status 77":
            return any_number if poisoned else 0
        case "exit status 3":
            # It woke after its lease had lapsed, and a second process had its name.
            return any_number if name in kit.robbed else 0
        case "terminated by SIGKILL":
            crashes = sum(1 for _ in kit.ground.code.glob(f"crashed-{name}-*"))
            return any_number if poisoned else kit.sent[name, signal.SIGKILL] + crashes
        case "exit status 0" | "terminated by SIGTERM" | "exit status 143":
            return kit.sent[name, signal.SIGTERM]
    return 0


def _trouble(kit: Kit) -> Iterator[str]:
    """Tracebacks and last words in the workers' logs."""
    for path in sorted(kit.ground.paths.logs.glob("*.log*")):
        if path.name.startswith("supervisord"):
            continue
        words = Counter(found[0][:160] for found in _TROUBLE.finditer(path.read_text(errors="replace")))
        for text, times in words.items():
            if "holds this name in group" in text:
                continue
            yield f"{path.name}: {text} ({times} times)"
