"""One picture of a prepared case: CT, contours and dose wash in three planes, so that a person can judge it by eye.

Everything comes from the volumes of the study folder, so the picture shows what a training will see. It is drawn with
numpy and Pillow alone, in a fraction of a second and with the same bytes each time.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError
from mtl_med.files import atomic_path
from mtl_med.geometry import Grid, reorient
from mtl_med.io.nifti import read_nifti
from mtl_med.manifest import Case
from mtl_med.prep.body import BODY_HU
from mtl_med.prep.overlay_sheet import PLANES_BOX, SHOWN_FROM, Plane, Scale, draw_sheet
from mtl_med.prep.turning import bounding_box

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["OVERLAY_FILE", "draw_overlay", "thumbnail", "write_overlay"]

OVERLAY_FILE = "overlay.png"
Load = Callable[[str], NDArray]
Voxel = tuple[int, int, int]
Number = TypeVar("Number", int, float)

_AXES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}  # that run along the columns and the rows
_LAYERS = {"external": 0, "other": 1, "oar": 2, "target": 3}  # targets on top, so that no organ's line hides theirs
_BODY_PART = 0.01  # of a row or column of a slice: less than this above air is noise
_MARGIN_MM = 12.0
_LUNGS, _LUNG_WINDOW_HU = "Lungs", (-1150.0, 250.0)


def write_overlay(case: Case, path: str | Path, load: Load | None = None) -> None:
    """Draw a case, as `draw_overlay` does, into a PNG file.

    Args:
        case: a case of a study.
        path: the PNG to write; `OVERLAY_FILE` in the case's folder is where the quality page looks for it.
        load: file key -> its array on the case's grid, where the arrays are in memory; by default the files are read.

    Raises:
        CaseError: the case is no volume, or a file of it cannot be read.
        OutputError: the file cannot be written.
    """
    picture = draw_overlay(case, load)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=3)  # half the time of 6, a tenth larger


def draw_overlay(case: Case, load: Load | None = None) -> Image:
    """Three planes through the target of the highest prescription; else the high dose, else most structures.

    A case with lungs and nothing else is shown in a window in which these are not black.

    The patient's right and front are on the left. Structures are outlined in the colours that they have in all files;
    the dose wash is relative to the highest prescription, or to the highest dose where none is known. A grey line
    bounds the region in which dose is known. A case without dose, structures or CT is drawn with what it has.

    Args:
        case: a case of a study.
        load: as for `write_overlay`.

    Raises:
        CaseError: the case is no volume, or a file of it cannot be read.
    """
    if case.grid is None:
        raise CaseError("is no volume, and three planes are drawn of volumes only", where=case.id)
    grid, read = case.grid, load or (lambda key: read_nifti(case.path(key))[0])

    def volume(key: str) -> NDArray:
        array = read(key)
        return array if grid.axis_codes == "RAS" else reorient(array, grid)[0]

    names = [name for name in case.structures if case.has(f"structures/{name}")]
    names.sort(key=lambda name: _LAYERS.get(case.structures[name].kind, 1))
    planes, highest_gy = _planes(case, grid, volume, names)
    return draw_sheet(
        [_cropped(plane) for plane in planes],
        title=case.id,
        subtitle=_subtitle(case, highest_gy),
        scale=Scale(highest_gy, _prescription_gy(case)) if highest_gy > 0 else None,
    )


def thumbnail(path: str | Path, width: int = 480) -> bytes:
    """The three planes of a written picture, small, as JPEG.

    Args:
        path: a PNG that `write_overlay` wrote.
        width: width of the result, pixels.

    Raises:
        CaseError: the file is missing or is no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            planes = picture.convert("RGB").crop(PLANES_BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CaseError("is no picture that can be read", where=path, fix="Draw it again") from error
    stream = io.BytesIO()
    small = planes.resize((width, round(width * planes.height / planes.width)), Image.Resampling.HAMMING)
    small.save(stream, format="JPEG", quality=80)
    return stream.getvalue()


def _planes(case: Case, grid: Grid, volume: Load, names: list[str]) -> tuple[list[Plane], float]:
    """The three slices, and the highest dose in Gy; one volume at a time is in memory."""
    shape, spacing_mm = _in_ras(grid, grid.shape), _in_ras(grid, grid.spacing_mm)
    centre = _centre(case, shape, volume, names)
    ct = _cuts(volume("ct"), centre) if case.has("ct") else {}
    known = _cuts(volume("mask_dose"), centre) if case.has("mask_dose") else {}
    masks = {name: _cuts(volume(f"structures/{name}"), centre) for name in names}
    dose, highest_gy = {}, 0.0
    if case.has("dose"):
        dose_gy = volume("dose")
        dose, highest_gy = _cuts(dose_gy, centre), _highest(dose_gy)
    hundred_percent_gy = _prescription_gy(case) or highest_gy
    window = {"window_hu": _LUNG_WINDOW_HU} if names == [_LUNGS] else {}
    planes = [
        Plane(
            name=plane,
            shape=(shape[up], shape[across]),
            spacing_mm=(spacing_mm[up], spacing_mm[across]),
            crossing=(shape[up] - 1 - centre[up], shape[across] - 1 - centre[across]),
            ct=ct.get(plane),
            dose=np.nan_to_num(dose[plane]) / hundred_percent_gy if highest_gy > 0 else None,
            known=known[plane] > 0 if known else None,
            outlines={name: cuts[plane] > 0 for name, cuts in masks.items()},
            **window,
        )
        for plane, (across, up) in _AXES.items()
    ]
    return planes, highest_gy


def _cuts(volume: NDArray, centre: Voxel) -> dict[str, NDArray]:
    """Copies of the slices as people look at them: RAS axes run against the rows from the top and the columns."""
    x, y, z = centre
    parts = {"axial": volume[:, :, z], "coronal": volume[:, y, :], "sagittal": volume[x]}
    return {plane: np.ascontiguousarray(part.T[::-1, ::-1]) for plane, part in parts.items()}


def _in_ras(grid: Grid, values: tuple[Number, Number, Number]) -> tuple[Number, Number, Number]:
    """Values of the array axes, in the order of R, A and S."""
    codes = grid.axis_codes
    x, y, z = (values[next(axis for axis in range(3) if codes[axis] in ends)] for ends in ("RL", "AP", "SI"))
    return x, y, z


def _prescription_gy(case: Case) -> float:
    return max(case.prescriptions_gy.values(), default=0.0)


def _centre(case: Case, shape: Voxel, volume: Load, names: list[str]) -> Voxel:
    """The voxel in which the planes cross."""
    targets = [name for name in names if case.structures[name].kind == "target"]
    for name in sorted(targets, key=lambda name: -case.prescriptions_gy.get(name, 0.0)):
        if found := _middle(volume(f"structures/{name}")):
            return found
    if case.has("dose"):
        dose_gy = volume("dose")
        highest_gy = _highest(dose_gy)
        if highest_gy > 0 and (found := _middle(dose_gy >= 0.9 * highest_gy)):
            return found
    if names == [_LUNGS] and (found := _middle(volume(f"structures/{_LUNGS}"))):
        return found  # through a lung: most of the columns that hold any pass between them
    crossed = [np.zeros(size, dtype=np.int64) for size in shape]
    for name in names:
        for total, profile in zip(crossed, _profiles(volume(f"structures/{name}")), strict=True):
            total += profile > 0
    if any(total.any() for total in crossed):
        return _best(crossed)
    if case.has("ct") and (found := _middle(volume("ct") > BODY_HU)):
        return found
    return _best(crossed)


def _highest(dose_gy: NDArray) -> float:
    """Highest dose of what is a number; `fmax` takes five times as long, and is seldom needed."""
    highest_gy = dose_gy.max()
    return float(np.fmax.reduce(dose_gy, axis=None) if np.isnan(highest_gy) else highest_gy)


def _middle(mask: NDArray) -> Voxel | None:
    """Where along each axis the mask is widest; None for an empty mask."""
    profiles = _profiles(mask)
    return _best(profiles) if profiles[2].any() else None


def _profiles(mask: NDArray) -> list[NDArray]:
    """Number of voxels of the mask in each slice, for each axis."""
    box = bounding_box(mask)
    part = mask[box] > 0
    profiles = []
    for axis, (size, side) in enumerate(zip(mask.shape, box, strict=True)):
        profile = np.zeros(size, dtype=np.int64)
        profile[side] = part.sum(axis=tuple({0, 1, 2} - {axis}))
        profiles.append(profile)
    return profiles


def _best(profiles: list[NDArray]) -> Voxel:
    """The middle one of the positions at which each profile is about highest."""
    x, y, z = (np.flatnonzero(profile >= 0.98 * profile.max()) for profile in profiles)
    return int(x[len(x) // 2]), int(y[len(y) // 2]), int(z[len(z) // 2])


def _cropped(plane: Plane) -> Plane:
    """The plane without the air around: what is left shows the body, every structure and the dose."""
    shown = np.zeros(plane.shape, dtype=bool)
    if plane.ct is not None:
        body = plane.ct > BODY_HU
        shown |= (body.mean(axis=1) > _BODY_PART)[:, None] & (body.mean(axis=0) > _BODY_PART)
    if plane.dose is not None:
        shown |= plane.dose >= SHOWN_FROM
    for mask in plane.outlines.values():
        shown |= mask
    return plane.cropped(shown, _MARGIN_MM)


def _subtitle(case: Case, highest_gy: float) -> str:
    """Prescriptions, highest dose and labels, as far as they are known."""
    parts = []
    if levels := sorted(set(case.prescriptions_gy.values()), reverse=True):
        parts.append(f"prescribed {', '.join(f'{gy:g}' for gy in levels)} Gy")
    if case.has("dose"):
        parts.append(f"highest dose {highest_gy:.1f} Gy")
    parts += [f"{task} {value:g}" for task, value in case.labels.items()]
    expected = ("ct",) if case.labels else ("ct", "dose")
    return "   ".join([*parts, *(f"no {key}" for key in expected if not case.has(key))])
