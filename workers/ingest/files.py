"""Files: opening them (plain, gzip, zstd), and telling whether a checkpoint still fits."""

import fnmatch
import glob
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import zstandard

BLOCK_BYTES = 1 << 20
#: Few at a time: they may expand to 30,000 times as many.
_COMPRESSED_BYTES = 8_192
FINGERPRINT_BYTES = 1024
#: Device and inode: what a file is while it exists, whatever its name.
Key = tuple[int, int]


class Checkpoint(msgspec.Struct, frozen=True):
    """Position in a source: bytes (of the decompressed content) and lines read, and what was there.

    ``read`` and ``size`` are bytes of the file itself, for progress. ``fingerprint`` covers the first and
    the last 1 KiB before the offset: a file of the same name with other content starts from its beginning.
    """

    offset: int = 0
    lines: int = 0
    fingerprint: str = ""
    read: int = 0
    size: int | None = None
    done: bool = False

    def encode(self) -> str:
        """Text of the checkpoint: equal checkpoints have equal text."""
        return msgspec.json.encode(self).decode()


def decode_checkpoint(text: str) -> Checkpoint:
    """The checkpoint that a text stands for; an empty text is the beginning."""
    return msgspec.json.decode(text, type=Checkpoint) if text else Checkpoint()


def find_files(patterns: str) -> list[Path]:
    """Files that match paths and globs, in their order, then by name; hidden ones and folders are left out.

    A path with spaces stands alone, or on a line of its own (each line ends in a newline).
    """
    found: dict[Path, None] = {}
    for pattern in _patterns(patterns):
        # Path.glob takes no absolute patterns.
        for name in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True)):  # noqa: PTH207
            path = Path(name).absolute()
            if os.path.isfile(path) and not path.name.startswith("."):  # noqa: PTH113 -- the same
                found[path] = None
    return list(found)


def closed_folder(patterns: str) -> Path | None:
    """The first folder of paths and globs that this user may not list: nothing in it would ever be found."""
    for pattern in _patterns(patterns):
        folder = Path(pattern).expanduser().parent
        try:
            os.scandir(folder).close()
        except PermissionError:
            return folder
        except OSError:
            continue  # It may come, or is itself a glob.
    return None


def readable(path: Path) -> str:
    """A path as text that can be stored: bytes that are no UTF-8 are written as ``\\xff``."""
    return os.fsencode(path).decode(errors="backslashreplace")


def matches(path: str, patterns: str) -> bool:
    """Whether a path, of a file that may be gone, could match; `*` reaches over folders here."""
    absolute = (str(Path(pattern).expanduser().absolute()) for pattern in _patterns(patterns))
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in absolute)


def key_of(path: Path) -> Key | None:
    """Device and inode of what is at a path, or None where there is nothing."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def find_inode(folder: Path, inode: int) -> Path | None:
    """The plain file with this inode in a folder, under whatever name."""
    try:
        with os.scandir(folder) as entries:
            return next(
                (Path(one.path) for one in entries if one.inode() == inode and one.is_file(follow_symlinks=False)), None
            )
    except OSError:
        return None


def _patterns(text: str) -> list[str]:
    if os.path.exists(text):  # noqa: PTH110 -- Path.exists raises where a folder on the way is closed
        return [glob.escape(text)]
    return [line.strip() for line in text.splitlines() if line.strip()] if "\n" in text else text.split()


class FileReader:
    """Blocks of the content of one file, from an offset into the decompressed content."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        self._content = _decompressed(self._file)
        self._head = b""
        self._tail = b""
        self.offset = 0
        #: Where the content that was read ends, consumed or not.
        self.end_offset = 0

    def resume(self, checkpoint: Checkpoint) -> bool:
        """Skip to the checkpoint; False (at the beginning) if the file is not the one it was made of."""
        try:
            self._skip(checkpoint.offset)
        except EOFError:
            fits = False
        else:
            fits = self.fingerprint() == checkpoint.fingerprint
        if not fits:
            self.rewind()
        return fits

    def rewind(self) -> None:
        """Go back to the beginning."""
        self._file.seek(0)
        self._content = _decompressed(self._file)
        self._head = self._tail = b""
        self.offset = self.end_offset = 0

    def _skip(self, count: int) -> None:
        if self._content is self._file and count > 4 * FINGERPRINT_BYTES:
            # A plain file is sought: only what the fingerprint needs is read.
            self._advance(self._file.read(FINGERPRINT_BYTES))
            self._file.seek(count - FINGERPRINT_BYTES)
            tail = self._file.read(FINGERPRINT_BYTES)
            if len(tail) < FINGERPRINT_BYTES:
                raise EOFError
            self._tail, self.offset = tail, count
            return
        while self.offset < count:
            block = self._content.read(min(BLOCK_BYTES, count - self.offset))
            if not block:
                raise EOFError
            self._advance(block)

    def _advance(self, block: bytes) -> None:
        if len(self._head) < FINGERPRINT_BYTES:
            self._head = (self._head + block)[:FINGERPRINT_BYTES]
        # Not of the whole block: that would copy it once more.
        self._tail = (self._tail + block[-FINGERPRINT_BYTES:])[-FINGERPRINT_BYTES:]
        self.offset += len(block)

    def blocks(self) -> Iterator[bytes]:
        """The rest of the content; raises OSError, EOFError, zlib.error or ZstdError where it is damaged."""
        self.end_offset = self.offset
        while block := self._content.read(BLOCK_BYTES):
            self.end_offset += len(block)
            yield block

    def position(self) -> int:
        """Bytes of the file itself that were read."""
        return self._file.tell()

    def consumed(self, content: bytes) -> None:
        """Note content that was made into events, for the fingerprint."""
        self._advance(content)

    def fingerprint(self) -> str:
        """Digest of the first and last 1 KiB up to the offset."""
        digest = hashlib.blake2b(self._head + b"\0" + self._tail, digest_size=12)
        digest.update(str(self.offset).encode())
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""


class _Frames:
    """The content of gzip members or zstd frames, one after another.

    Unlike the readers of those libraries it hands out what came before a damage, and notices a zstd frame
    that is cut off.
    """

    def __init__(self, file: io.FileIO, new_frame: Callable[[], Any]) -> None:
        self._file = file
        self._new_frame = new_frame
        self._frame: Any = None
        self._rest = b""
        self._content = b""
        self._failure: Exception | None = None
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; raises EOFError, zlib.error or ZstdError where the damage is."""
        while len(self._content) < size and not self._ended:
            try:
                self._content += self._more()
            except (EOFError, zlib.error, zstandard.ZstdError) as error:
                self._failure, self._ended = error, True
        if not self._content and self._failure:
            raise self._failure
        block, self._content = self._content[:size], self._content[size:]
        return block

    def _more(self) -> bytes:
        if self._frame is None:
            compressed, self._rest = self._rest or self._file.read(_COMPRESSED_BYTES), b""
            self._ended = not compressed
            # A gzip file may be padded with zeros.
            compressed = compressed.lstrip(b"\0")
            if not compressed:
                return b""
            self._frame = self._new_frame()
        else:
            compressed = self._file.read(_COMPRESSED_BYTES)
            if not compressed:
                raise EOFError("the file ends in the middle of a compressed frame")
        content: bytes = self._frame.decompress(compressed)
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, None
        return content


def _decompressed(file: io.FileIO) -> _Readable:
    """The content, decompressed if its first bytes say so, whatever the file's name."""
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return _Frames(file, lambda: zlib.decompressobj(wbits=31))
    if magic == b"\x28\xb5\x2f\xfd":
        return _Frames(file, zstandard.ZstdDecompressor().decompressobj)
    return file
