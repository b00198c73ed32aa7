"""Sheets of photographs with the outlines of their masks, so that a person can look at thousands of them.

One set of sheets for each class of the first image-level task, and one of all cases about which something is noted.
Everything is read from the study folder, so that the sheets show what a training will see.
"""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import OutputError
from mtl_med.files import atomic_path, safe_name, sha256_bytes
from mtl_med.io.picture import read_png
from mtl_med.manifest import Case, Manifest
from mtl_med.parallel import map_cases

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MOSAIC_FOLDER",
    "NOTED",
    "Sheet",
    "Tile",
    "draw_sheet",
    "draw_tile",
    "plan_sheets",
    "small_picture",
    "write_mosaics",
]

log = logging.getLogger(__name__)

MOSAIC_FOLDER = "mosaics"
NOTED = "findings"
"""Name of the set of the cases about which something is noted."""

_COLUMNS, _ROWS = 10, 8
_TILE = (200, 150)  # pixels, width and height
_GAP, _HEAD, _LINE = 6, 40, 15
_PAPER, _INK, _FAINT, _WARN = (17, 19, 23), (232, 234, 238), (150, 156, 166), (255, 190, 90)
_OUTLINE, _SHADE = (0, 255, 255), 0.5  # cyan is no colour of skin; the pixels around the line are darkened
_QUALITY = 85
_STYLE = "1"  # raise it when equal cases give another sheet


@dataclass(frozen=True)
class Tile:
    """A place on a sheet.

    Args:
        case: a case without grid.
        notes: names of the rules that it breaks, and other short words.
    """

    case: Case
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """One picture of many cases.

    Args:
        group: name of the set: a class, or `NOTED`.
        number: its place in the set, from 1.
        count: sheets of the set.
        title: the headline.
        tiles: its cases, row by row.
    """

    group: str
    number: int
    count: int
    title: str
    tiles: tuple[Tile, ...]

    @property
    def path(self) -> str:
        """Where it lies, relative to the study folder."""
        return f"{MOSAIC_FOLDER}/{safe_name(self.group)}_{self.number:02d}.jpg"

    @property
    def digest(self) -> str:
        """Hash over all that it shows."""
        rows = [
            [
                tile.case.id,
                tile.case.split,
                *tile.notes,
                *(item["sha256"] for _, item in sorted(tile.case.files.items())),
            ]
            for tile in self.tiles
        ]
        return sha256_bytes("\n".join([_STYLE, self.title, *("\t".join(row) for row in rows)]).encode())


def plan_sheets(manifest: Manifest, notes: Mapping[str, Sequence[str]]) -> list[Sheet]:
    """Which case stands on which sheet: classes in their order, cases by id; noted ones by what is noted, rarest first.

    Args:
        manifest: the study; its volumes stand on no sheet.
        notes: case id -> short words of what is noted.
    """
    cases = [case for case in manifest if case.grid is None and case.has("image")]
    task, names = next(iter(manifest.classes.items()), ("", ()))
    groups: dict[str, list[Tile]] = {name: [] for name in names}
    for case in cases:
        group = case.class_name(task, names) or (f"no {task}" if task else "all")
        groups.setdefault(group, []).append(Tile(case, tuple(notes.get(case.id, ()))))
    noted = {case.id: Tile(case, tuple(notes[case.id])) for case in cases if notes.get(case.id)}
    groups[NOTED] = [noted[case_id] for case_id in _rarest_first({key: tile.notes for key, tile in noted.items()})]
    return [sheet for name, tiles in groups.items() for sheet in _sheets(manifest.dataset, task, name, tiles)]


def _rarest_first(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Cases by the rarest thing that is noted about each, so that equal findings stand side by side."""
    counts = Counter(note for own in notes.values() for note in own)
    rarest = {case_id: min((counts[note], note) for note in own) for case_id, own in notes.items()}
    return sorted(notes, key=lambda case_id: (rarest[case_id], case_id))


def _sheets(dataset: str, task: str, group: str, tiles: Sequence[Tile]) -> list[Sheet]:
    size = _COLUMNS * _ROWS
    parts = [tuple(tiles[start : start + size]) for start in range(0, len(tiles), size)]
    what = "cases with findings" if group == NOTED else f"{task} {group}".strip()
    return [
        Sheet(group, number, len(parts), f"{dataset}: {what}, sheet {number} of {len(parts)}", part)
        for number, part in enumerate(parts, 1)
    ]


def write_mosaics(manifest: Manifest, notes: Mapping[str, Sequence[str]], workers: int = 1) -> list[Sheet]:
    """Draw all sheets of a study into its folder `mosaics`; those that would be the same are left as they are.

    Args:
        manifest: the study.
        notes: case id -> short words of what is noted.
        workers: processes to use.

    Returns:
        The sheets that are there; one that cannot be drawn is logged.

    Raises:
        OutputError: the folder cannot be written.
    """
    sheets = plan_sheets(manifest, notes)
    folder = manifest.root / MOSAIC_FOLDER
    _clear(folder, {Path(sheet.path).name for sheet in sheets})
    old = [sheet for sheet in sheets if _is_drawn(manifest.root, sheet)]
    new = [sheet for sheet in sheets if sheet not in old]
    outcomes = map_cases(partial(_write_sheet, manifest.root), new, workers=workers, label="mosaics")
    failed = [sheet for sheet, outcome in zip(new, outcomes, strict=True) if _failed(sheet, outcome.failure)]
    return [sheet for sheet in sheets if sheet not in failed]


def _failed(sheet: Sheet, failure: str) -> bool:
    if failure:
        log.warning("%s cannot be drawn: %s", sheet.path, failure)
    return bool(failure)


def _clear(folder: Path, wanted: Iterable[str]) -> None:
    """Remove sheets of an earlier run that no sheet of this one replaces."""
    try:
        for path in folder.glob("*.jpg"):
            if path.name not in wanted:
                path.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot clear: {error.strerror or error}", where=folder, fix="Check its permissions"
        ) from error


def _is_drawn(root: Path, sheet: Sheet) -> bool:
    """Whether the file shows the same already: its comment holds the digest."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(root / sheet.path, formats=["JPEG"]) as picture:
            return picture.info.get("comment") == sheet.digest.encode()
    except (OSError, SyntaxError, ValueError):
        return False


def _write_sheet(root: Path, sheet: Sheet) -> None:
    picture = draw_sheet(sheet)
    with atomic_path(root / sheet.path) as temporary:
        picture.save(temporary, format="JPEG", quality=_QUALITY, comment=sheet.digest.encode())


def draw_sheet(sheet: Sheet) -> Image:
    """A sheet: photographs in rows of ten, with id, split and notes below each.

    Raises:
        CaseError: a file of a case cannot be read.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    font, large = ImageFont.load_default(11), ImageFont.load_default(18)
    lines = 1 + max((len(tile.notes) for tile in sheet.tiles), default=0) if sheet.group == NOTED else 1
    wide, high = _TILE[0] + _GAP, _TILE[1] + lines * _LINE + _GAP
    rows = -(-len(sheet.tiles) // _COLUMNS)
    paper = Pillow.new("RGB", (_GAP + _COLUMNS * wide, _HEAD + rows * high + _GAP), _PAPER)
    draw = ImageDraw.Draw(paper)
    draw.text((_GAP, _HEAD / 2), sheet.title, _INK, large, anchor="lm")
    after = _GAP + draw.textlength(sheet.title, large) + 22
    draw.text((after, _HEAD / 2 + 1), "outlines of the masks; research use only", _FAINT, font, anchor="lm")
    for index, tile in enumerate(sheet.tiles):
        left, top = _GAP + index % _COLUMNS * wide, _HEAD + index // _COLUMNS * high
        picture = draw_tile(tile.case)
        paper.paste(picture, (left + (_TILE[0] - picture.width) // 2, top + (_TILE[1] - picture.height) // 2))
        caption = [f"{tile.case.id}  {tile.case.split}", *tile.notes][:lines]
        for line, text in enumerate(caption):
            place = (left, top + _TILE[1] + (line + 0.5) * _LINE)
            draw.text(place, text[:34], _WARN if tile.notes else _FAINT, font, anchor="lm")
    return paper


def draw_tile(case: Case) -> Image:
    """A photograph, small, with the outlines of its masks.

    Raises:
        CaseError: a file of the case cannot be read.
    """
    from PIL import Image as Pillow

    picture = Pillow.fromarray(read_png(case.path("image"))).convert("RGB")
    factor = min(_TILE[0] / picture.width, _TILE[1] / picture.height)
    size = (max(1, round(factor * picture.width)), max(1, round(factor * picture.height)))
    pixels = np.array(_resized(picture, size))
    for key in case.files:
        if key.startswith("structures/"):
            mask = np.asarray(_resized(Pillow.fromarray(read_png(case.path(key))).convert("L"), size)) > 127
            _outline(pixels, mask)
    return Pillow.fromarray(pixels)


def _resized(picture: Image, size: tuple[int, int]) -> Image:
    from PIL import Image as Pillow

    return picture if picture.size == size else picture.resize(size, Pillow.Resampling.BILINEAR)


def _outline(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    """Draw the outermost pixels of a mask, in place; one that fills the picture gets a frame."""
    around = _grown(mask) & ~mask
    line = mask & _grown(~np.pad(mask, 1))[1:-1, 1:-1]
    pixels[around] = (pixels[around] * _SHADE).astype(np.uint8)
    pixels[line] = _OUTLINE


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def small_picture(case: Case) -> bytes:
    """The photograph with its outlines as a JPEG of some kilobytes.

    Raises:
        CaseError: a file of the case cannot be read.
    """
    stream = io.BytesIO()
    draw_tile(case).save(stream, format="JPEG", quality=75)
    return stream.getvalue()
