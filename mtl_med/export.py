"""`mtl-med export`: a predicted case as DICOM objects that belong to the study of its CT."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_med.errors import EXIT_OK, CaseError, UsageError, nearest
from mtl_med.files import atomic_files
from mtl_med.io.results import (
    CT_FILE,
    DOSE_FILE,
    DOSE_PERCENT_FILE,
    LABEL_MAP_FILE,
    SEGMENTATION_FILE,
    Structures,
    has_dose,
    read_dose,
    read_structures,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mtl_med.geometry import Grid
    from mtl_med.io.dicom_reference import CtReference

__all__ = ["KINDS", "add_arguments", "export", "run"]

log = logging.getLogger(__name__)

KINDS = ("rtstruct", "rtdose", "seg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med export`."""
    about = f"folder of one predicted case: {DOSE_FILE}, {SEGMENTATION_FILE}"
    parser.add_argument("prediction", type=Path, metavar="PREDICTION", help=about)
    about = "what to write (default: rtstruct and rtdose, as far as they were predicted); seg needs highdicom"
    parser.add_argument("--to", nargs="+", choices=KINDS, metavar="KIND", help=f"{', '.join(KINDS)}: {about}")
    about = "folder of the CT that was predicted, DICOM; patient, study and frame of reference come from it"
    parser.add_argument("--reference", type=Path, required=True, metavar="CT_DIR", help=about)
    about = "Series Instance UID of the CT, where the folder holds several"
    parser.add_argument("--series", default="", metavar="UID", help=about)
    about = "RTPLAN that the dose belongs to (default: write one without beams, intent RESEARCH)"
    parser.add_argument("--plan", type=Path, metavar="RTPLAN", help=about)
    about = "dose that 100 %% stand for, where the prediction is in percent"
    parser.add_argument("--prescription-gy", type=float, metavar="GY", help=about)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: PREDICTION/dicom)")
    about = "go on although the CT is not that of the prediction, voxel by voxel, or cannot be compared"
    parser.add_argument("--force", action="store_true", help=about)


def run(args: argparse.Namespace) -> int:
    """Export one case as `args` says."""
    written = export(
        args.prediction,
        args.reference,
        kinds=args.to,
        out=args.out,
        series_uid=args.series,
        plan=args.plan,
        prescription_gy=args.prescription_gy,
        force=args.force,
    )
    for path in written:
        sys.stdout.write(f"{path}\n")
    sys.stdout.write("For research only: no treatment may be based on these files.\n")
    return EXIT_OK


def export(
    prediction: str | Path,
    reference: str | Path,
    *,
    kinds: Iterable[str] | None = None,
    out: str | Path | None = None,
    series_uid: str = "",
    plan: str | Path | None = None,
    prescription_gy: float | None = None,
    force: bool = False,
    seed: str = "",
    when: datetime | None = None,
) -> list[Path]:
    """Write what was predicted for a case as DICOM objects in the study of its CT.

    Structures return to the slices of the CT; the dose keeps its grid. A dose refers to a plan: that of `plan`, or else
    one without beams that is written beside it.

    Args:
        prediction: folder of the case, as `write_prediction` makes it.
        reference: folder of the CT, DICOM.
        kinds: some of "rtstruct", "rtdose" and "seg"; by default the first two, as far as they were predicted.
        out: folder to write (default: `dicom` in that of the case).
        series_uid: Series Instance UID of the CT, where the folder holds several.
        plan: RTPLAN file.
        prescription_gy: dose that 100 % stand for, where the prediction is in percent, Gy.
        force: go on although the CT is not that of the prediction, or cannot be compared with it.
        seed: where given, the UIDs follow from it; by default they are random.
        when: date and time of making (default: now).

    Returns:
        The files written: `rtstruct.dcm`, `rtplan.dcm`, `rtdose.dcm`, `seg.dcm`.

    Raises:
        UsageError: nothing was predicted, or not what is asked for; an option would have no effect; the CT cannot be
            told; a file of another maker would be replaced; highdicom is missing.
        NothingFoundError: the folder of the CT is missing or holds none.
        CaseError: a file cannot be used, or the CT or the plan belongs to another patient or prediction.
        OutputError: the folder cannot be written.
    """
    from mtl_med.io.ct_likeness import require_same_ct
    from mtl_med.io.dicom_reference import find_ct_series

    prediction = Path(prediction)
    structures = read_structures(prediction)
    wanted = _wanted(kinds, prediction, structures)
    if "rtdose" not in wanted and (plan or prescription_gy is not None):
        option = "--plan" if plan else "--prescription-gy"
        raise UsageError(f"{option} belongs to a dose, and none is exported", fix="Add rtdose to --to, or leave it out")
    dose = _dose(prediction, prescription_gy) if "rtdose" in wanted else None
    grid = structures.grid or (dose[1] if dose else None)
    ct = _choose(find_ct_series(reference), series_uid, grid, Path(reference))
    if structures.from_label_map and {"rtstruct", "seg"} & set(wanted):
        told = "%s: is a label map, and there is no %s: where structures overlap, one lacks"
        log.warning(told, prediction / LABEL_MAP_FILE, SEGMENTATION_FILE)
    if not force:
        require_same_ct(prediction / CT_FILE, ct)
    referred = _plan(Path(plan), ct, prescription_gy) if plan else None
    folder = Path(out) if out else prediction / "dicom"
    if folder.resolve().is_relative_to(Path(reference).resolve()):
        raise UsageError("lies among the originals of the reference", where=folder, fix="Choose another --out")
    _require_own(folder, [*wanted, "rtplan"] if dose and not referred else wanted)
    written = _write(folder, wanted, structures, dose, ct, referred, prescription_gy, seed, when or datetime.now())
    _warn_of_an_older_plan(folder, written)
    return written


def _wanted(kinds: Iterable[str] | None, prediction: Path, structures: Structures) -> list[str]:
    if not prediction.is_dir():
        raise UsageError("there is no such folder", where=prediction, fix="Give the folder of one predicted case")
    if (prediction / "case.json").is_file():
        raise UsageError(
            "is a case of a study and holds no prediction",
            where=prediction,
            why="What is exported says of itself that it was predicted",
            fix="Give the folder of the case among the predictions",
        )
    there = {"rtstruct": bool(structures.masks), "rtdose": has_dose(prediction), "seg": bool(structures.masks)}
    wanted = list(dict.fromkeys(kinds)) if kinds else [kind for kind in ("rtstruct", "rtdose") if there[kind]]
    for kind in wanted:
        if kind not in there:
            raise UsageError(f"nothing can be exported to '{kind}'", fix=nearest(kind, KINDS))
        if not there[kind]:
            missing = DOSE_FILE if kind == "rtdose" else SEGMENTATION_FILE
            raise UsageError(f"has no {missing} to make an {kind.upper()} of", where=prediction, fix="Predict it first")
    if not wanted:
        raise UsageError("holds no prediction", where=prediction, fix="Give the folder of one case, not that of all")
    if "seg" in wanted:
        from mtl_med.io.dicom_seg import require_highdicom

        require_highdicom()
    return wanted


def _dose(prediction: Path, prescription_gy: float | None) -> tuple[NDArray[np.float32], Grid] | None:
    if prescription_gy is not None and not 0 < prescription_gy < 1000:
        raise UsageError(f"a prescription of {prescription_gy:g} Gy", fix="Give it in Gy, over all fractions")
    in_gy = (prediction / DOSE_FILE).is_file()
    if prescription_gy is not None and in_gy:
        raise UsageError(
            f"is in Gy already, so that {prescription_gy:g} Gy for 100 % would change nothing",
            where=prediction / DOSE_FILE,
            fix="Leave out --prescription-gy",
        )
    if prescription_gy is None and not in_gy:
        raise UsageError(
            "is in percent of a prescription",
            where=prediction / DOSE_PERCENT_FILE,
            fix="Say with --prescription-gy what 100 % are, or leave the dose out with --to rtstruct",
        )
    return read_dose(prediction, prescription_gy)


def _choose(found: Mapping[str, CtReference], series_uid: str, grid: Grid | None, folder: Path) -> CtReference:
    """The CT series that is asked for, the only one, or the only one on the voxels of the prediction."""
    if series_uid:
        if series_uid not in found:
            raise UsageError(f"holds no CT series '{series_uid}'", where=folder, fix=f"There are: {', '.join(found)}")
        return found[series_uid]
    if len(found) > 1 and grid is not None:
        found = {uid: ct for uid, ct in found.items() if _same_voxels(ct, grid)} or found
    if len(found) > 1:
        listed = ", ".join(f"{uid} ({len(ct.slices)} slices)" for uid, ct in found.items())
        raise UsageError(f"holds {len(found)} CT series: {listed}", where=folder, fix="Choose one with --series UID")
    return next(iter(found.values()))


def _same_voxels(ct: CtReference, grid: Grid) -> bool:
    import numpy as np

    from mtl_med.geometry import reorient, same_grid

    if ct.grid is None:
        return False
    _, turned = reorient(np.broadcast_to(np.uint8(0), grid.shape), grid, ct.grid.axis_codes)
    return same_grid(turned, ct.grid, tolerance_mm=0.1)


def _plan(path: Path, ct: CtReference, prescription_gy: float | None) -> tuple[str, str]:
    """SOP Class and SOP Instance UID of a plan of the CT's patient and frame of reference, where it tells them."""
    from mtl_med.io.dicom import read_header
    from mtl_med.io.dicom_items import text
    from mtl_med.io.rtplan import read_rtplan

    header = read_header(path)
    for keyword, what in (("PatientID", "patient"), ("FrameOfReferenceUID", "frame of reference")):
        there, expected = text(header, keyword), text(ct.header, keyword)
        if there and expected and there != expected:
            raise CaseError(f"belongs to another {what} than the CT", where=path, fix="Give the plan of this CT")
    plan = read_rtplan(path)
    planned_gy = max((item.dose_gy for item in plan.prescriptions), default=None)
    if planned_gy and prescription_gy and abs(planned_gy - prescription_gy) > 0.01 * planned_gy:
        log.warning("%s: prescribes up to %g Gy, but %g Gy were taken as 100 %%", path, planned_gy, prescription_gy)
    return text(header, "SOPClassUID"), plan.sop_uid


def _require_own(folder: Path, kinds: list[str]) -> None:
    """Refuse to replace what no earlier export made, such as a clinic's structure set of the same file name."""
    from mtl_med.io.dicom import read_header
    from mtl_med.io.dicom_common import MANUFACTURER
    from mtl_med.io.dicom_items import text

    for path in (folder / f"{kind}.dcm" for kind in kinds):
        if path.is_file() and text(read_header(path), "Manufacturer") != MANUFACTURER:
            raise UsageError(
                "is no file of an earlier export and would be lost", where=path, fix="Choose another --out"
            )


def _write(
    folder: Path,
    wanted: list[str],
    structures: Structures,
    dose: tuple[NDArray[np.float32], Grid] | None,
    ct: CtReference,
    referred: tuple[str, str] | None,
    prescription_gy: float | None,
    seed: str,
    when: datetime,
) -> list[Path]:
    from pydicom.uid import RTPlanStorage

    from mtl_med.io.dicom_seg import write_seg
    from mtl_med.io.rtdose_writer import write_rtdose
    from mtl_med.io.rtplan import Prescription, write_rtplan
    from mtl_med.io.rtstruct_writer import write_rtstruct

    structure_set_uid = ""
    with atomic_files(folder) as made:
        if "rtstruct" in wanted and structures.grid is not None:
            path = made / "rtstruct.dcm"
            structure_set_uid = write_rtstruct(path, structures.masks, structures.grid, ct, seed=seed, when=when)
        if "rtdose" in wanted and dose is not None:
            if referred is None:
                path = made / "rtplan.dcm"
                known = [Prescription(None, prescription_gy, "dose reference")] if prescription_gy else []
                uid = write_rtplan(
                    path,
                    ct.header,
                    structure_set_uid=structure_set_uid,
                    prescriptions=known,
                    seed=seed,
                    when=when,
                )
                referred = RTPlanStorage, uid
            kind, uid = referred
            path = made / "rtdose.dcm"
            write_rtdose(path, *dose, ct.header, plan_uid=uid, plan_class_uid=kind, seed=seed, when=when)
        if "seg" in wanted and structures.grid is not None:
            write_seg(made / "seg.dcm", structures.masks, structures.grid, ct, seed=seed, when=when)
        written = [path.name for path in made.iterdir()]
    return [folder / f"{kind}.dcm" for kind in ("rtstruct", "rtplan", "rtdose", "seg") if f"{kind}.dcm" in written]


def _warn_of_an_older_plan(folder: Path, written: list[Path]) -> None:
    """Say that the plan of an earlier export refers to structures, or is referred to by a dose, that are no more."""
    path = folder / "rtplan.dcm"
    replaced = [item.name for item in written if item.name in ("rtstruct.dcm", "rtdose.dcm")]
    if replaced and path not in written and path.is_file():
        told = " and ".join(replaced)
        log.warning("%s: is of an earlier export and does not belong to the new %s: do not send it", path, told)
