"""DICOM files with changed bytes, the same for a seed every time: in the tests a few, in the benchmarks thousands."""

from __future__ import annotations

import random
import re

__all__ = ["KINDS", "mutated"]

KINDS = ("cut", "flip", "flip", "length", "bytes")
_LENGTH = re.compile(
    rb"(?:A[EST]|CS|D[AST]|F[DL]|IS|L[OT]|PN|S[HLST]|TM|U[ILS])(?P<two>..)"
    rb"|(?:O[BDFLW]|SQ|U[CNRT])\0\0(?P<four>....)"
    rb"|\xfe\xff\x00\xe0(?P<item>....)",
    re.DOTALL,
)
"""Where explicit files say how long a value is, and all files how long an item."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Cut at a sixteenth, some bits flipped, a length changed, or a few bytes replaced.

    Args:
        data: a file.
        rng: decides what is done.
    """
    kind = rng.choice(KINDS)
    if kind == "cut":
        return data[: len(data) * rng.randrange(16) // 16]
    changed = bytearray(data)
    places = [found.span(found.lastgroup or 0) for found in _LENGTH.finditer(data)] if kind == "length" else []
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 3])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif places:
        start, stop = rng.choice(places)
        changed[start:stop] = _other_length(int.from_bytes(data[start:stop], "little"), stop - start, rng)
    else:
        at, count = rng.randrange(132, len(changed) - 4), rng.choice([2, 4])
        changed[at : at + count] = rng.randbytes(count)
    return bytes(changed)


def _other_length(length: int, size: int, rng: random.Random) -> bytes:
    """A length that is a little or far too short or long, odd, huge or undefined."""
    most = (1 << 8 * size) - 1
    others = (0, length // 2, length - 2, length - 1, length + 1, length + 2, length * 2 + 2, most, most - 1)
    return rng.choice([*(max(0, min(most, other)) for other in others), rng.randrange(most)]).to_bytes(size, "little")
