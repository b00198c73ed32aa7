"""MetaImage: the same voxels at the same places as ITK reads, and nothing that ITK passes over in silence."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import Grid
from mtl_med.io.metaimage import encode_metaimage, open_metaimage

SHAPE = (7, 6, 5)


def voxels(dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)


def grid(angle_deg: float = 0.0, flips: tuple[int, int, int] = (1, 1, 1)) -> Grid:
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * flips * (1.5, 2.0, 3.0)
    affine[:3, 3] = (-10.5, 20.25, 30)
    return Grid(SHAPE, affine)


def whole(path: Path, count: int = 2) -> np.ndarray:
    return np.concatenate(list(open_metaimage(path).planes(count)), axis=2)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)], ids=str)
@pytest.mark.parametrize("compressed", [True, False], ids=["packed", "plain"])
def test_what_we_write_itk_reads(tmp_path: Path, flips: tuple[int, int, int], compressed: bool) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(encode_metaimage(voxels(), grid(12, flips), compressed=compressed))
    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image).T, voxels())
    for index in ((0, 0, 0), (6, 5, 4), (3, 0, 2)):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        assert lps * (-1, -1, 1) == pytest.approx(grid(12, flips).points_ras(np.array([index]))[0], abs=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_what_itk_writes_we_read(tmp_path: Path, dtype: str) -> None:
    image = sitk.GetImageFromArray(voxels(dtype).T)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((1, -2, 3.5))
    image.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
    path = tmp_path / "a.mha"
    sitk.WriteImage(image, str(path), dtype != "int16")
    found = open_metaimage(path)
    assert np.array_equal(whole(path, 3), voxels(dtype))
    assert found.grid.spacing_mm == pytest.approx((0.7, 0.8, 2.5))
    sitk.WriteImage(image, str(tmp_path / "a.nii"))  # nibabel as a second judge of where voxels lie
    assert found.grid.affine == pytest.approx(nibabel.load(tmp_path / "a.nii").affine, abs=1e-5)


def test_bytes_of_the_other_order(tmp_path: Path) -> None:
    data = encode_metaimage(voxels().byteswap(), grid(), compressed=False)
    (tmp_path / "a.mha").write_bytes(data.replace(b"OrderMSB = False", b"OrderMSB = True"))
    assert np.array_equal(whole(tmp_path / "a.mha"), voxels())


def test_axes_of_few_decimals_are_put_right(tmp_path: Path) -> None:
    data = encode_metaimage(voxels(), grid())
    matrix = b"0.9998 0.0175 0 -0.0175 0.9998 0 0 0 1"
    (tmp_path / "a.mha").write_bytes(data.replace(b"-1 0 0 0 -1 0 0 0 1", matrix))
    axes = open_metaimage(tmp_path / "a.mha").grid.affine[:3, :3] / (1.5, 2, 3)
    assert axes.T @ axes == pytest.approx(np.eye(3), abs=1e-12)
    assert axes[:, 0] == pytest.approx([-0.9998, -0.0175, 0], abs=1e-4)


REPLACED = {
    "four dimensions": (b"NDims = 3", b"NDims = 4", "has 4 dimensions, expected 3"),
    "two dimensions": (b"NDims = 3", b"NDims = 2", "has 2 dimensions"),
    "no spacing": (b"ElementSpacing = 1.5 2 3\n", b"", "has ElementSpacing = nothing, expected 3 numbers"),
    "spacing of two": (b"ElementSpacing = 1.5 2 3", b"ElementSpacing = 1.5 2", "expected 3 numbers"),
    "negative spacing": (b"ElementSpacing = 1.5", b"ElementSpacing = -1.5", "expected mm above 0"),
    "no matrix": (b"TransformMatrix", b"Elsewhere", "has TransformMatrix = nothing"),
    "sheared": (b"-1 0 0 0 -1 0 0 0 1", b"-1 0 0 0.2 -1 0 0 0 1", "axes that are not at right angles"),
    "NaN in the origin": (b"Offset = 10.5", b"Offset = nan", "has Offset = nan -20.25 30"),
    "negative size": (b"DimSize = 7", b"DimSize = -7", "expected three whole numbers from 1 up"),
    "too many voxels": (b"DimSize = 7 6 5", b"DimSize = 7 6 500", "is damaged or truncated"),
    "two channels": (b"NDims", b"ElementNumberOfChannels = 2\nNDims", "has ElementNumberOfChannels = 2"),
    "rescaled": (b"NDims", b"ElementToIntensityFunctionSlope = 2\nNDims", "ElementToIntensityFunctionSlope = 2"),
    "voxels elsewhere": (b"= LOCAL", b"= /etc/passwd", "keeps its voxels in another file"),
    "unknown type": (b"MET_SHORT", b"MET_OTHER", "has ElementType = MET_OTHER"),
    "key twice": (b"NDims = 3\n", b"NDims = 3\nNDims = 3\n", "is no MetaImage"),
    "no header": (b"ObjectType", b"\x00\xff\n", "is no MetaImage"),
}


@pytest.mark.parametrize("fault", REPLACED)
def test_headers_that_cannot_be_meant(tmp_path: Path, fault: str) -> None:
    old, new, said = REPLACED[fault]
    data = encode_metaimage(voxels(), grid(), compressed=fault != "too many voxels")
    assert data.count(old) >= 1
    path = tmp_path / "a.mha"
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(CaseError) as caught:
        whole(path)
    assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("compressed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("cut", [1, 40, 150], ids=str)
def test_truncated_files_are_told_from_the_header_alone(tmp_path: Path, compressed: bool, cut: int) -> None:
    (tmp_path / "a.mha").write_bytes(encode_metaimage(voxels(), grid(), compressed=compressed)[:-cut])
    with pytest.raises(CaseError, match="is damaged or truncated"):
        open_metaimage(tmp_path / "a.mha")


@pytest.mark.parametrize("place", [3, 60, -3], ids=["first", "middle", "checksum"])
def test_a_wrong_bit_in_the_packed_voxels_is_found(tmp_path: Path, place: int) -> None:
    """ITK gives other voxels, or none, and says nothing."""
    data = bytearray(encode_metaimage(voxels(), grid()))
    data[data.index(b"LOCAL\n") + 6 + place if place > 0 else place] ^= 0x55
    (tmp_path / "a.mha").write_bytes(data)
    with pytest.raises(CaseError, match="is damaged or truncated"):
        whole(tmp_path / "a.mha")


@pytest.mark.parametrize("shape", [(7, 6, 4), (7, 6, 6)], ids=["more", "less"])
def test_packed_voxels_of_another_number_are_found(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    data = encode_metaimage(voxels(), grid())
    told = "DimSize = {} {} {}".format(*shape).encode()
    (tmp_path / "a.mha").write_bytes(data.replace(b"DimSize = 7 6 5", told))
    with pytest.raises(CaseError, match="last plane|in the middle"):
        whole(tmp_path / "a.mha")


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(GeometryError, match="on a grid of shape"):
        encode_metaimage(voxels()[1:], grid())
    with pytest.raises(CaseError, match="cannot write complex"):
        encode_metaimage(voxels("complex64"), grid())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"none\.mha: cannot be read: No such file"):
        open_metaimage(tmp_path / "none.mha")
