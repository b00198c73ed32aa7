"""NiiVue, the viewer of volumes in a browser, as the installed package ipyniivue brings it.

ipyniivue carries the whole library a second time, as one percent-encoded string that its "save as HTML" writes into
pages of their own. That copy keeps its public names, so it can be used without a build step, without Node.js and
without a line of foreign code in this project. No code of the package runs here.

Source: NiiVue (https://github.com/niivue/niivue), BSD-2-Clause; its notice goes into every file that holds it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from mtl_med.errors import UsageError

__all__ = ["INSTALL", "Library", "as_script", "find_library"]

INSTALL = "pip install 'mtl_med[report]'"
_PACKAGE = "ipyniivue"
_ENCODED = re.compile(r"\"([A-Za-z0-9_.!~*'()%-]{500000,})\"")  # what encodeURIComponent can give
_EXPORTS = re.compile(r"export\s*\{([^{}]*)\}\s*;?\s*$")
_NEEDED = {"Niivue", "NVImage", "SLICE_TYPE", "SHOW_RENDER", "DRAG_MODE"}
_VERSION = re.compile(r"\bversion:\s*\"(\d[^\"]*)\"")


@dataclass(frozen=True)
class Library:
    """NiiVue as a classic script, which pages opened from disk may load; modules they may not.

    Args:
        script: defines the function `niivueLibrary`, which gives the library's public names; runs nothing else.
        version: of NiiVue; "" where it does not tell.
        package: name and version of the Python package it was found in.
    """

    script: str
    version: str
    package: str


@lru_cache(maxsize=1)
def find_library() -> Library:
    """NiiVue of the installed package.

    Raises:
        UsageError: the package is not installed, or holds no copy that can be used.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the viewer needs {_PACKAGE}, which is not installed", fix=INSTALL)
    version = importlib.metadata.version(_PACKAGE)
    path = Path(next(iter(spec.submodule_search_locations))) / "static" / "widget.js"
    try:
        script, own = as_script(path.read_text(encoding="utf-8"), _notice())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the installed {_PACKAGE} {version} holds no NiiVue that a page can use ({error})",
            where=path,
            fix=f"Install the version of constraints.txt: {INSTALL}",
        ) from error
    return Library(script, own, f"{_PACKAGE} {version}")


def _notice() -> str:
    """The licence of the package, which is NiiVue's own: same holders, same terms."""
    files = importlib.metadata.files(_PACKAGE) or []
    found = next((item for item in files if item.name.upper().startswith("LICEN")), None)
    return found.read_text() if found else ""


def as_script(widget: str, notice: str = "") -> tuple[str, str]:
    """A classic script made of the copy of NiiVue within ipyniivue's own script, and NiiVue's version.

    Args:
        widget: text of `ipyniivue/static/widget.js`.
        notice: copyright and licence, put on top.

    Raises:
        ValueError: there is no such copy, it exports other names, or its text could end a page's script element.
    """
    encoded = _ENCODED.search(widget)
    module = unquote(encoded[1], errors="strict") if encoded else ""
    exports = _EXPORTS.search(module[-20000:])
    if not exports:
        raise ValueError("no copy of the library is in it")
    names = dict(_renamed(item) for item in exports[1].split(",") if item.strip())
    if missing := sorted(_NEEDED - names.keys()):
        raise ValueError(f"its copy of the library has no {', '.join(missing)}")
    body = module[: module.rindex("export")]
    version = _VERSION.search(body)
    known = ",".join(f"{public}:{own}" for public, own in names.items())
    head = f"/*! NiiVue {version[1] if version else ''}\n{notice.replace('*/', '* /')}\n*/\n"
    script = f"{head}globalThis.niivueLibrary=()=>{{{body}\nreturn{{{known}}}}};\n".replace("\r\n", "\n")
    if re.search(r"</script|<!--|\r", script, re.IGNORECASE):
        raise ValueError("its text cannot stand in a page")
    return script, version[1] if version else ""


def _renamed(item: str) -> tuple[str, str]:
    """Public name and own name of an entry such as "Niivue" or "NVMesh3 as NVMesh"."""
    own, _, public = item.strip().partition(" as ")
    return (public or own).strip(), own.strip()
