"""Drawing the picture of a case: slices become panels, panels become a sheet with a dose scale and a legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.io.colours import colour

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

__all__ = ["PLANES_BOX", "SHOWN_FROM", "Plane", "Scale", "draw_plane", "draw_sheet", "wash_rgb"]

PANEL = 360  # pixels, width and height of a panel
SHOWN_FROM = 0.1  # of the dose of 100 %: below it the CT shows through
_MARGIN, _HEAD, _GAP, _BAR = 14, 46, 6, 128
_PLANES_WIDTH = 3 * PANEL + 2 * _GAP
PLANES_BOX = (_MARGIN, _HEAD, _MARGIN + _PLANES_WIDTH, _HEAD + PANEL)
"""Where on a sheet the three planes lie, pixels: left, upper, right, lower."""

_WIDTH = _MARGIN + _PLANES_WIDTH + _BAR
_LINE, _MOST_LINES = 21, 8  # of the legend
_FINER = 2  # panels are drawn so many times larger and then reduced, which smooths every line
_PAPER, _INK, _FAINT, _KNOWN = (17, 19, 23), (232, 234, 238), (128, 134, 145), (165, 165, 165)
_CT_WINDOW_HU = (-200.0, 400.0)
_STROKE, _SHADE = 3, 5  # fine pixels: the line of a structure, and the line with the shade that sets it off
_WASH_WEIGHT = 0.42
_WASH_STOPS = (0.1, 0.35, 0.55, 0.75, 0.95, 1.1)  # of the dose of 100 %
_WASH_RGB = ((30, 60, 200), (0, 160, 230), (20, 190, 90), (240, 225, 40), (250, 130, 20), (210, 10, 30))
_SIDES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # left, right, upper and lower border


@dataclass(frozen=True)
class Plane:
    """A slice as people look at it: rows from the top, columns from the left.

    Args:
        name: "axial", "coronal" or "sagittal".
        shape: number of rows and columns.
        spacing_mm: between rows and between columns.
        crossing: row and column in which the other two planes cross it.
        ct: HU; None without CT.
        dose: part of the dose of 100 %; None without dose.
        known: where dose is known; None where nothing tells.
        outlines: structure name -> mask, in drawing order.
        window_hu: HU of black and of white.
    """

    name: str
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    crossing: tuple[int, int]
    ct: NDArray | None = None
    dose: NDArray | None = None
    known: NDArray | None = None
    outlines: Mapping[str, NDArray] = field(default_factory=dict)
    window_hu: tuple[float, float] = _CT_WINDOW_HU

    def cropped(self, shown: NDArray, margin_mm: float) -> Plane:
        """The box around `shown` (rows, columns), wider by a margin; the plane itself where nothing is shown."""
        if not shown.any():
            return self
        (top, bottom), (left, right) = (
            _range(np.asarray(shown.any(axis=1 - axis)), margin_mm / self.spacing_mm[axis]) for axis in (0, 1)
        )
        box = (slice(top, bottom), slice(left, right))
        return replace(
            self,
            shape=(bottom - top, right - left),
            crossing=(self.crossing[0] - top, self.crossing[1] - left),
            ct=None if self.ct is None else self.ct[box],
            dose=None if self.dose is None else self.dose[box],
            known=None if self.known is None else self.known[box],
            outlines={name: mask[box] for name, mask in self.outlines.items()},
        )


def _range(hits: NDArray, margin: float) -> tuple[int, int]:
    """First and last hit (exclusive), wider by a margin of places, within the array."""
    places = np.flatnonzero(hits)
    return max(0, int(places[0] - margin)), min(len(hits), int(places[-1] + 1 + margin))


@dataclass(frozen=True)
class Scale:
    """What the colours of the dose wash mean.

    Args:
        highest_gy: highest dose of the case.
        prescription_gy: highest prescription, which is 100 % then; 0 where none is known.
    """

    highest_gy: float
    prescription_gy: float = 0.0

    @property
    def ticks(self) -> dict[float, str]:
        """Part of the dose of 100 % -> label."""
        if self.prescription_gy:
            parts = (0.25, 0.5, 0.75, 0.95, 1.0, 1.07)
            return {part: f"{part * self.prescription_gy:.1f} Gy  {part:.0%}" for part in parts}
        return {part: f"{part * self.highest_gy:.3g} Gy" for part in (0.25, 0.5, 0.75, 1.0)}


def wash_rgb(dose: NDArray) -> NDArray[np.float32]:
    """Colour (..., 3), 0..255, of parts of the dose of 100 %: blue, green, yellow, red at 110 % and above."""
    steps = np.linspace(_WASH_STOPS[0], _WASH_STOPS[-1], 256)
    channels = [np.interp(steps, _WASH_STOPS, levels) for levels in zip(*_WASH_RGB, strict=True)]
    places = (np.asarray(dose, dtype=np.float32) - steps[0]) * (255 / (steps[-1] - steps[0]))
    return np.stack(channels, axis=-1).astype(np.float32)[np.clip(places + 0.5, 0, 255).astype(np.uint8)]


def draw_plane(plane: Plane) -> Image:
    """A square panel of `PANEL` pixels in true proportions; marks on its border tell where the other planes lie."""
    from PIL import Image

    size_mm = [count * mm for count, mm in zip(plane.shape, plane.spacing_mm, strict=True)]
    pixels_per_mm = _FINER * PANEL / max(size_mm)
    rows, columns = (max(1, round(mm * pixels_per_mm)) for mm in size_mm)

    def enlarged(layer: NDArray) -> NDArray:
        resized = Image.fromarray(np.ascontiguousarray(layer)).resize((columns, rows), Image.Resampling.BILINEAR)
        return np.asarray(resized)

    def inside(mask: NDArray) -> NDArray[np.bool_]:
        return enlarged(np.where(mask, 255, 0).astype(np.uint8)) > 127

    grey: NDArray[np.floating] = np.zeros((rows, columns), dtype=np.float32)
    if plane.ct is not None:
        low, high = plane.window_hu
        hu = enlarged(np.nan_to_num(plane.ct, nan=low).astype(np.float32))
        grey = np.clip((hu - low) / (high - low), 0, 1) * 255
    picture = np.repeat(grey[..., None], 3, axis=2)
    if plane.dose is not None:
        dose = enlarged(plane.dose.astype(np.float32))
        shown = dose >= SHOWN_FROM
        picture[shown] += np.float32(_WASH_WEIGHT) * (wash_rgb(dose[shown]) - picture[shown])
    if plane.known is not None:
        picture[_border(inside(plane.known), 1)] = _KNOWN
    for name, mask in plane.outlines.items():
        if mask.any():
            _outline(picture, inside(mask), colour(name))
    _mark(picture, plane)
    whole = np.zeros((_FINER * PANEL, _FINER * PANEL, 3), dtype=np.uint8)
    top, left = (whole.shape[0] - rows) // 2, (whole.shape[1] - columns) // 2
    whole[top : top + rows, left : left + columns] = picture
    return Image.fromarray(whole).reduce(_FINER)


def _outline(picture: NDArray[np.float32], region: NDArray[np.bool_], rgb: tuple[int, int, int]) -> None:
    """Draw the line of a structure, with a shade on its inner side."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return  # too small to be seen
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part, within = picture[box], region[box]
    part[_border(within, _SHADE)] *= 0.4
    part[_border(within, _STROKE)] = rgb


def _border(mask: NDArray, width: int) -> NDArray[np.bool_]:
    """The outermost pixels of a mask."""
    inside = np.pad(mask, width)
    for _ in range(width):
        core = inside.copy()
        core[1:] &= inside[:-1]
        core[:-1] &= inside[1:]
        core[:, 1:] &= inside[:, :-1]
        core[:, :-1] &= inside[:, 1:]
        inside = core
    return mask & ~inside[width:-width, width:-width]


def _mark(picture: NDArray, plane: Plane) -> None:
    """Short strokes at the borders, where the other two planes cross this one."""
    rows, columns = picture.shape[:2]
    row = min(rows - 1, int((plane.crossing[0] + 0.5) * rows / plane.shape[0]))
    column = min(columns - 1, int((plane.crossing[1] + 0.5) * columns / plane.shape[1]))
    stroke = 7 * _FINER
    for lines in (picture[row : row + 2, :stroke], picture[row : row + 2, -stroke:]):
        lines[:] = _INK
    for lines in (picture[:stroke, column : column + 2], picture[-stroke:, column : column + 2]):
        lines[:] = _INK


def draw_sheet(planes: Sequence[Plane], *, title: str, subtitle: str = "", scale: Scale | None = None) -> Image:
    """Panels side by side, the dose scale beside them and the structures' names below.

    Args:
        planes: axial, coronal, sagittal.
        title: name of the case.
        subtitle: what is known about its dose.
        scale: meaning of the wash's colours; None without dose.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, large = ImageFont.load_default(13), ImageFont.load_default(18)
    names = list(dict.fromkeys(name for plane in planes for name in reversed(list(plane.outlines))))
    cut = {name for plane in planes for name, mask in plane.outlines.items() if mask.any()}
    places, height = _placed(names, font)
    sheet = Image.new("RGB", (_WIDTH, _HEAD + PANEL + _MARGIN + height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _HEAD / 2), title, _INK, large, anchor="lm")
    after = _MARGIN + draw.textlength(title, large) + 22
    draw.text((after, _HEAD / 2 + 1), f"{subtitle}   research use only".strip(), _FAINT, font, anchor="lm")
    for index, plane in enumerate(planes):
        left = _MARGIN + index * (PANEL + _GAP)
        sheet.paste(draw_plane(plane), (left, _HEAD))
        _letters(draw, plane, left, font)
    if scale is not None:
        _dose_scale(sheet, draw, scale, font)
    for name, (left, top) in places.items():
        chip = (left, top + 4, left + 11, top + 15)
        draw.rectangle(chip, fill=colour(name) if name in cut else None, outline=colour(name))
        draw.text((left + 17, top + 10), name, _INK if name in cut else _FAINT, font, anchor="lm")
    if hidden := len(names) - len(places):
        draw.text((_MARGIN, sheet.height - _LINE / 2), f"and {hidden} more", _FAINT, font, anchor="lm")
    return sheet


def _letters(draw: ImageDraw, plane: Plane, left: int, font: FreeTypeFont | ImageFont) -> None:
    """The letters of the patient's sides at the borders of a panel."""
    middle, inset = PANEL / 2, 10
    spots = ((inset, middle - 16), (PANEL - inset, middle - 16), (middle + 16, inset), (middle + 16, PANEL - inset))
    for letter, (x, y) in zip(_SIDES[plane.name], spots, strict=True):
        spot = (left + x, _HEAD + y)
        draw.text(spot, letter, _INK, font, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))


def _dose_scale(sheet: Image, draw: ImageDraw, scale: Scale, font: FreeTypeFont | ImageFont) -> None:
    from PIL import Image

    left, width = _MARGIN + _PLANES_WIDTH + 12, 12
    top_part = 1.1 if scale.prescription_gy else 1.0
    parts = np.linspace(top_part, SHOWN_FROM, PANEL)
    colours = np.repeat(wash_rgb(parts)[:, None], width, axis=1)
    sheet.paste(Image.fromarray(colours.astype(np.uint8)), (left, _HEAD))
    for part, label in scale.ticks.items():
        y = _HEAD + PANEL * (top_part - part) / (top_part - SHOWN_FROM)
        draw.text((left + width + 6, min(max(y, _HEAD + 6), _HEAD + PANEL - 6)), label, _INK, font, anchor="lm")


def _placed(names: Iterable[str], font: FreeTypeFont | ImageFont) -> tuple[dict[str, tuple[int, int]], int]:
    """Where each name of the legend goes, and the legend's height; what finds no place any more is left out."""
    places: dict[str, tuple[int, int]] = {}
    left, line = _MARGIN, 0
    first = _HEAD + PANEL + _MARGIN // 2 + 2
    for name in names:
        width = int(font.getlength(name)) + 38
        if left + width > _WIDTH and left > _MARGIN:
            left, line = _MARGIN, line + 1
        if line == _MOST_LINES:
            return places, (_MOST_LINES + 1) * _LINE
        places[name] = (left, first + line * _LINE)
        left += width
    return places, (line + 1) * _LINE if places else 0
