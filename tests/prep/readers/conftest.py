"""Small DICOM-RT studies written by this file's own few lines, and the real one with its defective copies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
)

from mtl_med.prep.recipe import ReaderOptions, Recipe, load_recipe

CLASSES = {"CT": CTImageStorage, "RTSTRUCT": RTStructureSetStorage, "RTPLAN": RTPlanStorage, "RTDOSE": RTDoseStorage}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Corners = Sequence[Sequence[float]]


def sop_item(uid: str, kind: str = "CT") -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CLASSES[kind], uid
    return item


@dataclass
class MadeStudy:
    """One patient's study. UIDs are `1.2.<number>...`, so that two studies with one number share them.

    The image has `columns` x `rows` pixels of `spacing` (between rows, between columns) mm and `slices` slices `pitch`
    mm apart; `position` is the centre of the first pixel of the first slice, LPS mm; `cosines` run along and down.
    """

    folder: Path
    patient: str = "P1"
    number: int = 1
    series: int = 1
    frame: int = 1
    columns: int = 12
    rows: int = 10
    slices: int = 6
    spacing: tuple[float, float] = (4.0, 3.0)
    pitch: float = 5.0
    position: tuple[float, float, float] = (-20.0, -30.0, 40.0)
    cosines: tuple[float, ...] = AXIAL
    name: str = "Phantom^Made"
    written: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def variant(self, **changes: object) -> MadeStudy:
        """The same with other values, into the same folder."""
        return replace(self, **changes, written=[])

    def uid(self, *parts: int) -> str:
        return ".".join(map(str, (1, 2, self.number, *parts)))

    @property
    def series_uid(self) -> str:
        return self.uid(10, self.series)

    @property
    def frame_uid(self) -> str:
        return self.uid(20, self.frame)

    @property
    def image_uids(self) -> list[str]:
        return [self.uid(30, self.series, index + 1) for index in range(self.slices)]

    @property
    def axes(self) -> np.ndarray:
        along, down = np.array(self.cosines[:3]), np.array(self.cosines[3:])
        return np.stack([along, down, np.cross(along, down)])

    def point(self, x: float, y: float, z: float) -> np.ndarray:
        """LPS mm of voxel indices: along the row, down the column, along the normal."""
        steps = np.array([x * self.spacing[1], y * self.spacing[0], z * self.pitch])
        return np.array(self.position) + steps @ self.axes

    def header(self, kind: str, uid: str) -> Dataset:
        made = Dataset()
        made.SpecificCharacterSet = "ISO_IR 192"
        made.SOPClassUID, made.SOPInstanceUID, made.Modality = CLASSES[kind], uid, kind
        made.PatientID, made.PatientName = self.patient, self.name
        made.StudyInstanceUID = self.uid(5)
        made.SeriesInstanceUID = self.series_uid if kind == "CT" else f"{uid}.1"
        made.StudyDate, made.AccessionNumber = "20310517", "ACC8812"
        made.FrameOfReferenceUID = self.frame_uid
        return made

    def save(self, name: str, made: Dataset, *, implicit: bool = False, preamble: bool = True) -> Path:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
        made.file_meta = meta
        path = self.folder / name
        if preamble:
            made.save_as(path, enforce_file_format=True)
        else:
            del made.file_meta
            made.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
        self.written.append(path)
        return path

    def pixels(self, made: Dataset, values: np.ndarray) -> None:
        """Values (frames, rows, columns) or (rows, columns), stored in 16 bits."""
        made.Rows, made.Columns = values.shape[-2:]
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
        made.PixelRepresentation = int(values.dtype.kind == "i")
        made.PixelSpacing = [str(mm) for mm in self.spacing]
        made.ImageOrientationPatient = [f"{value:.10f}"[:16] for value in self.cosines]
        made.PixelData = values.astype(f"<{values.dtype.str[1:]}").tobytes()

    def hu(self) -> np.ndarray:
        """Body of 0 HU with a rim of air, (slices, rows, columns); every slice is a little denser."""
        values = np.full((self.slices, self.rows, self.columns), -1000, dtype=np.int16)
        values[:, 1:-1, 1:-1] = np.arange(self.slices)[:, None, None]
        return values

    def ct(self, hu: np.ndarray | None = None, prefix: str = "CT") -> MadeStudy:
        for index, image in enumerate(self.hu() if hu is None else hu):
            made = self.header("CT", self.image_uids[index])
            made.ImagePositionPatient = [f"{value:.8f}"[:16] for value in self.point(0, 0, index)]
            made.RescaleSlope, made.RescaleIntercept, made.InstanceNumber = "1", "0", index + 1
            self.pixels(made, image)
            self.save(f"{prefix}{self.series}.{index:03d}.dcm", made)
        return self

    def box(self, x: tuple[float, float], y: tuple[float, float], z: tuple[int, int]) -> list[np.ndarray]:
        """Square contours in slices z[0]..z[1], corners in voxel indices."""
        corners = [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]
        return [np.array([self.point(*corner, k) for corner in corners]) for k in range(z[0], z[1] + 1)]

    def rtstruct(
        self,
        rois: dict[str, tuple[str, Sequence[np.ndarray]]] | None = None,
        *,
        label: int = 1,
        refer: str = "series images",
        file: str = "",
        edit: Callable[[Dataset], None] | None = None,
    ) -> MadeStudy:
        """ROI name -> interpreted type and contours (N, 3) LPS mm."""
        made = self.header("RTSTRUCT", self.uid(40, label))
        del made.FrameOfReferenceUID
        made.StructureSetLabel = f"SET{label}"
        frame, study, series = Dataset(), Dataset(), Dataset()
        frame.FrameOfReferenceUID = self.frame_uid
        if "series" in refer:
            series.SeriesInstanceUID = self.series_uid
            series.ContourImageSequence = [sop_item(uid) for uid in self.image_uids] if "images" in refer else []
            study.RTReferencedSeriesSequence = [series]
            frame.RTReferencedStudySequence = [study]
        made.ReferencedFrameOfReferenceSequence = [frame]
        rois = self.usual_rois() if rois is None else rois
        made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
        for number, (name, (kind, contours)) in enumerate(rois.items(), 1):
            roi, drawn, observed = Dataset(), Dataset(), Dataset()
            roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, self.frame_uid
            drawn.ReferencedROINumber = observed.ReferencedROINumber = number
            observed.ObservationNumber, observed.RTROIInterpretedType = number, kind
            drawn.ContourSequence = [self.contour(points, "contours" in refer) for points in contours]
            made.StructureSetROISequence.append(roi)
            made.ROIContourSequence.append(drawn)
            made.RTROIObservationsSequence.append(observed)
        if edit:
            edit(made)
        self.save(file or f"RS{label}.dcm", made, implicit=True)
        return self

    def contour(self, points: np.ndarray, refer: bool) -> Dataset:
        made = Dataset()
        made.ContourGeometricType, made.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
        made.ContourData = [f"{value:.6f}"[:16] for value in np.ravel(points)]
        if refer:
            made.ContourImageSequence = [sop_item(self.image_uids[0])]
        return made

    def usual_rois(self) -> dict[str, tuple[str, Sequence[np.ndarray]]]:
        """Body, bladder and a target, with sides half a voxel outside of voxel centres."""
        return {
            "BODY": ("EXTERNAL", self.box((0.5, 10.5), (0.5, 8.5), (0, self.slices - 1))),
            "Bladder": ("ORGAN", self.box((2.5, 4.5), (2.5, 5.5), (1, 3))),
            "PTV_7000": ("PTV", self.box((4.5, 8.5), (3.5, 6.5), (1, 4))),
        }

    def rtplan(
        self,
        *,
        label: int = 1,
        structures: int = 1,
        prescriptions: Sequence[tuple[int | None, float]] = (),
        beams: Sequence[int] = (1, 2),
        fractions: int = 35,
    ) -> MadeStudy:
        made = self.header("RTPLAN", self.uid(50, label))
        made.RTPlanLabel, made.RTPlanGeometry = f"PLAN{label}", "PATIENT"
        made.ReferencedStructureSetSequence = [sop_item(self.uid(40, structures), "RTSTRUCT")]
        made.DoseReferenceSequence = []
        for number, (roi, dose_gy) in enumerate(prescriptions, 1):
            item = Dataset()
            item.DoseReferenceNumber, item.DoseReferenceType = number, "TARGET"
            item.DoseReferenceStructureType = "SITE" if roi is None else "VOLUME"
            if roi is not None:
                item.ReferencedROINumber = roi
            item.TargetPrescriptionDose = str(dose_gy)
            made.DoseReferenceSequence.append(item)
        group = Dataset()
        group.FractionGroupNumber, group.NumberOfFractionsPlanned = 1, fractions
        group.NumberOfBeams, group.NumberOfBrachyApplicationSetups = len(beams), 0
        group.ReferencedBeamSequence = [Dataset() for _ in beams]
        for item, beam in zip(group.ReferencedBeamSequence, beams, strict=True):
            item.ReferencedBeamNumber = beam
        made.FractionGroupSequence = [group]
        self.save(f"RP{label}.dcm", made)
        return self

    def rtdose(
        self,
        dose_gy: np.ndarray | float = 60.0,
        *,
        label: int = 1,
        summation: str = "PLAN",
        plan: int | None = None,
        beam: int | None = None,
        structures: int | None = None,
        file: str = "",
        edit: Callable[[Dataset], None] | None = None,
    ) -> MadeStudy:
        """A dose (slices, rows, columns) Gy on the grid of this study, in steps of 0.01 Gy."""
        made = self.header("RTDOSE", self.uid(60, label))
        made.DoseUnits, made.DoseType, made.DoseSummationType = "GY", "PHYSICAL", summation
        made.ImagePositionPatient = [f"{value:.8f}"[:16] for value in self.point(0, 0, 0)]
        made.NumberOfFrames = self.slices
        made.FrameIncrementPointer = 0x3004000C
        made.GridFrameOffsetVector = [str(index * self.pitch) for index in range(self.slices)]
        made.DoseGridScaling = "0.01"
        shape = (self.slices, self.rows, self.columns)
        self.pixels(made, np.rint(np.broadcast_to(dose_gy, shape) * 100).astype(np.uint16))
        if plan is not None:
            made.ReferencedRTPlanSequence = [sop_item(self.uid(50, plan), "RTPLAN")]
            if beam is not None:
                group, item = Dataset(), Dataset()
                group.ReferencedFractionGroupNumber, item.ReferencedBeamNumber = 1, beam
                group.ReferencedBeamSequence = [item]
                made.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence = [group]
        if structures is not None:
            made.ReferencedStructureSetSequence = [sop_item(self.uid(40, structures), "RTSTRUCT")]
        if edit:
            edit(made)
        self.save(file or f"RD{label}.dcm", made)
        return self


@pytest.fixture
def made_study(tmp_path: Path) -> Callable[..., MadeStudy]:
    """`made_study(patient="P2", number=2)` is a study to be written below `tmp_path/source`."""

    def make(**fields: object) -> MadeStudy:
        folder = tmp_path / "source" / str(fields.pop("folder", ""))
        return MadeStudy(folder=folder, **fields)

    return make


@pytest.fixture(scope="session")
def dicom_recipe() -> Recipe:
    """The shipped recipe."""
    return load_recipe("dicom_rt")


@pytest.fixture
def with_options(dicom_recipe: Recipe) -> Callable[..., Recipe]:
    """`with_options(grid="dose")` is the recipe with the user's decisions."""

    def make(recipe: Recipe = dicom_recipe, **decisions: object) -> Recipe:
        return recipe.with_options(ReaderOptions(**decisions))

    return make


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key for pseudonyms."""
    from mtl_med.prep.identity import Pseudonyms

    path = tmp_path / "keys" / "study.key"
    Pseudonyms.read_or_make(path)
    return path


@pytest.fixture(scope="session")
def linked_copy() -> Callable[..., Path]:
    """`linked_copy(folder, into, without=..., plus=...)` copies a folder by hard links, some files replaced."""

    def copy(folder: Path, into: Path, without: Sequence[str] = (), plus: Sequence[Path] = ()) -> Path:
        into.mkdir(parents=True)
        for path in folder.iterdir():
            if path.name not in without:
                os.link(path, into / path.name)
        for path in plus:
            os.link(path, into / path.name)
        return into

    return copy


@pytest.fixture(scope="session")
def coarse_eclipse(dicom_rt_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real study with every eighth pixel of the CT only: the same identifiers and slices, real RS and RD."""
    import pydicom

    folder = tmp_path_factory.mktemp("coarse")
    for path in sorted((dicom_rt_data / "eclipse_prostate").glob("*.dcm")):
        if not path.name.startswith("CT"):
            os.link(path, folder / path.name)
            continue
        image = pydicom.dcmread(path)
        pixels = np.ascontiguousarray(image.pixel_array[::8, ::8])
        image.Rows, image.Columns = pixels.shape
        image.PixelSpacing = [8 * float(mm) for mm in image.PixelSpacing]
        image.PixelData = pixels.astype("<i2").tobytes()
        image.save_as(folder / path.name)
    return folder
