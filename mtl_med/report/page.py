"""From sections to HTML: templates, anchors, links, scripts, and the policy that forbids a page every connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_med.errors import UsageError
from mtl_med.html import content_policy, data_address, nonce_of, templates
from mtl_med.report import case_page
from mtl_med.report.case_page import MARKS, Cell, Script, Section

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["NOTICE", "TEMPLATES", "Fragment", "Page", "anchor_of", "document", "fragment", "place_of", "render"]

TEMPLATES = Path(__file__).resolve().parent / "templates"
NOTICE = "Research use only, not a medical device"


@dataclass(frozen=True)
class Page:
    """What a page shows beside its sections.

    Args:
        title: of the page.
        lead: a sentence below it.
        anchor: start of all its anchors, unique in a single file.
        tiles: the figures at its top.
        notes: mark and sentence of what has to be known before anything else.
        facts: label -> short text.
        links: label -> address relative to the top folder, such as "all cases" -> "index.html".
    """

    title: str
    lead: str
    anchor: str
    tiles: Sequence[Cell] = ()
    notes: Sequence[tuple[str, str]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fragment:
    """A rendered page without head and scripts.

    Args:
        html: its `main` element or, in a single file, an article; data for scripts is in it.
        scripts: what has to run beside it.
    """

    html: str
    scripts: tuple[Script, ...]


def render(template: str, **fields: Any) -> Markup:
    """A template of the report filled in, everything escaped: what a `case_page.Markup` may be made of.

    Args:
        template: its file name in `mtl_med/report/templates`.
        **fields: what it shows.
    """
    from markupsafe import Markup

    return Markup(templates(TEMPLATES).get_template(template).render(**_common(), **fields))


def fragment(
    page: Page, sections: Sequence[Section], *, up: str = "", single: bool = False, first: bool = True
) -> Fragment:
    """Render a page's body.

    Args:
        page: its head.
        sections: in their order.
        up: way from the page to the report's top folder, such as "../".
        single: the page becomes a part of a single file, and links to other pages become anchors in it.
        first: of a single file: the part that is open.
    """

    def link(address: str) -> str:
        return f"#{anchor_of(address)}" if single else f"{up}{address}"

    wanted = [script for section in sections for script in section.scripts]
    html = render(
        "body.html.j2",
        page=page,
        sections=sections,
        data=[script for script in wanted if _is_data(script)],
        link=link,
        single=single,
        first=first,
    )
    return Fragment(html, tuple(script for script in wanted if not _is_data(script)))


def anchor_of(address: str) -> str:
    """Anchor in a single file of a page that lies at `address` in a folder: "cases/p1.html" -> "case-p1"."""
    name = address.removesuffix(".html")
    return f"case-{name.removeprefix('cases/')}" if name.startswith("cases/") else name


def document(
    title: str, bodies: Iterable[str], scripts: Sequence[Script], *, up: str = "", case: str = ""
) -> Iterator[str]:
    """Head, bodies and end of a page: joined, they are it.

    Args:
        title: of the document.
        bodies: HTML of a fragment, or in a single file of all of them.
        scripts: of the fragments.
        up: way to the top folder.
        case: name of the folder below `viewer/` in which the case's own scripts lie; "" puts every script into the
            page, as a single file needs it.
    """
    from markupsafe import Markup

    files = [script for script in scripts if case and script.place != "page"]
    code = [script for script in scripts if script not in files]
    code.append(Script("report.js", (TEMPLATES / "report.js").read_text(encoding="utf-8")))
    nonce = ""
    if files:
        bodies = list(bodies)
        nonce = nonce_of("\n".join([*bodies, *(script.text for script in scripts)]))
    policy = content_policy(
        [script.text for script in code], nonce=nonce, allows=[wish for script in scripts for wish in script.allows]
    )
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    yield render("head.html.j2", title=title, policy=policy, style=style)
    yield from bodies
    sources = {script.name: f"{up}{place_of(script, case)}" for script in files}
    yield render("end.html.j2", code=code, files=files, sources=sources, nonce=nonce)


def place_of(script: Script, case: str) -> str:
    """Where a script of a case's page lies, relative to the top folder."""
    return f"viewer/{case}/{script.name}" if script.place == "case" else f"viewer/{script.name}"


def _is_data(script: Script) -> bool:
    return "/" in script.kind


def _common() -> dict[str, Any]:
    def kind_of(block: case_page.Block) -> str:
        return type(block).__name__.lower()

    return {
        "notice": NOTICE,
        "marks": MARKS,
        "kind_of": kind_of,
        "raw": _raw,
        "as_cell": lambda item: item if isinstance(item, Cell) else Cell(str(item)),
        "data_address": data_address,
    }


def _raw(text: str) -> Markup:
    """What this library made itself, and what it checked: a script or data that cannot end its element early.

    Raises:
        UsageError: it could.
    """
    from markupsafe import Markup

    if "</script" in text.lower() or "<!--" in text:
        raise UsageError("a script holds '</script' or '<!--', which would end it in a page", fix="Write them escaped")
    return Markup(text)
