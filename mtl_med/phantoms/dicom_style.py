"""What can differ between two DICOM exports of the same patient: geometry, encoding, names, links, dose, vendor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mtl_med.errors import UsageError, nearest
from mtl_med.phantoms.dicom_identity import Identity
from mtl_med.phantoms.scan_geometry import POSITIONS

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["CHOICES", "CONTOUR_FAULTS", "EXTRAS", "VENDORS", "DicomStyle"]

CHOICES: dict[str, tuple[str, ...]] = {
    "position": tuple(POSITIONS),
    "order": ("ascending", "descending", "shuffled"),
    "transfer_syntax": ("explicit", "implicit", "big-endian", "deflated", "rle", "jpeg", "jpeg2000", "jpeg-ls"),
    "file_names": ("plain", "patient", "uid"),
    "holes": ("separate", "xor", "keyhole"),
    "link": ("full", "series", "frame"),
    "plan": ("written", "absent", "unreferenced"),
    "prescription": ("volume", "site", "coordinates", "none"),
    "dose": (
        *("plan", "beam", "beam-incomplete", "plan+beam", "fraction", "multi-plan", "two-plans", "session", "brachy"),
        *("effective", "error", "relative", "none"),
    ),
    "dose_offsets": ("relative", "absolute", "descending", "absolute-descending", "uneven", "short", "missing"),
    "private": ("", "varian", "philips"),
}
# What is done to the contours of the bladder, or for the last two to structures that come on top.
CONTOUR_FAULTS = (
    *("point", "open_planar", "open_nonplanar", "two_points", "ragged", "repeated", "between_slices", "outside"),
    *("missing_middle", "no_contour_sequence", "dangling"),
)
EXTRAS = ("localizer", "mr", "sr", "registration", "dicomdir", "text")


@dataclass(frozen=True)
class DicomStyle:
    """How a phantom is written as a DICOM study; the defaults give a plain, clean export.

    Args:
        position: Patient Position: HFS, HFP, HFDL, HFDR, FFS, FFP, FFDL or FFDR.
        oblique_deg: turns of the image planes about R, then A, then S.
        gantry_tilt_deg: turn of the image planes about their rows, while the slices advance along the couch.
        pixel_spacing_mm: distance between rows and between columns (the order of DICOM); None: the phantom's.
        slice_spacing_mm: distance between slices; None: the phantom's.
        size: columns, rows and slices; None keeps the field of view.
        upper_pitch: factor of the slice distance in the upper half of the scan; 1 is even.
        missing_slices: numbers of slices, from the first along the normal, that have no file; contours stay.
        duplicated_slices: numbers of slices that are written twice under another SOP Instance UID.
        duplicates_differ: the second copy has other pixel values.
        order: of Instance Numbers and file names along the normal.
        position_noise_mm: size of rounding noise in Image Position, as some systems leave it.
        signed: Pixel Representation 1.
        bits_stored: of 16 allocated.
        slope: of the rescale from stored values to HU.
        intercept: of the rescale.
        rescale_per_slice: every slice has its own slope and intercept; signed 16 bits then.
        noise_hu: standard deviation of noise added to the CT, in HU.
        transfer_syntax: of the files; compressed ones hold for images only.
        preamble: with the 128 bytes, "DICM" and file meta information in front.
        enhanced: one enhanced multi-frame CT file instead of one file per slice.
        character_set: Specific Character Set.
        file_names: "plain" numbers, with the "patient" name in them, or the SOP instance "uid" without suffix.
        second_ct: another CT series of the study, half as many slices, to which nothing refers.
        extras: files that are no part of the study's CT, RTSTRUCT, RTPLAN and RTDOSE; see `EXTRAS`.
        manufacturer: of all files.
        model: of all files.
        private: private elements as a vendor leaves them.
        identity: what is planted into every text field; None plants nothing.
        rtstruct: write an RTSTRUCT.
        structures: only these structures; None: all.
        names: ROI name per structure; `{gy:g}` stands for the prescribed dose.
        extra_rois: names of ROIs that come on top, small balls side by side.
        roi_types: write the interpreted types.
        decimals: of contour coordinates.
        step_mm: distance of contour corners, about.
        holes: as contours of their own (also as CLOSEDPLANAR_XOR), or joined to the outer one by a keyhole.
        repeat_first_point: close every contour by its first point again.
        contour_faults: see `CONTOUR_FAULTS`.
        link: the RTSTRUCT refers to series and images, to the series only, or shares the frame of reference only.
        frame_at_top: the RTSTRUCT names its frame of reference outside the sequences as well, as the standard asks for
            today and older files do not.
        foreign_frames: kinds of files ("rtstruct", "rtdose") that name another frame of reference.
        plan: the RTPLAN is written, referred to but absent, or neither.
        prescription: form of the dose reference in the RTPLAN.
        beams: number of treatment beams.
        setup_beams: beams of the fraction group that deliver nothing, as for imaging.
        dose: form of the RTDOSE files.
        dose_offsets: form of Grid Frame Offset Vector.
        dose_spacing_mm: of the dose grid in all directions; None: the phantom's, or 3 mm where that is finer.
        dose_share: share of the dose grid's slices, from the first along the normal, that is kept.
        dose_bits: 16 or 32.
        dvh_in_percent: the RTDOSE holds a DVH whose maximum and mean are percentages.
        edit: called with a file's kind ("ct", "rtstruct", "rtplan", "rtdose", "other") and its dataset just before it
            is written, for every other case that a test may want.
    """

    position: str = "HFS"
    oblique_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gantry_tilt_deg: float = 0.0
    pixel_spacing_mm: tuple[float, float] | None = None
    slice_spacing_mm: float | None = None
    size: tuple[int, int, int] | None = None
    upper_pitch: float = 1.0
    missing_slices: tuple[int, ...] = ()
    duplicated_slices: tuple[int, ...] = ()
    duplicates_differ: bool = False
    order: str = "ascending"
    position_noise_mm: float = 0.0
    signed: bool = False
    bits_stored: int = 16
    slope: float = 1.0
    intercept: float = -1024.0
    rescale_per_slice: bool = False
    noise_hu: float = 0.0
    transfer_syntax: str = "explicit"
    preamble: bool = True
    enhanced: bool = False
    character_set: str = "ISO_IR 192"
    file_names: str = "plain"
    second_ct: bool = False
    extras: tuple[str, ...] = ()
    manufacturer: str = "mtl_med phantoms"
    model: str = "made up"
    private: str = ""
    identity: Identity | None = None
    rtstruct: bool = True
    structures: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    extra_rois: tuple[str, ...] = ()
    roi_types: bool = True
    decimals: int = 4
    step_mm: float = 2.0
    holes: str = "separate"
    repeat_first_point: bool = False
    contour_faults: tuple[str, ...] = ()
    link: str = "full"
    frame_at_top: bool = True
    foreign_frames: tuple[str, ...] = ()
    plan: str = "written"
    prescription: str = "volume"
    beams: int = 3
    setup_beams: int = 0
    dose: str = "plan"
    dose_offsets: str = "relative"
    dose_spacing_mm: float | None = None
    dose_share: float = 1.0
    dose_bits: int = 32
    dvh_in_percent: bool = False
    edit: Callable[[str, Dataset], Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"there is no {name} '{getattr(self, name)}'", fix=nearest(getattr(self, name), known))
        for name, listed in (("contour_faults", CONTOUR_FAULTS), ("extras", EXTRAS)):
            for one in getattr(self, name):
                if one not in listed:
                    raise UsageError(f"{name} knows no '{one}'", fix=nearest(one, listed))
        if self.dose_bits not in (16, 32) or not 8 <= self.bits_stored <= 16:
            raise UsageError("a dose has 16 or 32 bits, a CT stores 8 to 16")
        if not 0 <= self.decimals <= 10:
            raise UsageError(f"contours have 0 to 10 decimals, found {self.decimals}")
        if self.dose_offsets.startswith("absolute") and any(self.oblique_deg):
            raise UsageError("absolute dose offsets need transverse planes", fix="Leave oblique_deg out")

    @classmethod
    def like(cls, vendor: str, **changes: Any) -> DicomStyle:
        """The style of a vendor's export, with changes.

        Raises:
            UsageError: an unknown vendor or option.
        """
        if vendor not in VENDORS:
            raise UsageError(f"there is no vendor style '{vendor}'", fix=nearest(vendor, VENDORS))
        return replace(cls(), **{**VENDORS[vendor], **changes})


# Quirks that exports of planning systems are known for, in outline.
VENDORS: dict[str, dict[str, Any]] = {
    "eclipse": {  # keyholes, 2 decimals, dose to the site, imaging beams in the fraction group, DVH in percent
        "manufacturer": "Varian Medical Systems",
        "model": "ARIA RadOnc",
        "private": "varian",
        "names": {
            "External": "BODY",
            "Femur_Head_L": "Femoral Head Lt",
            "Femur_Head_R": "Femoral Head Rt",
            "PTV": "PTV_{gy:g}Gy",
        },
        "decimals": 2,
        "holes": "keyhole",
        "frame_at_top": False,
        "prescription": "site",
        "setup_beams": 2,
        "dvh_in_percent": True,
        "contour_faults": ("no_contour_sequence",),
        "bits_stored": 12,
    },
    "pinnacle": {  # implicit, capitals, no types, closed twice, dose prescribed to points, 16 bits, rounding noise
        "manufacturer": "ADAC",
        "model": "Pinnacle3",
        "private": "philips",
        "transfer_syntax": "implicit",
        "names": {
            "External": "EXTERNAL",
            "Bladder": "BLADDER",
            "Rectum": "RECTUM",
            "Femur_Head_L": "FEMUR_L",
            "Femur_Head_R": "FEMUR_R",
            "PTV": "PTV{gy:g}",
        },
        "character_set": "ISO_IR 100",
        "roi_types": False,
        "repeat_first_point": True,
        "position_noise_mm": 1e-5,
        "frame_at_top": False,
        "prescription": "coordinates",
        "dose_bits": 16,
        "signed": True,
    },
    "raystation": {  # many decimals, plan and beam doses side by side, one dose reference per target
        "manufacturer": "RaySearch Laboratories",
        "model": "RayStation",
        "transfer_syntax": "implicit",
        "decimals": 10,
        "dose": "plan+beam",
        "file_names": "uid",
        "link": "series",
        "names": {"Femur_Head_L": "Lt Femur", "Femur_Head_R": "Rt Femur", "PTV": "PTV_{gy:g}"},
    },
    "monaco": {  # slices from the head down, absolute offsets
        "manufacturer": "CMS, Inc.",
        "model": "Monaco",
        "order": "descending",
        "dose_offsets": "absolute",
        "transfer_syntax": "implicit",
        "names": {"External": "patient"},
        "dose_bits": 16,
    },
    "tomotherapy": {  # dose from the head down, beam-wise summation absent
        "manufacturer": "Accuray",
        "model": "Hi-Art",
        "order": "descending",
        "dose_offsets": "descending",
        "link": "frame",
        "prescription": "volume",
        "beams": 1,
    },
}
