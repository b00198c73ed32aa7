"""Why a DICOM case would be refused, as far as headers tell: what `--check` says before anything is converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtl_med.errors import MtlMedError
from mtl_med.prep.dicom_source import CONFLICT_FIX
from mtl_med.prep.redaction import Redactor

if TYPE_CHECKING:
    from mtl_med.prep.dicom_source import DicomSource
    from mtl_med.prep.recipe import ReaderOptions

__all__ = ["refusal"]

_BEHIND_FRAMES = "ROIContourSequence"  # an RTSTRUCT names its frames of reference in front of its contours


def refusal(source: DicomSource, options: ReaderOptions) -> str:
    """Why a case cannot be converted with these options; "" where headers do not speak against it.

    Args:
        source: the case.
        options: what the user decides.
    """
    if source.fault:
        return source.fault
    if source.conflict and not options.force:
        return f"{source.conflict}. {CONFLICT_FIX}"
    try:
        return _by_headers(source, options)
    except MtlMedError as error:
        hidden = options.key is not None
        redactor = Redactor(source.identity, folders=[source.root]) if hidden else Redactor()
        return redactor.error(error).sentence() if hidden else error.sentence()


def _by_headers(source: DicomSource, options: ReaderOptions) -> str:
    from mtl_med.io.dicom import read_header
    from mtl_med.io.dicom_items import text
    from mtl_med.io.rtdose import require_frame
    from mtl_med.io.rtplan import read_rtplan
    from mtl_med.prep.dicom_doses import pick_dose

    frame = text(read_header(source.ct_files[0]), "FrameOfReferenceUID") if source.ct_files else ""
    pick = pick_dose(source, read_rtplan(source.rtplan) if source.rtplan else None, options)
    if frame and not options.force:
        for dose in pick.doses if pick else ():
            require_frame(dose, frame)
        _require_frame_of_structures(source, frame)
    return "has no dose whose grid could be taken. Use --grid ct" if options.grid == "dose" and not pick else ""


def _require_frame_of_structures(source: DicomSource, frame: str) -> None:
    """Refuse structures as the reader does; contours are read only where several frames are named."""
    from mtl_med.io.dicom import read_header
    from mtl_med.io.rtstruct import read_rtstruct
    from mtl_med.prep.dicom_headers import rt_object
    from mtl_med.prep.dicom_structures import require_same_frame

    if source.rtstruct is None:
        return
    named = rt_object("RTSTRUCT", read_header(source.rtstruct, stop_before=_BEHIND_FRAMES), source.rtstruct).frame_uids
    if named - {frame}:
        require_same_frame(read_rtstruct(source.rtstruct), frame, source.rtstruct)
