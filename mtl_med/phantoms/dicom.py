"""Phantoms as DICOM-RT studies: CT, RTSTRUCT, RTPLAN and RTDOSE as a clinic exports them, with the truth beside them.

The writer shares no code with the readers in `io/`, so that a fault in one cannot hide in the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError
from mtl_med.geometry import Grid
from mtl_med.phantoms.dicom_ct import slice_uid, write_ct
from mtl_med.phantoms.dicom_dose import sample_dose, write_doses
from mtl_med.phantoms.dicom_extras import write_extras
from mtl_med.phantoms.dicom_files import Study
from mtl_med.phantoms.dicom_identity import Identity
from mtl_med.phantoms.dicom_plan import write_plan
from mtl_med.phantoms.dicom_structures import StructureTruth, roi_names, write_rtstruct
from mtl_med.phantoms.dicom_style import DicomStyle
from mtl_med.phantoms.patient import OUTSIDE_HU, Phantom
from mtl_med.phantoms.pelvis import PelvisPhantom
from mtl_med.phantoms.scan_geometry import Scan, image_axes, place_scan
from mtl_med.phantoms.solids import Array, MaskSolid, Solid
from mtl_med.phantoms.space import Floats

__all__ = [
    "DicomStyle",
    "Identity",
    "StructureTruth",
    "Truth",
    "write_dicom_study",
]

FRACTIONS = 35  # of a phantom that does not tell


@dataclass(frozen=True, eq=False)
class Truth:
    """What a right reader finds in a study. Points are RAS mm.

    Args:
        folder: of the study.
        files: paths by kind: "ct", "rtstruct", "rtplan", "rtdose", "other".
        patient_id: as in Patient ID.
        structures: by the phantom's structure names, then `extra/0`, ... and `empty`.
        prescriptions_gy: per structure.
        fractions: planned number of fractions.
        grid: of the CT as (columns, rows, slices), slices ascending along the normal; None where tilt or uneven slices
            leave none.
        scan: the planes of all slices, also of those whose file is missing.
        ct_points: (N, 3) centres of some pixels.
        ct_hu: (N,) HU at these points, as written.
        dose_grid: of the RTDOSE, frames ascending along the normal.
        dose_gy: (columns, rows, frames), what the files sum to; beam doses beside a plan dose do not count.
        uids: Study, Series and SOP Instance UIDs and so on, by what they are of.
        planted: what must not be found in anything de-identified.
    """

    folder: Path
    files: dict[str, tuple[Path, ...]]
    patient_id: str
    structures: dict[str, StructureTruth]
    prescriptions_gy: dict[str, float]
    fractions: int
    grid: Grid | None
    scan: Scan
    ct_points: Array
    ct_hu: NDArray
    dose_grid: Grid
    dose_gy: Floats
    uids: dict[str, str]
    planted: tuple[str, ...]

    @property
    def centroids(self) -> dict[str, Array]:
        """Centre of gravity of every structure, RAS mm."""
        return {name: one.centroid_ras for name, one in self.structures.items()}

    @property
    def dose_points(self) -> tuple[Array, Floats]:
        """Centres (N, 3) of the dose voxels and the dose there (N,), Gy."""
        indices = np.indices(self.dose_grid.shape).reshape(3, -1).T
        return self.dose_grid.points_ras(indices), self.dose_gy.ravel()


def write_dicom_study(
    phantom: Phantom, folder: str | Path, *, options: DicomStyle | None = None, patient_id: str = ""
) -> Truth:
    """Write a phantom as one DICOM study.

    Args:
        phantom: a pelvis, whose contours come from its solids, or any other, whose contours come from its masks.
        folder: where the files go; made if it is not there.
        options: how they are written; see `DicomStyle`.
        patient_id: Patient ID; by default made from the seed. The same phantom, options and id give the same bytes.

    Returns:
        The truth.

    Raises:
        UsageError: options that do not fit the phantom.
        CaseError: the codec of the transfer syntax is not installed.
        OutputError: the files cannot be written.
    """
    from pydicom.config import disable_value_validation

    style = options or DicomStyle()
    number = "-".join(f"{word:03d}" for word in phantom.seed)
    study = Study(Path(folder), style, patient_id or f"PHANTOM-{number}")
    axes = image_axes(style.position, style.oblique_deg)
    rows, columns = style.pixel_spacing_mm or (None, None)
    scan = place_scan(
        phantom.grid,
        axes,
        tilt_deg=style.gantry_tilt_deg,
        spacing_mm=(columns, rows, style.slice_spacing_mm),
        size=style.size,
        upper_pitch=style.upper_pitch,
    )
    for option in ("missing_slices", "duplicated_slices"):
        if any(not 0 <= one < len(scan.origins) for one in getattr(style, option)):
            raise UsageError(f"{option} {getattr(style, option)} are not all among the {len(scan.origins)} slices")
    solids = _solids(phantom)
    names = roi_names(study, tuple(solids), phantom.prescriptions_gy)
    fractions = getattr(phantom, "fractions", FRACTIONS)
    with disable_value_validation():  # odd values are what many of these files are for
        points, hu = write_ct(study, phantom, scan)
        if style.second_ct:
            write_ct(study, phantom, _coarser(scan), "ct2")
        structures = write_rtstruct(study, scan, solids, names) if style.rtstruct else {}
        _write_plans(study, phantom, structures, fractions)
        dose, dose_grid = sample_dose(study, phantom, scan)
        written = write_doses(study, dose, dose_grid)
        write_extras(study, scan)
    return Truth(
        folder=study.folder,
        files={kind: tuple(paths) for kind, paths in study.files.items()},
        patient_id=style.identity.patient_id if style.identity else study.patient_id,
        structures=structures,
        prescriptions_gy=dict(phantom.prescriptions_gy),
        fractions=fractions,
        grid=scan.grid,
        scan=scan,
        ct_points=points,
        ct_hu=hu,
        dose_grid=dose_grid,
        dose_gy=written,
        uids=_uids(study, len(scan.origins)),
        planted=style.identity.strings if style.identity else (),
    )


def _solids(phantom: Phantom) -> dict[str, Solid]:
    """Contoured structures as solids; a phantom that has masks only gets an External as well."""
    if isinstance(phantom, PelvisPhantom):
        return dict(phantom.solids)
    masks = {"External": phantom.ct_hu > OUTSIDE_HU, **phantom.structures}
    return {name: MaskSolid(mask, phantom.grid) for name, mask in masks.items()}


def _write_plans(study: Study, phantom: Phantom, structures: dict[str, StructureTruth], fractions: int) -> None:
    style = study.style
    if style.plan != "written":
        return
    highest = max(phantom.prescriptions_gy, key=lambda name: phantom.prescriptions_gy[name])
    isocentre = phantom.grid.centroid_ras(phantom.structures[highest])
    numbers = {name: one.number for name, one in structures.items()}
    for number in (1, 2) if style.dose in ("two-plans", "multi-plan") else (1,):
        write_plan(study, number, phantom.prescriptions_gy, numbers, fractions, isocentre)


def _coarser(scan: Scan) -> Scan:
    """Every other slice, a little shifted along the couch, as in another scan of the same day."""
    shifted = scan.origins[::2] + 0.4 * scan.axes[:, 2]
    return replace(scan, origins=shifted)


def _uids(study: Study, slices: int) -> dict[str, str]:
    kinds = ("rtstruct", "rtplan 1", "rtdose 1")
    return {
        "study": study.uid("study"),
        "ct series": study.uid("series", "ct"),
        "second ct series": study.uid("series", "ct2"),
        "frame": study.frame,
        **{kind: study.uid(kind) for kind in kinds},
        **{f"ct {number}": slice_uid(study, number) for number in range(slices)},
    }
