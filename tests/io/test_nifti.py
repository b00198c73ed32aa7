"""NIfTI volumes: SimpleITK and nibabel see what was written, and doubtful files are refused or warned of."""

from __future__ import annotations

import gzip
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mtl_med.errors import CaseError, GeometryError, OutputError
from mtl_med.geometry import Grid, lps_from_ras, same_grid
from mtl_med.io.nifti import encode_nifti, read_grid, read_nifti, write_nifti

SHAPE = (5, 4, 3)
RAS = Grid(SHAPE, np.array([[2.0, 0, 0, -10], [0, 3.0, 0, -20], [0, 0, 1.5, 30], [0, 0, 0, 1]]))


def oblique() -> Grid:
    """Rotated by 20 degrees about z, with x reversed."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = np.array([[-2 * c, -3 * s, 0, 7], [-2 * s, 3 * c, 0, -5], [0, 0, 1.5, 11], [0, 0, 0, 1]])
    return Grid(SHAPE, affine)


def volume(dtype: str) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, SHAPE)
    return (values - 100 if dtype in ("int16", "float32", "int32") else values).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("grid", [RAS, oblique()], ids=["RAS", "oblique"])
def test_round_trip(tmp_path: Path, dtype: str, suffix: str, grid: Grid) -> None:
    path, array = tmp_path / f"v{suffix}", volume(dtype)
    digest = write_nifti(path, array, grid)
    found, found_grid = read_nifti(path)
    assert found.dtype == dtype and found.flags.c_contiguous
    assert np.array_equal(found, array)
    assert np.allclose(found_grid.affine, grid.affine, atol=1e-5)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_grid(path).shape == SHAPE


@pytest.mark.parametrize("grid", [RAS, oblique()], ids=["RAS", "oblique"])
def test_simpleitk_sees_the_same_points_and_values(tmp_path: Path, grid: Grid) -> None:
    array = volume("int16")
    write_nifti(tmp_path / "v.nii.gz", array, grid)
    image = sitk.ReadImage(str(tmp_path / "v.nii.gz"))
    for index in [(0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 2), (4, 3, 2)]:
        expected = lps_from_ras(grid.points_ras(np.array([index])))[0]
        assert np.allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=1e-4)
        assert image[index] == array[index]


def test_header_says_both_forms_in_mm(tmp_path: Path) -> None:
    write_nifti(tmp_path / "v.nii.gz", volume("uint8"), oblique())
    header = nibabel.load(tmp_path / "v.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert np.allclose(header.get_sform(), header.get_qform(), atol=1e-5)


def test_equal_volumes_are_equal_bytes_whatever_the_memory_order() -> None:
    array = volume("float32")
    assert encode_nifti(array, RAS) == encode_nifti(np.asfortranarray(array), RAS)
    assert encode_nifti(array, RAS)[4:8] == bytes(4), "the time stamp of gzip"
    assert encode_nifti(array > 0, RAS) == encode_nifti((array > 0).astype(np.uint8), RAS)


def save(path: Path, array: np.ndarray) -> Path:
    """A file as other programs write it."""
    image = nibabel.Nifti1Image(array, RAS.affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def test_scaled_values_are_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii", volume("int16"))
    data = path.read_bytes()
    path.write_bytes(data[:112] + np.array([0.5, -3], "<f4").tobytes() + data[120:])  # scl_slope and scl_inter
    found, _ = read_nifti(path)
    assert found.dtype == np.float32
    assert np.array_equal(found, volume("int16") * np.float32(0.5) - 3)


@pytest.mark.parametrize(("units", "scale"), [("mm", 1.0), ("meter", 1000.0), ("micron", 0.001)])
def test_units_of_length(tmp_path: Path, units: str, scale: float) -> None:
    image = nibabel.Nifti1Image(volume("int16"), RAS.affine)
    image.header.set_xyzt_units(units)
    nibabel.save(image, tmp_path / "v.nii")
    assert np.allclose(read_grid(tmp_path / "v.nii").spacing_mm, scale * np.array([2, 3, 1.5]))


def test_a_trailing_axis_of_one_is_dropped(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii", volume("int16")[..., None])
    assert np.array_equal(read_nifti(path)[0], volume("int16"))


def test_float64_becomes_float32_and_integers_can_be_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii", volume("uint8").astype(np.float64))
    assert read_nifti(path)[0].dtype == np.float32
    assert np.array_equal(read_nifti(path, np.uint8)[0], volume("uint8"))


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii", np.full(SHAPE, 0.5, np.float32))
    with pytest.raises(CaseError, match="values that are no uint8"):
        read_nifti(path, np.uint8)


def test_two_affines_that_differ_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nibabel.Nifti1Image(volume("int16"), RAS.affine)
    image.set_sform(RAS.affine, 1)
    image.set_qform(oblique().affine, 1)
    nibabel.save(image, tmp_path / "v.nii")
    with caplog.at_level(logging.WARNING):
        grid = read_grid(tmp_path / "v.nii")
    assert "sform and qform" in caplog.text and "v.nii" in caplog.text
    assert np.allclose(grid.affine, RAS.affine)


def test_no_orientation_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii", volume("int16"))
    data = path.read_bytes()
    path.write_bytes(data[:252] + bytes(4) + data[256:])  # qform_code and sform_code
    with pytest.raises(GeometryError, match="neither sform nor qform"):
        read_nifti(path)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3, 2)], ids=["2D", "4D"])
def test_other_dimensions_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(CaseError, match="expected one 3D volume"):
        read_nifti(save(tmp_path / "v.nii", np.zeros(shape, np.int16)))


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]], ids=["complex", "RGB"])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, dtype: object) -> None:
    with pytest.raises(CaseError, match="expected plain numbers"):
        read_nifti(save(tmp_path / "v.nii", np.zeros(SHAPE, dtype)))


def damaged(tmp_path: Path, kind: str) -> Path:
    """A compressed file with one kind of damage."""
    path = tmp_path / "v.nii.gz"
    whole = encode_nifti(
        np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8), Grid((40,) * 3, RAS.affine)
    )
    contents = {
        "empty": b"",
        "text": b"no volume at all",
        "cut": whole[: len(whole) // 2],
        "cut before the end mark": gzip.compress(gzip.decompress(whole)[:2000]),
        "flipped": whole[:3000] + bytes([whole[3000] ^ 0xFF]) + whole[3001:],
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "cut before the end mark", "flipped"])
def test_damage_is_named(tmp_path: Path, kind: str) -> None:
    path = damaged(tmp_path, kind)
    with pytest.raises(CaseError) as caught:
        read_nifti(path)
    assert str(path) in str(caught.value)


def with_header(path: Path, **fields: object) -> Path:
    """A file of SHAPE whose header says something else."""
    write_nifti(path, volume("int16"), RAS)
    data = path.read_bytes()
    data = bytearray(gzip.decompress(data) if path.suffix == ".gz" else data)
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(data)) if path.suffix == ".gz" else bytes(data))
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("read", [read_nifti, read_grid])
def test_a_header_that_promises_more_than_the_file_holds(tmp_path: Path, suffix: str, read: Callable) -> None:
    """Nothing is allocated for it: 32767^3 voxels are 70 TB."""
    path = with_header(tmp_path / f"v{suffix}", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    with pytest.raises(CaseError, match=r"v\.nii.*: is damaged or truncated: 32767 x 32767 x 32767 voxels are 70,3"):
        read(path)


def test_a_volume_beyond_the_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nifti(tmp_path / "v.nii.gz", volume("int16"), RAS)

    def full(data: bytes) -> bytes:
        raise MemoryError

    monkeypatch.setattr(gzip, "decompress", full)
    with pytest.raises(CaseError, match=r"v\.nii\.gz: does not fit into the memory"):
        read_nifti(tmp_path / "v.nii.gz")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_an_affine_that_is_no_number_is_refused(tmp_path: Path, form: str, value: float) -> None:
    fields = {"srow_x": [value, 0, 0, 0]} if form == "sform" else {"sform_code": 0, "qoffset_x": value}
    path = with_header(tmp_path / "v.nii", **fields)
    for read in (read_nifti, read_grid):
        with pytest.raises(GeometryError, match="has an affine .* with values that are no numbers"):
            read(path)


@pytest.mark.parametrize("field", ["qoffset_x", "quatern_b", "pixdim"])
def test_a_qform_that_is_none_leaves_the_sform(tmp_path: Path, field: str, caplog: pytest.LogCaptureFixture) -> None:
    value = [1, np.nan, 3, 1.5, 0, 0, 0, 0] if field == "pixdim" else np.nan
    assert same_grid(read_grid(with_header(tmp_path / "v.nii", **{field: value})), RAS)
    assert "the sform is used" in caplog.text


def test_another_shape_or_type_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="on a grid of shape"):
        write_nifti(tmp_path / "v.nii.gz", np.zeros((1, 2, 3), np.uint8), RAS)
    with pytest.raises(OutputError, match="cannot write float64"):
        write_nifti(tmp_path / "v.nii.gz", np.zeros(SHAPE), RAS)
    assert list(tmp_path.iterdir()) == []


def test_a_sheared_grid_is_not_written(tmp_path: Path) -> None:
    sheared = np.array([[2.0, 1, 0, 0], [0, 3, 0, 0], [0, 0, 1.5, 0], [0, 0, 0, 1]])
    with pytest.raises(GeometryError, match="sheared"):
        write_nifti(tmp_path / "v.nii.gz", volume("uint8"), Grid(SHAPE, sheared))
