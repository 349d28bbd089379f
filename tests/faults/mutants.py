"""The kit, tested: copies of the code with one promise broken each, which the verdict has to notice.

Some windows are a millisecond wide. To open them a mutant also carries the crash itself: SIGKILL to its own
process, once for each worker. The controls carry the same crashes in sound code, and have to pass: so it is
the broken promise that is noticed, never the crash.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.run import Options
from tests.workers import ROOT

_CODE = ("bargeline", "config", "migrations", "shared", "workers")
_CONSUMER = "shared/streams/consumer.py"
_SETTLE = "shared/streams/lua/settle.lua"
_SETTLE_CLEAN = "shared/streams/lua/settle_clean.lua"
_LOADER = "workers/loader/__main__.py"
_RAW_CALL = '    reply = client.script("settle", *arguments)\n'
_RAW_END = "    return Settled([first == 1 for first in reply[2:]], int(reply[1]))\n"
_RAW_FENCE = "  local events = fence('raw', entry.id, entry.foreign)\n"
_CLEAN_CALL = '    return [first == 1 for first in client.script("settle_clean", *arguments)]\n'
_CLEAN_FENCE = "  local events = fence('clean', entry.id, entry.foreign)\n"
_COMMIT = "        figures = runtime.hold("
_SETTLED = "        for entry in entries:\n            runtime.metrics.latency("
_COMMITTED = "        committed = time.time()\n"
#: Instead of the fence: what an earlier call found out is the next argument.
_TOLD = """  local events = number() == 1 and entry.events or nil
  if events then count('{0}.' .. (entry.foreign and 'foreign' or 'settled'), events) end
"""
_CRASH = '''"""The crash of a mutant."""

import os
import signal
from pathlib import Path


def crash(place: str) -> None:
    """SIGKILL to this process, once for each worker and place."""
    name = "-".join(os.environ["CONSUMER_NAME"].split("-")[-2:])
    try:
        os.close(os.open(Path(__file__).with_name(f"crashed-{name}-{place}"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def ack(client, stage, entry_id, foreign):
    """Take an entry through its fence and out of the pending entries, in calls of their own."""
    stream = client.topology.stream(stage)
    fence = ("XDEL", stream, entry_id) if foreign else ("HDEL", client.topology.open(stage), entry_id)
    first = client.call(*fence)
    client.call("XACK", stream, {"raw": "transform", "clean": "loader"}[stage], entry_id)
    return first
'''
_IMPORT = "from crash import ack, crash\n"


@dataclass(frozen=True)
class Edit:
    """A piece of a file, which has to be there exactly once, and what stands there instead."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A broken promise: its edits, the strikes that bring it to light, and what the verdict says of it."""

    name: str
    edits: tuple[Edit, ...]
    #: A pattern that one of the violations has to match; empty for a control, which has none.
    noticed: str
    only: tuple[str, ...] = ("transform-zombie", "loader-zombie", "kill")


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def _python(path: str, *edits: tuple[str, str]) -> tuple[Edit, ...]:
    """Edits of a Python file that use the crash; ``import structlog`` and such stay where they are."""
    first = {_CONSUMER: "from collections.abc import Iterator, Sequence\n", _LOADER: "import time\n"}[path]
    return (Edit(path, first, f"{_IMPORT}{first}"), *(Edit(path, old, new) for old, new in edits))


CONTROLS = (
    Mutant(
        "sound-transform-that-crashes",
        _python(
            _CONSUMER,
            (_RAW_CALL, f'    crash("before")\n{_RAW_CALL}    crash("after")\n'),
        ),
        "",
    ),
    Mutant(
        "sound-loader-that-crashes",
        _python(
            _LOADER,
            (_COMMIT, f'        crash("before")\n{_COMMIT}'),
            (_COMMITTED, f'        crash("committed")\n{_COMMITTED}'),
            (_SETTLED, f'        crash("settled")\n{_SETTLED}'),
        ),
        "",
    ),
)
MUTANTS = (
    Mutant(
        "settle-ack-before-effect",
        (
            *_python(
                _CONSUMER,
                (
                    _RAW_CALL,
                    _lines(
                        '    firsts = [ack(client, "raw", one.entry.id, one.entry.foreign) for one in outcomes]',
                        '    crash("acked")',
                        '    reply = client.script("settle", *arguments, *firsts)',
                    ),
                ),
            ),
            Edit(_SETTLE, _RAW_FENCE, _TOLD.format("raw")),
        ),
        "LOST",
    ),
    Mutant(
        "settle-effect-without-answer",
        (Edit(_SETTLE, "  if events then table.insert(first, entry) end\n", "  table.insert(first, entry)\n"),),
        "does not balance",
        only=("transform-zombie",),
    ),
    Mutant(
        "settle-counter-outside",
        (
            *_python(
                _CONSUMER,
                (
                    _RAW_END,
                    _lines(
                        '    crash("settled")',
                        "    for one, first in zip(outcomes, reply[2:]):",
                        '        client.call("HINCRBY", client.topology.ledger, "mapped", one.mapped * first)',
                        _RAW_END.rstrip(),
                    ),
                ),
            ),
            Edit(_SETTLE, "  count('mapped', entry.mapped)\n", ""),
        ),
        "does not balance",
        only=("kill",),
    ),
    Mutant(
        "settle-clean-ack-before-effect",
        (
            *_python(
                _LOADER,
                (
                    _COMMIT,
                    _lines(
                        "        runtime.client.early = {",
                        '            one.id: ack(runtime.client, "clean", one.id, one.foreign) for one in entries',
                        "        }",
                        '        crash("acked")',
                    )
                    + _COMMIT,
                ),
            ),
            Edit(
                _CONSUMER,
                _CLEAN_CALL,
                "    firsts = [client.early.get(one.entry_id, 0) for one in results]\n"
                '    return [first == 1 for first in client.script("settle_clean", *arguments, *firsts)]\n',
            ),
            Edit(_SETTLE_CLEAN, _CLEAN_FENCE, _TOLD.format("clean")),
        ),
        "LOST",
    ),
    Mutant(
        "settle-clean-effect-without-answer",
        (Edit(_SETTLE_CLEAN, "  if events then\n", "  if true then\n"),),
        "does not balance",
        only=("loader-zombie",),
    ),
    Mutant(
        "settle-clean-counter-outside",
        (
            *_python(
                _CONSUMER,
                (
                    _CLEAN_CALL,
                    _lines(
                        '    firsts = client.script("settle_clean", *arguments)',
                        '    crash("settled")',
                        "    for one, first in zip(results, firsts):",
                        '        client.call("HINCRBY", client.topology.ledger, "loaded", one.loaded * first)',
                        "    return [first == 1 for first in firsts]",
                    ),
                ),
            ),
            Edit(_SETTLE_CLEAN, "    count('loaded', entry.loaded)\n", ""),
        ),
        "does not balance",
        only=("kill",),
    ),
    Mutant(
        "trim-by-length",
        (Edit("shared/streams/lua/trim.lua", "'MINID', floor)", "'MAXLEN', 20)"),),
        "LOST",
    ),
    Mutant(
        "loader-without-ledger-row",
        (
            *_python(_LOADER, (_COMMITTED, f'        crash("committed")\n{_COMMITTED}')),
            Edit(
                "shared/database/load.py",
                "    rows: list[Any] = connection.execute(CLAIM, asked(stream, claims)).fetchall()\n"
                "    return {(row[0], row[1]) for row in rows}\n",
                "    return {one.key for one in claims}\n",
            ),
            Edit("shared/database/at_once.py", "sql.SQL(LEDGER)", 'sql.SQL(LEDGER + " WHERE false")'),
        ),
        "counts .* duplicates",
        only=("kill",),
    ),
)
#: Enough for each mutant to be caught, and no more.
_QUICK = Options(seed=4, strikes=3, events=10_000, seconds=18, poison=0, quiet=True)


def options(mutant: Mutant, code: Path) -> Options:
    """A short run that is biased to what brings the mutant to light."""
    # What a mutant lost from sight never drains.
    return replace(_QUICK, only=mutant.only, code=code, drain_seconds=15 if mutant.noticed else 120)


def mutate(mutant: Mutant, folder: Path) -> Path:
    """Copy the code into ``folder`` and edit it; raises AssertionError if a piece is not there exactly once."""
    for name in _CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "crash.py").write_text(_CRASH)
    for edit in mutant.edits:
        path = folder / edit.path
        text = path.read_text()
        assert text.count(edit.old) == 1, f"{mutant.name}: {edit.path} holds {text.count(edit.old)} times {edit.old!r}"
        path.write_text(text.replace(edit.old, edit.new))
    return folder
