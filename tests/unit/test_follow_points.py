"""Places in followed files: generations never repeat, and are found again from the content where that tells them."""

import contextlib
import os
import random
from pathlib import Path

import msgspec
import pytest

from workers.ingest.followed import Record
from workers.ingest.growing import FollowPoint, GrowingFile, Truncated


def _next(point: FollowPoint, head: str) -> FollowPoint:
    return point.next(head, "/logs/app.log", "/logs", "here")


@pytest.mark.parametrize("kinds", [1, 2, 50, 1_000])
def test_a_generation_never_repeats(kinds: int) -> None:
    choose = random.Random(kinds)
    point, seen = FollowPoint(), set()
    for _ in range(500):
        point = _next(point, f"{choose.randrange(kinds):08x}")
        seen.add(point.generation)
        assert len(point.encode()) < 1_500
    assert len(seen) == 500


def test_a_generation_with_a_first_line_of_its_own_is_found_again() -> None:
    later = _next(_next(FollowPoint(), "one"), "two")
    assert later.generation == _next(FollowPoint(), "two").generation


def test_records_of_other_sources_are_no_records() -> None:
    point = _next(FollowPoint(offset=7), "one")
    found = Record.read("/logs/a#b.log#1f", point.encode())
    assert found is not None
    assert (found.inode, found.point.heads, found.text) == (31, ("one",), point.encode())
    for name, text in [
        ("/logs/a.log", point.encode()),
        ("/logs/a.log#1f", '{"offset":7,"lines":1}'),
        ("/logs/a.log#1f", "0/16B3748"),
        ("/logs/a.log#1f", "[]"),
    ]:
        assert Record.read(name, text) is None


def _read(file: GrowingFile) -> bytes:
    return b"".join(iter(file.next_block, b""))


@pytest.mark.parametrize("size", [10, 1_024, 5_000])
def test_what_was_read_has_to_be_there_still(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    content = b"".join(b"%08d\n" % number for number in range(size))
    path.write_bytes(content)
    with contextlib.closing(GrowingFile(path)) as file:
        assert _read(file) == content
        with path.open("ab") as more:
            more.write(b"more")
        assert _read(file) == b"more"
        path.write_bytes(content[:-1] + b"X" + b"more and more")  # truncated, and longer by now
        with pytest.raises(Truncated):
            file.next_block()


def test_a_place_fits_only_the_content_before_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one\ntwo\n")
    with contextlib.closing(GrowingFile(path)) as file:
        file.consumed(b"one\n")
        point = msgspec.structs.replace(_next(FollowPoint(), "one"), offset=4, fingerprint=file.fingerprint())
    for content, fits in [(b"one\n", True), (b"one\nthree" * 900, True), (b"onE\n", False), (b"one", False)]:
        path.write_bytes(content)
        with contextlib.closing(GrowingFile(path)) as file:
            assert file.go_on(point) is fits
            assert _read(file) == content[4 if fits else 0 :]


@pytest.mark.parametrize(("content", "offset"), [(b"", 0), (b"half", 0), (b"one\nhalf", 4), (b"one\n", 4)])
def test_the_last_line_is_begun_after_the_last_newline(tmp_path: Path, content: bytes, offset: int) -> None:
    path = tmp_path / "f"
    for filling in (0, 3_000_000):
        path.write_bytes(b"\n" * filling + content)
        expected = filling + offset
        with contextlib.closing(GrowingFile(path)) as file:
            assert file.to_last_line() == expected
            assert _read(file) == content[offset:]
        os.truncate(path, 0)
