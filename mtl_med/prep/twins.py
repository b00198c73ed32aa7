"""Files that are equal byte by byte, and groups that such files join."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mtl_med.files import sha256_file

__all__ = ["identical_files", "joined"]


def identical_files(paths: Iterable[Path]) -> list[list[Path]]:
    """Files of equal content, two or more of each; only files of one size are read, and none that cannot be."""
    found: list[list[Path]] = []
    for same_size in _alike(paths, lambda path: path.stat().st_size):
        found += _alike(same_size, sha256_file)
    return found


def _alike(paths: Iterable[Path], key: Callable[[Path], int | str]) -> list[list[Path]]:
    groups: dict[int | str, list[Path]] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            groups.setdefault(key(path), []).append(path)
    return [group for group in groups.values() if len(group) > 1]


def joined(names: Iterable[str], pairs: Iterable[Sequence[str]]) -> dict[str, str]:
    """Each name -> the first, by the alphabet, of all that it hangs together with.

    Args:
        names: all of them.
        pairs: names that belong together; empty ones are passed over.
    """
    parents = {name: name for name in names}

    def root(name: str) -> str:
        while parents[name] != name:
            name = parents[name]
        return name

    for together in pairs:
        roots = sorted({root(name) for name in together if name})
        for other in roots[1:]:
            parents[other] = roots[0]
    return {name: root(name) for name in parents}
