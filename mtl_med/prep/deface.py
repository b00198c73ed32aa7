"""Heads without a face: what makes one recognisable on the surface of a CT is replaced by air.

A head is known by its skull: a closed ring of bone around soft tissue, in axial slices that are not wider than a head.
There, everything in front of a coronal plane 30 mm behind the most anterior point of the face becomes air (nose, lips,
chin, eyelids, brows), and so does what sticks out sideways by less than 24 mm in width (ears, the ends of wires), and
all that lies outside of the body before the middle of the head (a mask shows the face that it was moulded on).

What it does not do: the shape of skull, cheeks and jaw stays; a head that is tilted or turned by more than
about 20 degrees keeps part of its profile; a scan that ends below the base of the skull is not known as a head. Voxels
of `keep` are not touched, so a target that reaches the skin keeps the skin there. Contours of the surface (external,
skin) and the region of the dose draw the face as well: clear them in the voxels that `Defaced.removed` names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid

__all__ = ["AIR_HU", "DEPTH_MM", "FACE_NOTE", "Defaced", "Head", "deface", "find_head"]

AIR_HU = -1000
DEPTH_MM = 30.0  # from the tip of a nose: lips and chin lie 10 to 20 mm behind it, the front of the eyes 25 to 30 mm
FACE_NOTE = "the CT shows a head, from which a face can be made: see --deface"

_BONE_HU = 250
_STEP_MM = 3.0  # of the coarse copy that heads are looked for on
_CAVITY_CM2 = 40.0  # a skull encloses more than that; a vertebral canal 3, a marrow 10
_HEAD_CM2 = 480.0  # a section of a head with ears is smaller; shoulders, chests and bellies are larger
_CAVITY_PART = 0.4  # of the section where it is largest; a pelvis and a chest enclose less in bone
_BRAIN_HU = (-20, 120)
_BRAIN_PART = 0.65  # of what a skull encloses; elsewhere it is fat, lung and bowel
_MIN_SKULL_MM = 10.0
_MAX_GAP_MM = 10.0  # between closed rings, where noise or thin bone opens one
_SHOULDERS_MM = 300.0
_BELOW_MM = 150.0  # from the lowest closed ring, which is between brows and nose, to below the chin
_NOSE_MM = (-100.0, 60.0)  # from the lowest closed ring: where the most anterior point of the face is looked for
_EARS_BELOW_MM = 90.0
_STICKING_OUT_MM = 12.0  # radius of the disc that ears do not hold
_BRAIN_MARGIN_MM = 4.0  # the plane is never nearer to the brain


@dataclass(frozen=True)
class Head:
    """Where a head lies, in indices of slices (from inferior to superior) and of rows (from posterior to anterior).

    Args:
        lowest: lowest slice that may show the face.
        base: lowest slice with a closed ring of bone.
        top: highest slice with one.
        middle: row through the middle of what the skull encloses.
        brain: most anterior row of the brain, where it is widest and above, and nothing else lies in the ring.
    """

    lowest: int
    base: int
    top: int
    middle: int
    brain: int


@dataclass(frozen=True, eq=False)
class Defaced:
    """A CT without a face.

    Args:
        ct: HU, of the type it had.
        removed: bool, voxels that were made air.
        note: a sentence for the notes of the case.
    """

    ct: NDArray
    removed: NDArray[np.bool_]
    note: str


def find_head(ct: NDArray, grid: Grid, body: NDArray) -> Head | None:
    """Where a CT shows a head, or None.

    Args:
        ct: (X, Y, Z) HU, in RAS order.
        grid: its grid.
        body: (X, Y, Z), not 0 within the patient.

    Raises:
        GeometryError: the grid is not in RAS order.
    """
    _require_ras(grid)
    steps = [max(1, int(_STEP_MM / mm)) for mm in grid.spacing_mm]
    sizes = np.array(grid.spacing_mm) * steps
    coarse = tuple(slice(None, None, step) for step in steps)
    inside, values = body[coarse] > 0, ct[coarse]
    bone = _any_of_blocks((ct[:, :, :: steps[2]] > _BONE_HU) & (body[:, :, :: steps[2]] > 0), steps)
    cavity = _cavity(bone)
    area_cm2 = float(sizes[0] * sizes[1]) / 100
    enclosed, sections = (mask.sum(axis=(0, 1)) * area_cm2 for mask in (cavity, inside))
    first, last = _longest_run((enclosed > _CAVITY_CM2) & (sections < _HEAD_CM2), int(_MAX_GAP_MM / sizes[2]))
    if (last - first) * sizes[2] < _MIN_SKULL_MM:
        return None
    like_brain = cavity & (values > _BRAIN_HU[0]) & (values < _BRAIN_HU[1])
    part = np.count_nonzero(like_brain[:, :, first:last]) / np.count_nonzero(cavity[:, :, first:last])
    if part < _BRAIN_PART or (enclosed / np.maximum(sections, area_cm2))[first:last].max() < _CAVITY_PART:
        return None
    rows = np.flatnonzero(cavity[:, :, first:last].any(axis=(0, 2)))
    widest = first + int(like_brain[:, :, first:last].sum(axis=(0, 1)).argmax())  # above the orbits
    front = np.flatnonzero(like_brain[:, :, widest:last].any(axis=(0, 2))).max(initial=0)
    columns = np.asarray(inside.any(axis=1))
    lowest = first
    while lowest > 0 and (first - lowest) * sizes[2] < _BELOW_MM:
        across = np.flatnonzero(columns[:, lowest - 1])
        if len(across) and np.ptp(across) * sizes[0] > _SHOULDERS_MM:
            break
        lowest -= 1
    middle, brain = int(rows.mean()), int(front)
    return Head(lowest * steps[2], first * steps[2], (last - 1) * steps[2], middle * steps[1], (brain + 1) * steps[1])


def deface(ct: NDArray, grid: Grid, body: NDArray, keep: NDArray | None = None) -> Defaced:
    """Replace the face by air, where the CT shows a head; what lies behind it stays as it is.

    Args:
        ct: (X, Y, Z) HU, in RAS order; not changed.
        grid: its grid.
        body: (X, Y, Z), not 0 within the patient; a head that is cut from a mask or holder is best.
        keep: (X, Y, Z), not 0 where the CT must stay: organs and targets, but no external contour.

    Returns:
        the CT, the voxels that were made air, and a sentence about it.

    Raises:
        GeometryError: the grid is not in RAS order.
    """
    head = find_head(ct, grid, body)
    removed = np.zeros(ct.shape, dtype=bool)
    if head is None:
        return Defaced(ct, removed, "no skull was found, so that nothing was defaced")
    box = _box(body, head.lowest)
    inside = _filled(body[box] > 0)
    face = ~inside
    ears = range(
        max(0, head.base - head.lowest - round(_EARS_BELOW_MM / grid.spacing_mm[2])), head.top - head.lowest + 1
    )
    _add_thin(face, inside, ears, grid)
    cut, middle = (row - box[1].start for row in (_cut_row(body, grid, head), head.middle))
    face[:, : max(0, middle)] &= inside[:, : max(0, middle)]  # a headrest behind shows nobody
    face[:, max(0, cut) :] = True
    removed[:, head.middle :, head.lowest :] = body[:, head.middle :, head.lowest :] == 0
    removed[box] = face
    if keep is not None:
        removed &= keep == 0
    cleared = ct.copy()
    cleared[removed] = AIR_HU
    volume_cc = np.count_nonzero(removed & (body > 0)) * grid.voxel_volume_mm3 / 1000
    note = (
        f"the face was made air ({volume_cc:.0f} cc of the body: in front of a plane {DEPTH_MM:.0f} mm behind its most "
        "anterior point, and ears); skull, cheeks and jaw still have their shape"
    )
    return Defaced(cleared, removed, note)


def _require_ras(grid: Grid) -> None:
    if grid.axis_codes != "RAS":
        raise GeometryError(
            f"axes run {grid.axis_codes}, expected RAS", fix="Reorient the CT first (mtl_med.geometry.reorient)"
        )


def _cavity(bone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What bone encloses in each axial slice; gaps of a voxel do not open it."""
    from scipy.ndimage import binary_closing, binary_fill_holes

    found = np.zeros(bone.shape, dtype=bool)
    for k in np.flatnonzero(bone.any(axis=(0, 1))):
        ring = binary_closing(np.pad(bone[:, :, k], 2), iterations=1)[2:-2, 2:-2]
        found[:, :, k] = binary_fill_holes(ring) & ~ring
    return found


def _any_of_blocks(mask: NDArray[np.bool_], steps: list[int]) -> NDArray[np.bool_]:
    """Whether any voxel of a block of an axial slice is set, so that thin bone stays closed."""
    for axis in (0, 1):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], steps[axis]), axis=axis)
    return mask


def _longest_run(flags: NDArray[np.bool_], gap: int) -> tuple[int, int]:
    """First and past-the-last index of the longest run of True, over gaps of so many False; (0, 0) without any."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    apart = np.flatnonzero(starts[1:] - ends[:-1] > gap)
    starts, ends = starts[np.append(0, apart + 1)], ends[np.append(apart, len(ends) - 1)]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])


def _box(body: NDArray, lowest: int) -> tuple[slice, slice, slice]:
    """The part of the image that holds the body from a slice upwards."""
    flat = np.asarray(body[:, :, lowest:].any(axis=2))
    columns, rows = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    ends = (slice(int(columns[0]), int(columns[-1]) + 1), slice(int(rows[0]), int(rows[-1]) + 1))
    return (*ends, slice(lowest, body.shape[2]))


def _cut_row(body: NDArray, grid: Grid, head: Head) -> int:
    """Row of the plane behind the face."""
    bottom, top = (max(head.lowest, head.base + round(offset / grid.spacing_mm[2])) for offset in _NOSE_MM)
    rows = np.flatnonzero(body[:, :, bottom : top + 1].any(axis=(0, 2)))
    behind, before = round(DEPTH_MM / grid.spacing_mm[1]), round(_BRAIN_MARGIN_MM / grid.spacing_mm[1])
    return max(head.brain + before, int(rows.max()) + 1 - behind)


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With the air that each axial slice encloses: sinuses and airways are no way to see a face."""
    from scipy.ndimage import binary_fill_holes

    return np.stack([binary_fill_holes(mask[:, :, k]) for k in range(mask.shape[2])], axis=2)


def _add_thin(face: NDArray[np.bool_], inside: NDArray[np.bool_], slices: Iterable[int], grid: Grid) -> None:
    """Add what sticks out sideways and is thinner than a disc, slice by slice."""
    from scipy.ndimage import distance_transform_edt

    spacing = grid.spacing_mm[:2]
    for k in slices:
        core = distance_transform_edt(np.pad(inside[:, :, k], 1), sampling=spacing)[1:-1, 1:-1] > _STICKING_OUT_MM
        columns = np.flatnonzero(core.any(axis=1))
        if len(columns):
            thin = distance_transform_edt(~core, sampling=spacing) > _STICKING_OUT_MM + max(spacing)
            thin[columns[0] : columns[-1] + 1] = False
            face[:, :, k] |= thin
