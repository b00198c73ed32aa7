"""What a page of the report is made of; how it looks is the templates' business.

Text is plain everywhere and is escaped when it is rendered. Everything here can be sent between processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_med.errors import UsageError, nearest
from mtl_med.manifest import Case
from mtl_med.metrics.rows import Row

__all__ = [
    "MARKS",
    "Block",
    "CaseInputs",
    "CasePage",
    "CasePrediction",
    "CaseSummary",
    "Cell",
    "Figure",
    "Line",
    "Markup",
    "Options",
    "Part",
    "Script",
    "Section",
    "Table",
    "Text",
]

MARKS = {"": "", "good": "✓", "bad": "✗", "warning": "!", "none": ""}
"""How a cell or a text is meant -> the sign that tells it without colour; "none" is faint: nothing to tell."""

_MEDIA = {b"\x89PNG": "image/png", b"<svg": "image/svg+xml", b"<?xml": "image/svg+xml", b"\xff\xd8": "image/jpeg"}


@dataclass(frozen=True)
class Figure:
    """A picture with what it says in words.

    Args:
        alt: what a reader who cannot see it has to know, one or two sentences with the figures.
        caption: what is shown and how, below the picture.
        data: PNG, JPEG or SVG.
        line_art: drawn on white paper; a dark page turns it to dark paper. Not for images and colour scales.
        width: at most so many CSS pixels wide; 0 for the page's width.
    """

    alt: str
    caption: str
    data: bytes
    line_art: bool = False
    width: int = 0

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise UsageError("a figure has no alternative text", where=self.caption, fix="Say what it shows")
        if not self.media:
            raise UsageError(f"a figure starts with {self.data[:4]!r}, expected PNG, JPEG or SVG", where=self.caption)

    @property
    def media(self) -> str:
        """Media type; "" where the data is no picture."""
        return next((name for start, name in _MEDIA.items() if self.data.startswith(start)), "")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: as shown.
        mark: a key of `MARKS`.
        number: aligned to the right; sorted by `value`.
        value: what to sort by; default: the text.
        link: address of a page of the report relative to its top folder, such as "cases/p1.html".
        detail: shown smaller below the text.
    """

    text: str
    mark: str = ""
    number: bool = False
    value: float | None = None
    link: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise UsageError(f"unknown mark '{self.mark}' of a cell", fix=nearest(self.mark, MARKS))


Line = list[Cell | str]
"""A row of a table."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Args:
        caption: what the table tells, with units and conventions.
        columns: headings.
        rows: a `Cell` or plain text for every column.
        sortable: a click on a heading sorts the rows.
        shown: rows that are shown before "all rows" is pressed; 0 for all.
        folded: the table is closed until its caption is pressed.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    sortable: bool = False
    shown: int = 0
    folded: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise UsageError(f"a row has {len(row)} cells, expected {len(self.columns)}", where=self.caption)


@dataclass(frozen=True)
class Text:
    """A paragraph; with the mark "warning" or "bad" it is a marked box, such as a gap."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Markup:
    """HTML of this library's own making, such as a viewer's controls: from a template with autoescape, never a name."""

    html: str


Block = Figure | Table | Text | Markup


@dataclass(frozen=True)
class Script:
    """A script, or data for one, of a page.

    Args:
        name: file name, such as "niivue.js".
        text: its content.
        place: "page" (inline), "case" (a file beside the page, loaded with it: `viewer/<case>/<name>`), "report" (a
            file that all pages share: `viewer/<name>`). In a single file all of them are inline, "report" once.
        kind: "" for a classic script, "module", or a media type such as "application/json" for data, which nothing
            runs and which is inline always.
        allows: what it needs beside itself, as parts of the page's content security policy, such as
            ("connect-src data: blob:", "worker-src blob:"). Only `data:`, `blob:`, 'wasm-unsafe-eval' are granted.
    """

    name: str
    text: str
    place: str = "page"
    kind: str = ""
    allows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading.

    Args:
        key: name within the page, letters and dashes; the anchor is made of it.
        heading: of the section.
        blocks: what it holds.
        scripts: what it needs to work.
    """

    key: str
    heading: str
    blocks: tuple[Block, ...]
    scripts: tuple[Script, ...] = ()


@dataclass(frozen=True)
class Part:
    """What a task kind tells of one case.

    Args:
        sections: in their order on the page.
        warnings: sentences for the top of the page and the list of cases: what to know before one trusts the case.
        facts: label -> short text for the head of the page, such as "fractions" -> "35".
        cells: column of the list of cases -> what it shows there, such as "gamma 3 %/3 mm, %" -> Cell("97.1",
            number=True, value=97.1); columns of the scores themselves are there already (see `headline`).
    """

    sections: tuple[Section, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Args:
        gamma: gamma maps and pass rates, which take seconds.
        goals: name or path of a preset of clinical goals; "" for the one that fits the study, or none.
        viewer: put the viewer into the pages.
        single_file: all in one file: what is put into a page should be small.
        workers: processes.
    """

    gamma: bool = False
    goals: str = ""
    viewer: bool = True
    single_file: bool = False
    workers: int = 1


@dataclass(frozen=True)
class CasePrediction:
    """One prediction of one case.

    Args:
        name: of the set of predictions, unique among them, such as "ctan".
        folder: of this case's files, as `mtl_med.io.results` reads them; may be missing for image-level tasks.
        rows: its scores.
        settings: of the network, as `model.json` has them; empty where unknown.
        failure: why it could not be scored, one sentence; then there are no rows.
    """

    name: str
    folder: Path
    rows: tuple[Row, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class CaseInputs:
    """All that the page of one case is made from.

    Args:
        case: of the study, with its truth.
        predictions: those that there are of it, in the order of the command; the first is the one in question, the
            others are for comparison.
        options: what was asked for.
        prepared: task kind -> what that kind's `prepare` made once for all cases.
        classes: image-level task -> names of its classes.
    """

    case: Case
    predictions: tuple[CasePrediction, ...]
    options: Options = field(default_factory=Options)
    prepared: Mapping[str, Any] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseSummary:
    """What the list of cases tells of one.

    Args:
        id: of the case.
        split: its split.
        page: address of its page relative to the top folder.
        cells: column -> what the list of cases shows in it, of the first prediction.
        warnings: sentences.
        failures: sentences: what could not be scored or drawn.
    """

    id: str
    split: str
    page: str
    cells: Mapping[str, Cell]
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class CasePage:
    """The page of one case.

    Args:
        summary: what the list of cases tells of it.
        facts: label -> text, shown at its head.
        sections: in their order.
    """

    summary: CaseSummary
    facts: Mapping[str, str]
    sections: tuple[Section, ...]
