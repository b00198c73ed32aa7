"""CT series: geometry judged by SimpleITK and by linear volumes, scaling per slice, and everything that is refused."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, uid
from scipy.spatial.transform import Rotation

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import lps_from_ras, reorient
from mtl_med.io.dicom_series import CtSeries, read_ct_series
from mtl_med.io.dicom_slices import lay_out

ORIENTATIONS = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
    "FFDL": (0, -1, 0, -1, 0, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": tuple(Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()[:2].ravel()),
}
SLICES, ROWS, COLUMNS = 6, 9, 7


def noise(seed: int = 0, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, (SLICES, ROWS, COLUMNS)).astype(dtype)


def itk(files: Sequence[Path]) -> sitk.Image:
    """The series as SimpleITK reads it, in its own order."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(files[0].parent))
    assert len(names) == len(files)
    return sitk.ReadImage(names)


def assert_same_in_itk(series: CtSeries, image: sitk.Image) -> None:
    """Every voxel of ours is at the place and has the value that SimpleITK tells."""
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    assert series.hu.shape == array.shape
    indices = np.argwhere(np.ones(array.shape, dtype=bool))
    points = lps_from_ras(series.grid.points_ras(indices))
    for index, point in zip(indices[::17], points[::17], strict=True):
        assert np.abs(np.array(image.TransformPhysicalPointToContinuousIndex(point.tolist())) - index).max() < 1e-4
    np.testing.assert_array_equal(series.hu, array)


# --- geometry


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_orientations_agree_with_itk(tmp_path: Path, ct_maker, name: str) -> None:
    images = ct_maker.volume(noise(), ORIENTATIONS[name])
    order = np.random.default_rng(1).permutation(SLICES)
    files = ct_maker.series(tmp_path, [images[index] for index in order])
    series = read_ct_series(files)
    assert_same_in_itk(series, itk(files))
    assert series.hu.dtype == np.int16
    assert series.notes == ()
    assert (series.series_uid, series.frame_of_reference) == (ct_maker.SERIES, ct_maker.FRAME)
    assert series.sop_uids == tuple(image.SOPInstanceUID for image in images)
    assert series.grid.spacing_mm == pytest.approx((1.5, 2.0, 3.0))
    turned, grid = reorient(series.hu, series.grid)
    brightest = np.unravel_index(np.argmax(series.hu), series.hu.shape)
    assert grid.points_ras(np.argwhere(turned == series.hu.max())) == pytest.approx(
        series.grid.points_ras(np.array([brightest]))
    )


def test_descending_order_and_instance_numbers_do_not_matter(tmp_path: Path, ct_maker) -> None:
    images = ct_maker.volume(noise())
    straight = read_ct_series(ct_maker.series(tmp_path / "a", images))
    for number, image in enumerate(images):
        image.InstanceNumber = (number * 5) % 7
    turned = read_ct_series(ct_maker.series(tmp_path / "b", images[::-1]))
    np.testing.assert_array_equal(turned.hu, straight.hu)
    np.testing.assert_array_equal(turned.grid.affine, straight.grid.affine)


def test_by_hand(tmp_path: Path, ct_maker) -> None:
    """First pixel at LPS (-10, -20, 30): columns 1.5 mm towards L, rows 2 mm towards P, slices 3 mm towards S."""
    stored = noise()
    series = read_ct_series(ct_maker.series(tmp_path, ct_maker.volume(stored)))
    assert series.grid.shape == (COLUMNS, ROWS, SLICES)
    np.testing.assert_allclose(
        series.grid.affine, [[-1.5, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]], atol=1e-12
    )
    assert series.hu[2, 5, 4] == int(stored[4, 5, 2]) - 1024


def test_real_study_agrees_with_itk(dicom_rt_data: Path) -> None:
    files = sorted((dicom_rt_data / "eclipse_prostate").glob("CT.*.dcm"))
    began = time.process_time()
    series = read_ct_series(files)
    assert time.process_time() - began < 2  # 0.15 s on a free core
    assert series.grid.shape == (512, 512, 96)
    assert series.notes == ()
    image = sitk.ReadImage([str(path) for path in files])
    np.testing.assert_array_equal(series.hu, sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    np.testing.assert_allclose(lps_from_ras(series.grid.affine[None, :3, 3])[0], image.GetOrigin(), atol=1e-9)


def linear(point_lps: np.ndarray) -> np.ndarray:
    """A volume that linear interpolation keeps exactly: whole HU on whole millimetres."""
    return point_lps @ np.array([3.0, -2.0, 5.0]) + 100


def linear_images(
    ct_maker, offsets: Sequence[float], step: Sequence[float] | None = None, angle: float = 0.0
) -> list[Dataset]:
    """Slices of the linear volume; `angle` turns their planes about the x axis, as a tilted gantry does."""
    column = np.array([0, np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    orientation = (1, 0, 0, *column)
    ys, xs = np.meshgrid(2.0 * np.arange(ROWS), 1.5 * np.arange(COLUMNS), indexing="ij")
    normal = np.cross(orientation[:3], column)
    images = []
    for offset in offsets:
        position = np.array([-10.0, -20, 30]) + offset * (normal if step is None else np.asarray(step))
        points = position + xs[..., None] * np.array([1.0, 0, 0]) + ys[..., None] * column
        stored = np.round((linear(points) + 4096) * 8).astype(np.uint16)
        images.append(ct_maker.image(stored, position, orientation, slope=0.125, intercept=-4096))
    return images


def covered(series: CtSeries, images: Sequence[Dataset]) -> np.ndarray:
    """Voxels that lie within the rows and columns of the image of their plane (of all images after interpolation)."""
    inside = np.zeros(series.hu.shape, dtype=bool)
    for plane in range(inside.shape[2]):
        indices = np.argwhere(np.ones(inside.shape[:2], dtype=bool))
        points = lps_from_ras(series.grid.points_ras(np.column_stack([indices, np.full(len(indices), plane)])))
        own = images if len(images) != inside.shape[2] else [images[plane]]
        good = np.ones(len(indices), dtype=bool)
        for image in own:
            row, column = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
            away = points - np.array(image.ImagePositionPatient, dtype=float)
            for distance, size in ((away @ row, 1.5 * (COLUMNS - 1)), (away @ column, 2.0 * (ROWS - 1))):
                good &= (distance > -1e-3) & (distance < size + 1e-3)
        inside[:, :, plane] = good.reshape(inside.shape[:2])
    return inside


def error_of_linear(series: CtSeries, inner: np.ndarray) -> float:
    """Largest deviation from the linear volume, HU, over the voxels `inner`."""
    indices = np.argwhere(inner)
    expected = linear(lps_from_ras(series.grid.points_ras(indices)))
    return float(np.abs(series.hu[tuple(indices.T)] - expected).max())


@pytest.mark.parametrize("angle", [-18.0, 10.0, 25.0])
def test_gantry_tilt_is_shifted_onto_an_orthogonal_grid(tmp_path: Path, ct_maker, angle: float) -> None:
    """The table moves along z while the planes are tilted: every voxel keeps its place in the patient."""
    images = linear_images(ct_maker, 3.0 * np.arange(SLICES), step=(0, 0, 1), angle=angle)
    series = read_ct_series(ct_maker.series(tmp_path, images))
    assert series.notes == (f"slices tilted by {abs(angle):.1f} degrees were shifted onto an orthogonal grid",)
    axes = series.grid.affine[:3, :3] / series.grid.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert series.grid.spacing_mm == pytest.approx((1.5, 2.0, 3 * np.cos(np.radians(angle))))
    assert series.grid.shape[0] == COLUMNS
    assert series.grid.shape[1] == ROWS + int(np.ceil(3.0 * (SLICES - 1) * np.sin(np.radians(abs(angle))) / 2))
    inner = covered(series, images)
    assert inner.sum() >= (ROWS - 1) * COLUMNS * SLICES
    assert error_of_linear(series, inner) < 0.1
    assert (series.hu[:, 0 if angle < 0 else -1, 0] == -1000).all()


def test_tilt_along_the_rows(tmp_path: Path, ct_maker) -> None:
    images = linear_images(ct_maker, 3.0 * np.arange(SLICES), step=(0.25, 0, 1))
    series = read_ct_series(ct_maker.series(tmp_path, images))
    assert series.grid.shape[1:] == (ROWS, SLICES)
    assert series.grid.shape[0] == COLUMNS + 3
    inner = covered(series, images)
    assert inner.sum() >= (COLUMNS - 1) * ROWS * SLICES
    assert error_of_linear(series, inner) < 0.1


def test_missing_slice_is_refused_with_the_gap_or_interpolated(tmp_path: Path, ct_maker) -> None:
    files = ct_maker.series(tmp_path, linear_images(ct_maker, [0, 3, 6, 12, 15, 18]))
    with pytest.raises(GeometryError, match=r"3 to 6 mm apart, mostly 3 mm; the widest gap is 6 mm, behind slice 3"):
        read_ct_series(files)
    series = read_ct_series(files, resample=True)
    assert series.grid.shape == (COLUMNS, ROWS, 7)
    assert series.grid.spacing_mm[2] == pytest.approx(3)
    assert series.notes == ("6 slices 3 to 6 mm apart were resampled to 7, 3 mm apart",)
    assert error_of_linear(series, np.ones(series.hu.shape, dtype=bool)) < 0.1


def test_varying_pitch(tmp_path: Path, ct_maker) -> None:
    files = ct_maker.series(tmp_path, linear_images(ct_maker, [0, 2, 4, 6, 11, 16]))
    with pytest.raises(GeometryError, match="2 to 5 mm apart"):
        read_ct_series(files)
    series = read_ct_series(files, resample=True)
    assert series.grid.shape[2] == 9
    assert error_of_linear(series, np.ones(series.hu.shape, dtype=bool)) < 0.1


def test_tilt_and_gap_together(tmp_path: Path, ct_maker) -> None:
    images = linear_images(ct_maker, [0, 3, 6, 12, 15], step=(0, 0, 1), angle=15)
    files = ct_maker.series(tmp_path, images)
    with pytest.raises(GeometryError, match="widest gap"):
        read_ct_series(files)
    series = read_ct_series(files, resample=True)
    assert len(series.notes) == 2
    inner = covered(series, images)
    assert inner.sum() > 100
    assert error_of_linear(series, inner) < 0.1


def test_resampling_is_bounded(tmp_path: Path, ct_maker) -> None:
    files = ct_maker.series(tmp_path, linear_images(ct_maker, [0, 1, 2, 3, 4, 5000]))
    with pytest.raises(GeometryError, match="widest gap is 5e\\+03 mm"):
        read_ct_series(files, resample=True)


def test_rounded_positions_pass(tmp_path: Path, ct_maker) -> None:
    """Slices every 1.25 mm whose positions were written with one decimal."""
    offsets = np.round(1.25 * np.arange(SLICES) + 1e-9, 1)
    series = read_ct_series(ct_maker.series(tmp_path, ct_maker.volume(noise(), offsets=offsets)))
    assert series.grid.spacing_mm[2] == pytest.approx(1.25, abs=0.02)


@pytest.mark.parametrize("pitch", [0.625, 0.977, 1.172, 1.25, 2.5])
def test_positions_rounded_to_a_tenth_of_a_mm_pass_wherever_they_start(pitch: float) -> None:
    axes = np.eye(3)
    for start in np.arange(0, 1, 0.037):
        heights = np.round(start + pitch * np.arange(60), 1)
        positions = np.stack([0 * heights, 0 * heights, heights], axis=1)
        found = lay_out(positions, axes, (1.0, 1.0), (4, 4), thickness=None, resample=False)
        assert found.below is None
        assert found.grid.spacing_mm[2] == pytest.approx(pitch, abs=0.1 / 59)
        planes = found.grid.affine[2, 3] + found.grid.affine[2, 2] * np.arange(60)
        assert np.abs(planes - heights).max() <= 0.06
        with pytest.raises(GeometryError, match="missing or unevenly spaced"):
            lay_out(positions[[0, 1, 3]], axes, (1.0, 1.0), (4, 4), thickness=None, resample=False)
        with pytest.raises(GeometryError, match="missing or unevenly spaced"):
            lay_out(np.delete(positions, 30, axis=0), axes, (1.0, 1.0), (4, 4), thickness=None, resample=False)


@pytest.mark.parametrize("move", [(0.2, 0, 0), (0, -3, 0), (0, 0, 0.2)], ids=str)
def test_a_single_displaced_slice_is_refused(tmp_path: Path, ct_maker, move: Sequence[float]) -> None:
    for index in (0, 3, SLICES - 1):
        images = ct_maker.volume(noise())
        images[index].ImagePositionPatient = [
            f"{a + b:.3f}" for a, b in zip(images[index].ImagePositionPatient, move, strict=True)
        ]
        with pytest.raises(GeometryError):
            read_ct_series(ct_maker.series(tmp_path / str(index), images))


def test_single_slice(tmp_path: Path, ct_maker) -> None:
    series = read_ct_series(ct_maker.series(tmp_path, ct_maker.volume(noise()[:1])))
    assert series.grid.spacing_mm[2] == 3
    assert series.notes == ("the CT is a single slice",)
    with pytest.raises(GeometryError, match="thickness"):
        read_ct_series(ct_maker.series(tmp_path, ct_maker.volume(noise()[:1], SliceThickness=None)))


# --- duplicates


def test_exact_duplicates_are_dropped_with_a_note(tmp_path: Path, ct_maker) -> None:
    images = ct_maker.volume(noise())
    once = read_ct_series(ct_maker.series(tmp_path / "once", images))
    copy = ct_maker.volume(noise())[2]
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    twice = read_ct_series(ct_maker.series(tmp_path / "twice", [*images, copy]))
    assert twice.notes == ("1 repeated slice was dropped (same position, same values)",)
    np.testing.assert_array_equal(twice.hu, once.hu)
    assert twice.sop_uids == once.sop_uids


def test_different_slices_in_one_place(tmp_path: Path, ct_maker) -> None:
    images = ct_maker.volume(noise())
    other = ct_maker.volume(noise(1))[2]
    with pytest.raises(GeometryError, match=r"two different slices lie in one place, 9 mm from the last"):
        read_ct_series(ct_maker.series(tmp_path, [*images, other]))


# --- values


def test_rescaling_differs_between_slices(tmp_path: Path, ct_maker) -> None:
    stored = noise()
    images = ct_maker.volume(stored)
    images[1].RescaleSlope, images[1].RescaleIntercept = "2", "-500"
    series = read_ct_series(ct_maker.series(tmp_path, images))
    np.testing.assert_array_equal(series.hu[:, :, 1].T, stored[1].astype(int) * 2 - 500)
    np.testing.assert_array_equal(series.hu[:, :, 0].T, stored[0].astype(int) - 1024)
    assert series.notes == (
        "RescaleSlope differs between slices: 1 (5 slices), 2 (1 slices)",
        "RescaleIntercept differs between slices: -1024 (5 slices), -500 (1 slices)",
    )


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "kind"),
    [
        (np.uint16, 1, -1024, "int16"),
        (np.int16, 1, 0, "int16"),
        (np.int16, 2, -8192, "int16"),
        (np.uint16, 1, 30000, "float32"),
        (np.int32, 1, 0, "int16"),
        (np.uint8, 4, -1000, "int16"),
        (np.uint16, 0.5, -1024, "float32"),
        (np.uint16, 1, -1024.5, "float32"),
    ],
)
def test_type_of_the_result(tmp_path: Path, ct_maker, dtype: type, slope: float, intercept: float, kind: str) -> None:
    stored = (noise() // 16).astype(dtype) if dtype == np.uint8 else noise(dtype=dtype)
    series = read_ct_series(ct_maker.series(tmp_path, ct_maker.volume(stored, slope=slope, intercept=intercept)))
    assert series.hu.dtype == kind
    np.testing.assert_array_equal(series.hu.transpose(2, 1, 0), stored * np.float64(slope) + intercept)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_transfer_syntaxes_agree(tmp_path: Path, ct_maker, syntax: str) -> None:
    stored = noise()
    plain = read_ct_series(ct_maker.series(tmp_path / "plain", ct_maker.volume(stored)))
    if syntax == uid.RLELossless:
        images = ct_maker.volume(stored)
        for image in images:
            image.compress(syntax, generate_instance_uid=False)
    else:
        images = ct_maker.volume(stored, syntax=syntax)
    other = read_ct_series(ct_maker.series(tmp_path / "other", images))
    np.testing.assert_array_equal(other.hu, plain.hu)
    np.testing.assert_array_equal(other.grid.affine, plain.grid.affine)


def test_lossy_compression_is_told(tmp_path: Path, ct_maker) -> None:
    images = ct_maker.volume(noise(), LossyImageCompression="01")
    assert "lossy" in read_ct_series(ct_maker.series(tmp_path, images)).notes[0]


@pytest.mark.parametrize("keyword", ["BurnedInAnnotation", "RecognizableVisualFeatures"])
def test_pixels_that_tell_who_it_is_are_told(tmp_path: Path, ct_maker, keyword: str) -> None:
    told = read_ct_series(ct_maker.series(tmp_path / "yes", ct_maker.volume(noise(), **{keyword: "YES"}))).notes
    assert "its pixels tell who the patient is" in told[0]
    assert not read_ct_series(ct_maker.series(tmp_path / "no", ct_maker.volume(noise(), **{keyword: "NO"}))).notes


# --- enhanced multi-frame


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per frame"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless], ids=lambda syntax: syntax.name)
def test_enhanced_ct_is_the_same_volume(tmp_path: Path, ct_maker, shared: bool, syntax: str) -> None:
    stored = noise()
    plain = read_ct_series(ct_maker.series(tmp_path / "plain", ct_maker.volume(stored)))
    order = np.array([3, 0, 5, 1, 2, 4])
    ds = ct_maker.enhanced(stored[order], 30.0 + 3.0 * order, shared=shared)
    if syntax == uid.RLELossless:
        ds.compress(syntax)
    series = read_ct_series([ct_maker.save(ds, tmp_path / "enhanced.dcm")])
    np.testing.assert_array_equal(series.hu, plain.hu)
    np.testing.assert_allclose(series.grid.affine, plain.grid.affine)
    assert series.sop_uids == (ds.SOPInstanceUID,)


@pytest.mark.parametrize("fault", ["frames", "position", "measures", "localizer", "groups"])
def test_damaged_enhanced_ct(tmp_path: Path, ct_maker, fault: str) -> None:
    ds = ct_maker.enhanced(noise(), 3.0 * np.arange(SLICES))
    sentence = {
        "frames": "tells of 6 frames, but holds 5",
        "position": "0 items of PlanePositionSequence",
        "measures": "0 items of PixelMeasuresSequence",
        "localizer": "is a localizer",
        "groups": "without saying where they lie",
    }[fault]
    if fault == "frames":
        ds.NumberOfFrames, ds.PixelData = 5, ds.PixelData[: 5 * ROWS * COLUMNS * 2]
    elif fault == "position":
        del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    elif fault == "measures":
        del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    elif fault == "localizer":
        kind = Dataset()
        kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence = [kind]
    else:
        del ds.PerFrameFunctionalGroupsSequence
    with pytest.raises(CaseError, match=sentence):
        read_ct_series([ct_maker.save(ds, tmp_path / "bad.dcm")])


# --- what is refused


def change(**attributes: object) -> Callable[[Dataset], None]:
    """Set attributes of a data set; None removes one."""

    def apply(ds: Dataset) -> None:
        for keyword, value in attributes.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)

    return apply


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (change(ImagePositionPatient=None), "has no ImagePositionPatient"),
        (change(ImageOrientationPatient=None), "has no ImageOrientationPatient"),
        (change(ImageOrientationPatient=["1", "0", "0", "0.6", "0.8", "0"]), "is off from two orthogonal"),
        (change(PixelSpacing=["0", "1.5"]), "PixelSpacing is 0, 1.5 mm"),
        (change(PixelSpacing=None), "has no PixelSpacing"),
        (change(RescaleSlope="0"), "RescaleSlope is 0"),
        (change(RescaleSlope="-1"), "RescaleSlope is -1"),
        (change(RescaleSlope=None), "has no RescaleSlope"),
        (change(RescaleIntercept=None), "has no RescaleIntercept"),
        (change(RescaleType="MGML"), "not in HU"),
        (change(ImageType=["DERIVED", "PRIMARY", "LOCALIZER"]), "is a localizer"),
        (change(Modality="MR"), "modality MR"),
        (change(Modality="PLANTED"), "modality unknown"),
        (change(SOPClassUID=uid.SecondaryCaptureImageStorage), "no image"),
        (change(SeriesInstanceUID="1.2.3"), "holds 2 series"),
        (change(FrameOfReferenceUID="1.2.3"), "frame of reference"),
        (change(ImageOrientationPatient=["0", "1", "0", "-1", "0", "0"]), "orientation is not that"),
        (change(PixelSpacing=["2", "1.6"]), r"2 x 1.6 mm, others 2 x 1.5 mm"),
        (change(Rows=3, Columns=21), r"3 x 21 pixels, others have 9 x 7"),
        (change(Rows=8), "expected 112"),
        (change(PixelRepresentation=1), "another sign"),
        (change(PixelData=bytes(50)), "truncated"),
        (change(PixelData=None), "has no PixelData"),
        (change(NumberOfFrames=2), "truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_bad_slice_fails_its_series(
    tmp_path: Path, ct_maker, fault: Callable[[Dataset], None], sentence: str
) -> None:
    images = ct_maker.volume(noise())
    fault(images[3])
    with pytest.raises(CaseError, match=sentence) as caught:
        read_ct_series(ct_maker.series(tmp_path, images))
    assert str(tmp_path) in caught.value.where


def test_no_files() -> None:
    with pytest.raises(CaseError, match="no CT images"):
        read_ct_series([], where="series")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ct_duplicate_slice_position", "1 repeated slice was dropped"),
        ("ct_empty", "is empty"),
        ("ct_garbage", "no DICOM"),
        ("ct_no_ipp", "has no ImagePositionPatient"),
        ("ct_truncated", "is truncated"),
    ],
)
def test_defective_files_beside_real_slices(dicom_rt_data: Path, tmp_path: Path, name: str, sentence: str) -> None:
    files = sorted((dicom_rt_data / "eclipse_prostate").glob("CT.*.dcm"))
    bad = dicom_rt_data / "one_defect_files" / f"{name}.dcm"
    try:
        found = "; ".join(read_ct_series([*files, bad]).notes)
    except CaseError as error:
        found = str(error)
    assert sentence in found


# --- any bytes


def mutated(data: bytes, turn: int, rng: np.random.Generator) -> bytes:
    """One damage to a file: a bit, a byte, a digit, some bytes less or more, or cut at a sixteenth."""
    changed = bytearray(data)
    at = int(rng.integers(132, len(data)))
    kind = turn % 6
    if kind == 0:
        changed[at] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        changed[at] = int(rng.integers(0, 256))
    elif kind == 2:
        digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57 and place > 132]
        changed[digits[int(rng.integers(0, len(digits)))]] = int(rng.integers(48, 58))
    elif kind == 3:
        del changed[at : at + int(rng.integers(1, 9))]
    elif kind == 4:
        changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
    else:
        del changed[len(data) * int(rng.integers(1, 16)) // 16 :]
    return bytes(changed)


@pytest.mark.parametrize("form", ["plain", "implicit", "enhanced"])
def test_mutations_never_move_or_rescale_silently(tmp_path: Path, ct_maker, form: str) -> None:
    """Refused, or told in a note, or the same volume up to the pixels that were hit."""
    syntax = uid.ImplicitVRLittleEndian if form == "implicit" else uid.ExplicitVRLittleEndian
    files = ct_maker.series(tmp_path / "files", ct_maker.volume(noise(), syntax=syntax))
    if form == "enhanced":
        ds = ct_maker.enhanced(noise(), 30 + 3.0 * np.arange(SLICES), shared=False)
        files = [ct_maker.save(ds, tmp_path / "enhanced.dcm")]
    truth = read_ct_series(files)
    victim, rng = files[len(files) // 2], np.random.default_rng(5)
    original = victim.read_bytes()
    refused = told = 0
    for turn in range(240):
        victim.write_bytes(mutated(original, turn, rng))
        try:
            series = read_ct_series(files)
        except CaseError as error:
            refused += 1
            assert "Planted" not in str(error)
            continue
        if form == "enhanced" and turn % 6 == 2:
            continue  # a digit of a file's only spacing or orientation looks as good as any other
        if series.notes != truth.notes:
            told += 1
            continue
        assert series.grid.shape == truth.grid.shape
        corners = np.array([(0, 0, 0), (COLUMNS, 0, SLICES), (0, ROWS, 0), (COLUMNS, ROWS, SLICES)])
        assert np.abs(series.grid.points_ras(corners) - truth.grid.points_ras(corners)).max() < 0.1
        assert np.count_nonzero(series.hu != truth.hu) <= 8
    victim.write_bytes(original)
    assert refused > 80
    assert refused + told < 240
    np.testing.assert_array_equal(read_ct_series(files).hu, truth.hu)


def test_memory_holds_the_volume_once(tmp_path: Path, ct_maker) -> None:
    """The volume and a few slices, not a second stack."""
    stored = np.random.default_rng(0).integers(0, 3000, (512, 512)).astype(np.uint16)
    first = ct_maker.save(ct_maker.image(stored, (0, 0, 0)), tmp_path / "0.dcm")
    data = first.read_bytes()
    old = b"\x20\x00\x32\x00DS\x06\x000\\0\\0 "
    assert data.count(old) == 1
    files = [first]
    for number in range(1, 120):
        files.append(tmp_path / f"{number}.dcm")
        files[-1].write_bytes(
            data.replace(old, b"\x20\x00\x32\x00DS\x08\x00" + f"0\\0\\{3 * number}".ljust(8).encode())
        )
    read_ct_series(files[:3])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    series = read_ct_series(files)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert series.hu.shape == (512, 512, 120)
    assert grown_mib < 60 + 10
    shutil.rmtree(tmp_path)
