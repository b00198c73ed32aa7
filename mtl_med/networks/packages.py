"""Files inside installed Python packages: weights that pip has brought, read without network and without import."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mtl_med.errors import ModelError
from mtl_med.files import within

__all__ = ["PACKAGE_SCHEME", "packaged"]

PACKAGE_SCHEME = "package://"


def packaged(address: str) -> Path:
    """The file of an installed package. No code of the package runs.

    Args:
        address: `package://import_name/path/inside/the/package`.

    Raises:
        ModelError: a malformed address, the package is not installed, or it has no such file.
    """
    name, _, inside = address.removeprefix(PACKAGE_SCHEME).partition("/")
    if not (name.isidentifier() and inside):
        raise ModelError("is no address of a file", where=address, fix=f"Write {PACKAGE_SCHEME}package/path/to/file")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        project = name.replace("_", "-")
        raise ModelError(
            f"the package {project} is not installed",
            where=address,
            fix=f"pip install 'mtl_med[pretrained]', or pip install {project}",
        )
    path = within(Path(next(iter(spec.submodule_search_locations))), inside)
    if not path.is_file():
        raise ModelError(
            f"the installed package has no file {inside}", where=address, fix="Install the version of constraints.txt"
        )
    return path
