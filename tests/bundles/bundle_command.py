"""The command line of `python -m monai.bundle run` on a bundle's own configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Run = Callable[..., str]


def words_of(folder: Path, *configs: str, **options: object) -> list[str]:
    """What follows `python`: configs of a folder by name, and overrides; in fp32, without loader workers."""
    files = [str(folder / f"{name}.json") for name in configs]
    given = {"config_file": files[0] if len(files) == 1 else files, "bundle_root": folder.parent, "workers": 0}
    given |= {"precision": "fp32"}
    words = [str(word) for name, value in {**given, **options}.items() for word in (f"--{name}", value)]
    return ["-m", "monai.bundle", "run", *words]
