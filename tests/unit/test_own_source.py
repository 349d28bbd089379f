"""A source of one's own: what is none is told in a sentence that names the setting and what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from bargeline.commands.fleet import _source
from shared.errors import BargelineError, ConfigurationError, TransientError
from shared.pipeline import load_pipeline
from shared.run import Runtime
from shared.settings import load_settings
from tests.workers import make_pipeline
from workers.ingest import own


def _interruption(folder: Path, code: str) -> TransientError | None:
    """What reading a source, written as ``feed.py``, comes to."""
    make_pipeline(folder, "p")
    (folder / "feed.py").write_text(code)
    settings = load_settings({"INGEST_SOURCE": "feed:read", "REDIS_URL": "redis://nowhere:1"})
    step: Any = own.start(Runtime("ingest", settings, load_pipeline(str(folder))))
    reading = own.Reading(step.__self__._source, None, step.__self__._maker)
    while not reading.buffer.done:
        reading.buffer.take(10)
    return reading.interruption()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("", r"INGEST_SOURCE=feed:read: module 'feed' \(.*feed.py\) has no 'read'"),
        ("import no_such_client", "no module 'no_such_client' in "),
        ("read = 7", "INGEST_SOURCE=feed:read: it is int 7, not callable"),
        ("def read(position): return 7", r"it returned int 7. Write a function that yields \(position, event\)"),
        ("async def read(position): yield 1, {}", "it returned async_generator "),
        ("def read(position): yield {'n': 1}", r"it yielded dict {'n': 1}. Yield \(position, event\)"),
        ("def read(position): yield 1, {}, 3", r"it yielded tuple \(1, {}, 3\). Yield"),
        ("def read(position): yield 17, 4.5", "with position 17 it yielded float 4.5. An event is a dict,"),
        ("def read(position): yield object(), {}", "a position has to be writable as JSON"),
        (
            "import bargeline\ndef read(p):\n  yield 1, {}\n  raise bargeline.InvalidEvent('odd')",
            r"\(odd\), which ends",
        ),
    ],
)
def test_what_is_no_source_is_said_in_a_sentence(tmp_path: Path, code: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        _interruption(tmp_path, code)
    assert str(caught.value).startswith("INGEST_SOURCE=feed:read: ")


def test_sys_exit_does_not_end_the_worker_as_if_it_were_done(tmp_path: Path) -> None:
    with pytest.raises(BargelineError, match=r"it called sys.exit. Return where the source ends"):
        _interruption(tmp_path, "import sys\ndef read(position):\n  yield 1, {}\n  sys.exit(0)")


@pytest.mark.parametrize("error", ["OSError('away')", "TimeoutError('away')", "bargeline.TransientError('away')"])
def test_what_heals_by_waiting_is_told_from_what_does_not(tmp_path: Path, error: str) -> None:
    found = _interruption(tmp_path, f"import bargeline\ndef read(position):\n  yield 1, {{}}\n  raise {error}")
    assert "away" in str(found)
    with pytest.raises(ValueError, match="broken"):
        _interruption(tmp_path / "other", "def read(position):\n  yield 1, {}\n  raise ValueError('broken')")


@pytest.mark.parametrize(
    ("checkpoint", "text"),
    [
        ({"position": 1_234, "lines": 5}, "1,234"),
        ({"position": {"page": "\x1b[2J"}, "lines": 5}, '{"page": "\\u001b[2J"}'),
        ({"offset": 70_000, "size": 80_000}, "70,000 of 80,000"),
        ({"position": "x" * 100}, '"' + "x" * 39),
    ],
)
def test_status_shows_a_position(checkpoint: dict[str, Any], text: str) -> None:
    assert _source("feed:read", checkpoint)["OFFSET"] == text


def test_any_iterable_of_pairs_will_do(tmp_path: Path) -> None:
    assert _interruption(tmp_path, "def read(position): return [(1, {}), None, (2, {})]") is None
