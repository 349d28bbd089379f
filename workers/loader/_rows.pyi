from collections.abc import Callable

from workers.loader.native import Told

VERSION: int

def rows(
    body: bytes, count: int, kind: bytes | None, plan: Told, moment_of: Callable[[bytes, int], int | None]
) -> tuple[bytes, list[dict[bytes, int]]] | None: ...
