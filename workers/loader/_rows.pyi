from collections.abc import Callable

from workers.loader.native import Told

VERSION: int

def rows(
    body: bytes, count: int, kind: bytes | None, plan: Told, written: Callable[[bytes], int | None]
) -> tuple[bytes, list[dict[bytes, int]]] | None: ...
