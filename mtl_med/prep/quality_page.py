"""The page `quality.html` of a study: which cases to look at, and everything that preparation found out about each.

One file that needs nothing else: pictures of the cases are in it, small; only the large ones are links into the study
folder. All text is escaped, and the page forbids itself every connection and every script but its own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from mtl_med.errors import CaseError
from mtl_med.files import write_text
from mtl_med.html import content_policy, data_address, templates
from mtl_med.manifest import SPLITS, Case, Manifest
from mtl_med.parallel import in_threads
from mtl_med.prep.mosaic import NOTED, Sheet, small_picture
from mtl_med.prep.overlay import OVERLAY_FILE, thumbnail
from mtl_med.prep.quality_rows import case_row, kinds, summaries
from mtl_med.prep.unusual import unusual

if TYPE_CHECKING:
    from mtl_med.prep.convert import Quality

__all__ = ["quality_page", "write_quality_page"]

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).resolve().parent / "templates"
MOST_ROWS = 2000  # of photographs, which all stand on sheets: a page of more is slow to open
MOST_PICTURES = 1000  # in the page: some 15 MB; the cases beyond, which have the fewest findings, have links only


def write_quality_page(
    manifest: Manifest,
    qualities: Mapping[str, Quality],
    path: str | Path,
    *,
    failed: Mapping[str, str] | None = None,
    sheets: Sequence[Sheet] = (),
) -> None:
    """Write the page of a study; equal arguments give equal bytes.

    Args:
        manifest: the study.
        qualities: id -> what preparation found out about each case.
        path: the HTML file to write, in the study folder.
        failed: id -> why a case could not be converted, one sentence.
        sheets: where photographs are shown; the page then lists only those about which something is noted.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, quality_page(manifest, qualities, Path(path).parent, failed=failed, sheets=sheets))


def quality_page(
    manifest: Manifest,
    qualities: Mapping[str, Quality],
    folder: Path,
    *,
    failed: Mapping[str, str] | None = None,
    sheets: Sequence[Sheet] = (),
) -> str:
    """The page as text; `folder` is where it will lie."""
    from markupsafe import Markup

    structures = [] if sheets else summaries(manifest)
    usual_cc = {item.name: float(np.median(list(item.volumes_cc.values()))) for item in structures if item.volumes_cc}
    odd = unusual({case_id: item.measures for case_id, item in qualities.items()})
    rows = [
        case_row(case, item.measures, item.notes, item.account, odd[case.id], usual_cc, manifest.classes)
        for case in manifest
        for item in (qualities[case.id],)
        if not sheets or item.notes or odd[case.id]
    ]
    rows.sort(key=lambda row: (-len(row.findings), -len(row.unusual), row.id))
    found, noted = kinds(rows), sum(bool(row.findings) for row in rows)
    hinted = sum(bool(row.unusual and not row.findings) for row in rows)
    rows = rows[:MOST_ROWS] if sheets else rows
    cases = {case.id: case for case in manifest}
    script = (TEMPLATES / "quality.js").read_text(encoding="utf-8")
    return (
        templates(TEMPLATES)
        .get_template("quality.html.j2")
        .render(
            dataset=manifest.dataset,
            rows=rows,
            total=len(manifest),
            sheet_sets=_sheet_sets(sheets),
            splits=[name for name in SPLITS if any(case.split == name for case in manifest)],
            anchors={row.id: f"case-{index}" for index, row in enumerate(rows)},
            pictures={row.id: _picture(cases[row.id], folder) for row in rows} | _places(sheets),
            thumbnails=_thumbnails([cases[row.id] for row in rows[:MOST_PICTURES]]),
            noted=noted,
            hinted=hinted,
            kinds=found,
            structures=structures,
            failed=dict(sorted((failed or {}).items())),
            unmatched=_unmatched(qualities),
            style=Markup((TEMPLATES / "quality.css").read_text(encoding="utf-8")),
            script=Markup(script),
            policy=content_policy([script]),
        )
    )


@dataclass(frozen=True)
class SheetSet:
    """Sheets of one class, and how many of its cases each split has."""

    name: str
    sheets: tuple[Sheet, ...]
    splits: Mapping[str, int]


def _sheet_sets(sheets: Sequence[Sheet]) -> list[SheetSet]:
    sets = []
    for name in dict.fromkeys(sheet.group for sheet in sheets):
        own = tuple(sheet for sheet in sheets if sheet.group == name)
        sets.append(SheetSet(name, own, Counter(tile.case.split for sheet in own for tile in sheet.tiles)))
    return sets


def _places(sheets: Sequence[Sheet]) -> dict[str, str]:
    """Case -> relative link to the sheet that shows it with what is noted."""
    return {tile.case.id: quote(sheet.path) for sheet in sheets if sheet.group == NOTED for tile in sheet.tiles}


def _unmatched(qualities: Mapping[str, Quality]) -> list[tuple[str, int]]:
    """Structure names without a standard name, and in how many cases; the most frequent first."""
    counts = Counter(name for item in qualities.values() for name in item.unmatched)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _picture(case: Case, folder: Path) -> str:
    """Relative link to the large picture of a case; empty where there is none."""
    path = case.folder.resolve() / OVERLAY_FILE
    folder = folder.resolve()
    if not path.is_file() or not path.is_relative_to(folder):
        return ""
    return quote(path.relative_to(folder).as_posix())


def _thumbnails(cases: Sequence[Case]) -> dict[str, str]:
    """Small pictures by the id of the case."""
    return {case.id: picture for case, picture in zip(cases, in_threads(_thumbnail, cases), strict=True)}


def _thumbnail(case: Case) -> str:
    """The small picture of a case as a data address; empty where there is none."""
    path = case.folder / OVERLAY_FILE
    is_photograph = case.grid is None and case.has("image")
    if not (is_photograph or path.is_file()):
        return ""
    try:
        small = small_picture(case) if is_photograph else thumbnail(path)
        return data_address("image/jpeg", small)
    except CaseError as error:
        log.warning("%s", error)
        return ""
