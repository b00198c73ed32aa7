"""Files below a folder, however many there are and whatever the links among them; and counts of what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Counts", "count_in", "listing", "walk"]

Counts = dict[Path, Counter[str]]
"""Folder -> what or why -> how often."""


def count_in(counts: Counts, folder: Path, what: str) -> None:
    """Count one more of it in a folder."""
    counts.setdefault(folder, Counter())[what] += 1


def listing(counts: Counter[str], most: int = 8) -> str:
    """`3 x MR, 1 x is empty`, the most frequent first."""
    told = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join([*(f"{count} x {what}" for what, count in told[:most]), *(["..."] if len(told) > most else [])])


def walk(root: Path, ignored: Counts | None = None) -> Iterator[Path]:
    """Regular files below a folder, by name within each folder; each folder once, however many links lead to it.

    Args:
        root: the folder.
        ignored: where folders that cannot be read, and entries that are no files, are counted.
    """
    ignored = {} if ignored is None else ignored
    waiting, seen = [root], {_identity(root.stat())}
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            count_in(ignored, folder, f"folder that cannot be read ({error.strerror})")
            continue
        below = []
        for entry in listed:
            try:
                if entry.is_dir():
                    identity = _identity(entry.stat())
                    if identity not in seen:
                        seen.add(identity)
                        below.append(Path(entry.path))
                elif entry.is_file():
                    yield Path(entry.path)
                else:
                    count_in(ignored, folder, "link that leads nowhere, or no regular file")
            except OSError as error:  # a link to itself, a path that has become too long
                count_in(ignored, folder, f"entry that cannot be read ({error.strerror})")
        waiting += reversed(below)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
