"""The page `quality.html` of a study: which cases to look at, and everything that preparation found out about each.

One file that needs nothing else: pictures of the cases are in it, small; only the large ones are links into the study
folder. All text is escaped, and the page forbids itself every connection and every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from mtl_med.errors import CaseError
from mtl_med.files import write_text
from mtl_med.manifest import Case, Manifest
from mtl_med.prep.overlay import OVERLAY_FILE, thumbnail
from mtl_med.prep.quality_rows import case_row, kinds, summaries
from mtl_med.prep.unusual import unusual

if TYPE_CHECKING:
    from mtl_med.prep.convert import Quality

__all__ = ["quality_page", "write_quality_page"]

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).resolve().parent / "templates"
MOST_PICTURES = 1000  # in the page: some 15 MB; the cases beyond, which have the fewest findings, have links only
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, direction and other characters that draw nothing


def write_quality_page(
    manifest: Manifest,
    qualities: Mapping[str, Quality],
    path: str | Path,
    *,
    failed: Mapping[str, str] | None = None,
) -> None:
    """Write the page of a study; equal arguments give equal bytes.

    Args:
        manifest: the study.
        qualities: id -> what preparation found out about each case.
        path: the HTML file to write, in the study folder.
        failed: id -> why a case could not be converted, one sentence.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, quality_page(manifest, qualities, Path(path).parent, failed=failed))


def quality_page(
    manifest: Manifest,
    qualities: Mapping[str, Quality],
    folder: Path,
    *,
    failed: Mapping[str, str] | None = None,
) -> str:
    """The page as text; `folder` is where it will lie."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    structures = summaries(manifest)
    usual_cc = {item.name: float(np.median(list(item.volumes_cc.values()))) for item in structures if item.volumes_cc}
    odd = unusual({case_id: item.measures for case_id, item in qualities.items()})
    rows = [
        case_row(case, item.measures, item.notes, item.account, odd[case.id], usual_cc)
        for case in manifest
        for item in (qualities[case.id],)
    ]
    rows.sort(key=lambda row: (-len(row.findings), -len(row.unusual), row.id))
    cases = {case.id: case for case in manifest}
    script = (TEMPLATES / "quality.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("quality.html.j2").render(
        dataset=manifest.dataset,
        rows=rows,
        anchors={row.id: f"case-{index}" for index, row in enumerate(rows)},
        pictures={row.id: _picture(cases[row.id], folder) for row in rows},
        thumbnails={row.id: _thumbnail(cases[row.id]) for row in rows[:MOST_PICTURES]},
        noted=sum(bool(row.findings) for row in rows),
        hinted=sum(bool(row.unusual and not row.findings) for row in rows),
        kinds=kinds(rows),
        structures=structures,
        failed=dict(sorted((failed or {}).items())),
        unmatched=_unmatched(qualities),
        style=Markup((TEMPLATES / "quality.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _unmatched(qualities: Mapping[str, Quality]) -> list[tuple[str, int]]:
    """Structure names without a standard name, and in how many cases; the most frequent first."""
    counts = Counter(name for item in qualities.values() for name in item.unmatched)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _visible(value: Any) -> Any:
    """Text without characters that turn its direction, break UTF-8 or cannot be seen."""
    from markupsafe import Markup

    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNSEEN else c for c in value)


def _picture(case: Case, folder: Path) -> str:
    """Relative link to the large picture of a case; empty where there is none."""
    path = case.folder.resolve() / OVERLAY_FILE
    folder = folder.resolve()
    if not path.is_file() or not path.is_relative_to(folder):
        return ""
    return quote(path.relative_to(folder).as_posix())


def _thumbnail(case: Case) -> str:
    """The small picture of a case as a data address; empty where there is none."""
    path = case.folder / OVERLAY_FILE
    if not path.is_file():
        return ""
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(thumbnail(path)).decode()}"
    except CaseError as error:
        log.warning("%s", error)
        return ""
