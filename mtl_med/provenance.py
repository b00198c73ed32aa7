"""The record that every stage leaves beside its output: what ran, with which versions, on which data."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mtl_med import __version__
from mtl_med.files import sha256_file, write_json

__all__ = ["RUN_SCHEMA", "code_digest", "command", "versions", "write_record"]

RUN_SCHEMA = "mtl_med/run/1"
_PACKAGE = Path(__file__).resolve().parent


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of mtl_med, Python and the given packages; "absent" where one is not installed."""
    found = {"mtl_med": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def command() -> list[str]:
    """The words that started this program, as one types them: no path of the machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return [Path(sys.argv[0]).name, *sys.argv[1:]]
    return ["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def code_digest() -> str:
    """Hash over the Python files of mtl_med as they are on disk, whatever a version number or commit says."""
    total = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        total.update(f"{path.relative_to(_PACKAGE).as_posix()}\t{sha256_file(path)}\n".encode())
    return total.hexdigest()


def write_record(path: str | Path, stage: str, fields: dict[str, Any], packages: Iterable[str] = ("numpy",)) -> None:
    """Write a `run.json` atomically.

    Args:
        path: the file.
        stage: "prep", "baseline", "train", "predict", "evaluate", "explain" or "report".
        fields: what this stage has to tell: settings, seeds, hashes, cases.
        packages: names of the packages whose versions matter to the result.
    """
    record = {"schema": RUN_SCHEMA, "stage": stage, "command": command(), "versions": versions(packages)}
    write_json(path, record | fields)
