"""What every HTML page of the library keeps to: all text is escaped, and nothing is loaded or run but its own.

A page forbids itself every connection. Its scripts run by their hash, or as files by the page's nonce; text of a study
can therefore neither name a script of the page nor bring one along.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_med.errors import UsageError

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["content_policy", "data_address", "nonce_of", "script_hash", "templates", "visible"]

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, direction and other characters that draw nothing
_GRANTED = {"data:", "blob:", "'wasm-unsafe-eval'"}  # what never leaves the page
_DIRECTIVES = {"connect-src", "font-src", "img-src", "media-src", "script-src", "worker-src"}


def templates(folder: str | Path) -> Environment:
    """An environment for the templates of a folder: all that is filled in is escaped, and nothing may be missing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def visible(value: Any) -> Any:
    """Text without characters that turn its direction, break UTF-8 or cannot be seen; anything else as it is."""
    from markupsafe import Markup

    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNSEEN else c for c in value)


def data_address(media: str, data: bytes) -> str:
    """Data as an address that a page can show without loading anything, such as "data:image/png;base64,..."."""
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def script_hash(text: str) -> str:
    """The source by which a content policy allows one inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def nonce_of(content: str) -> str:
    """A word made of a page's whole content, which no text within that content can know."""
    return base64.b64encode(hashlib.sha256(content.encode(errors="backslashreplace")).digest()).decode()


def content_policy(scripts: Iterable[str] = (), *, nonce: str = "", allows: Iterable[str] = ()) -> str:
    """A content security policy under which a page loads nothing.

    Args:
        scripts: text of each inline script.
        nonce: of the scripts that lie in files of their own beside the page.
        allows: more that the page needs, such as "worker-src blob:"; only what cannot leave the page is granted.

    Raises:
        UsageError: `allows` asks for another source.
    """
    parts: dict[str, list[str]] = {"img-src": ["data:"], "style-src": ["'unsafe-inline'"]}
    parts["script-src"] = [script_hash(text) for text in dict.fromkeys(scripts)] + (
        [f"'nonce-{nonce}'"] if nonce else []
    )
    for wish in allows:
        directive, *sources = wish.split()
        if directive not in _DIRECTIVES or not set(sources) <= _GRANTED:
            raise UsageError(f"'{wish}' is not granted to a page", fix=f"Ask for: {', '.join(sorted(_GRANTED))}")
        known = parts.setdefault(directive, [])
        known += [source for source in sources if source not in known]
    told = "; ".join(f"{name} {' '.join(sources)}" for name, sources in parts.items() if sources)
    return f"default-src 'none'; {told}; base-uri 'none'; form-action 'none'"
