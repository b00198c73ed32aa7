"""What the viewer shows of a case, small enough to lie in its page: CT, doses and masks around what matters.

Volumes are NIfTI files of 16 bits. The CT keeps its whole HU; a dose is rounded to steps of 0.01 Gy, which is what
the viewer shows, so that a value read there is the file's value to that many decimals. Large volumes are thinned by
taking every n-th voxel, never by averaging, so that this holds for every voxel that is left.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError
from mtl_med.geometry import Grid, reorient
from mtl_med.io.colours import colour
from mtl_med.io.nifti import encode_nifti

__all__ = ["MOST_VOXELS", "Contents", "Excerpt", "Outlined", "encode", "excerpt"]

MOST_VOXELS = 1_500_000  # some 2.5 MB of a page
MISSING = -32768  # stands for a value that is no number
_MARGIN = 5  # voxels around dose and structures
_STEPS_GY = (0.01, 0.1, 1.0, 10.0)
_AXES = "RAS"


@dataclass(frozen=True, eq=False)
class Outlined:
    """A structure on both sides.

    Args:
        name: of the structure.
        kind: "target", "oar", "external" or "other".
        true: (X, Y, Z) mask; None where it was not contoured.
        predicted: (X, Y, Z) mask; None where it was not predicted.
    """

    name: str
    kind: str
    true: NDArray | None = None
    predicted: NDArray | None = None


@dataclass(frozen=True, eq=False)
class Contents:
    """What there is to show, all on one grid.

    Args:
        grid: of all arrays, any orientation.
        ct: (X, Y, Z) HU.
        doses: "planned", "predicted" -> (X, Y, Z) Gy.
        structures: in the order of the list.
    """

    grid: Grid
    ct: NDArray
    doses: Mapping[str, NDArray] = field(default_factory=dict)
    structures: tuple[Outlined, ...] = ()


@dataclass(frozen=True, eq=False)
class Excerpt:
    """A part of a grid, its axes turned to right, front and head.

    Args:
        grid: of the part.
        index: (4, 4) whole numbers: voxel of the part -> voxel of the case's files.
        box: the part of the turned volume, with steps.
    """

    grid: Grid
    index: NDArray[np.int64]
    box: tuple[slice, slice, slice]

    @property
    def step(self) -> tuple[int, int, int]:
        """Every how manieth voxel of the turned volume is kept."""
        x, y, z = (int(part.step) for part in self.box)
        return x, y, z


def excerpt(contents: Contents, most_voxels: int = MOST_VOXELS) -> Excerpt:
    """The box around doses and structures, thinned where it holds more than `most_voxels`."""
    everything = np.zeros(contents.grid.shape, dtype=bool)
    for dose in contents.doses.values():
        everything |= dose > 0
    for item in contents.structures:
        for mask in (item.true, item.predicted):
            if mask is not None:
                everything |= mask
    turned, grid = reorient(everything, contents.grid, _AXES)
    hits = [np.flatnonzero(turned.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    first, last = np.zeros(3, dtype=int), np.array(turned.shape)
    if hits[0].size:
        first = np.array([max(0, int(hit[0]) - _MARGIN) for hit in hits])
        last = np.minimum(last, [int(hit[-1]) + _MARGIN + 1 for hit in hits])
    step = np.ones(3, dtype=int)
    while np.prod(-((first - last) // step)) > most_voxels:
        step[np.argmin(step * np.array(grid.spacing_mm))] += 1
    x, y, z = (slice(int(first[axis]), int(last[axis]), int(step[axis])) for axis in range(3))
    place = np.diag([*step, 1]).astype(np.float64)
    place[:3, 3] = first
    affine = grid.affine @ place
    shape = tuple(int(size) for size in turned[x, y, z].shape)
    index = np.rint(np.linalg.inv(contents.grid.affine) @ affine).astype(np.int64)
    return Excerpt(Grid((shape[0], shape[1], shape[2]), affine), index, (x, y, z))


def encode(contents: Contents, part: Excerpt) -> dict[str, Any]:
    """The part as plain JSON: gzip in base64, and what a reader needs to know about it.

    Raises:
        CaseError: a dose that 16 bits cannot hold.
        GeometryError: a sheared grid.
    """
    ct, missing = _whole(part_of(contents.ct, contents.grid, part), 1.0)
    step = _dose_step(contents.doses)
    fields: dict[str, Any] = {
        "shape": list(part.grid.shape),
        "index": part.index.tolist(),
        "missing": MISSING,
        "ct": {"unit": "HU", "step": 1, "decimals": 0, "data": _nifti(ct, part.grid), "gaps": missing},
        "doses": {},
        "structures": [],
    }
    for name, dose in contents.doses.items():
        values, missing = _whole(part_of(dose, contents.grid, part), step)
        fields["doses"][name] = {
            "unit": "Gy",
            "step": step,
            "decimals": max(0, round(-np.log10(step))),
            "data": _nifti(values, part.grid),
            "gaps": missing,
        }
    packed: list[bytes] = []
    for item in contents.structures:
        masks = {"true": item.true, "predicted": item.predicted}
        red, green, blue = colour(item.name)
        entry: dict[str, Any] = {"name": item.name, "kind": item.kind, "colour": [red, green, blue]}
        for side, mask in masks.items():
            entry[side] = None if mask is None else len(packed)
            if mask is not None:
                cut = part_of(np.asarray(mask) > 0, contents.grid, part)
                packed.append(np.packbits(cut.ravel(order="F"), bitorder="little").tobytes())
        fields["structures"].append(entry)
    fields["masks"] = _text(zlib.compress(b"".join(packed), 6)) if packed else ""
    return fields


def part_of(array: NDArray, grid: Grid, part: Excerpt) -> NDArray:
    """The excerpt of an array on the case's grid."""
    turned, _ = reorient(array, grid, _AXES)
    return turned[part.box]


def _dose_step(doses: Mapping[str, NDArray]) -> float:
    top = max((float(np.abs(dose[np.isfinite(dose)]).max(initial=0.0)) for dose in doses.values()), default=0.0)
    found = next((step for step in _STEPS_GY if top / step < -MISSING - 1), None)
    if found is None:
        raise CaseError(f"a dose of {top:.3g} Gy is more than the viewer can hold", fix="Check its unit")
    return found


def _whole(values: NDArray, step: float) -> tuple[NDArray[np.int16], int]:
    """Values in steps as 16 bits, and how many are no number or too large."""
    steps = np.rint(np.asarray(values, dtype=np.float64) / step)
    known = np.isfinite(steps) & (np.abs(steps) < -MISSING)
    return np.where(known, steps, MISSING).astype(np.int16), int(np.count_nonzero(~known))


def _nifti(values: NDArray[np.int16], grid: Grid) -> str:
    return _text(encode_nifti(np.ascontiguousarray(values), grid))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
