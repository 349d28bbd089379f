"""Bytes with something wrong."""

import random


def damaged(content: bytes, seeded: random.Random) -> bytes:
    """The content with one to five places where bytes are gone, came in, or are others."""
    found = bytearray(content)
    for _ in range(seeded.choice((1, 1, 2, 5))):
        place = seeded.randrange(len(found))
        if seeded.random() < 0.3:
            del found[place : place + seeded.choice((1, 2, 30))]
        elif seeded.random() < 0.5:
            found[place:place] = bytes(seeded.choices(b'"\\{}[],:0e-\n\t u\0\xff', k=seeded.choice((1, 2))))
        else:
            found[place] = seeded.randrange(256)
    return bytes(found)
