"""Segmentation files: what goes in comes out, and independent readers see the same."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from mtl_med.errors import CaseError, GeometryError, UsageError
from mtl_med.geometry import Grid
from mtl_med.io.colours import COLOURS, colour
from mtl_med.io.seg_nrrd import read_seg_nrrd, read_segment_names, write_seg_nrrd

SHAPE = (7, 8, 9)
OBLIQUE = np.array([[0.0, -2.5, 0.0, 31.25], [1.6, 0.0, -1.2, -80.0], [1.2, 0.0, 1.6, -11.0], [0.0, 0.0, 0.0, 1.0]])


def _grid(affine=None) -> Grid:
    return Grid(SHAPE, np.diag([2.0, 3.0, 2.5, 1.0]) if affine is None else affine)


def _structures(overlap: bool = True) -> dict[str, np.ndarray]:
    masks = {name: np.zeros(SHAPE, dtype=bool) for name in ("Brainstem", "Parotid_L", "PTV70", "Larynx")}
    masks["Brainstem"][1:3, 1:4, 2:5] = True
    masks["Parotid_L"][4:6, 5:7, 1:3] = True
    masks["PTV70"][(slice(2, 6) if overlap else slice(6, 7)), 2:6, 2:6] = True
    return masks


@pytest.fixture(params=[True, False], ids=["overlapping", "disjoint"])
def written(request, tmp_path):
    """Path, masks and grid of a written file."""
    path, masks, grid = tmp_path / "s.seg.nrrd", _structures(request.param), _grid(OBLIQUE)
    write_seg_nrrd(path, masks, grid)
    return path, masks, grid


def _judged(path) -> dict:
    slicerio = pytest.importorskip("slicerio")
    return slicerio.read_segmentation(str(path))


def test_masks_names_order_and_grid_come_back(written):
    path, masks, grid = written
    back, found = read_seg_nrrd(path)
    assert list(back) == list(masks) == read_segment_names(path)
    for name, mask in masks.items():
        np.testing.assert_array_equal(back[name], mask)
    assert found.shape == grid.shape
    np.testing.assert_allclose(found.affine, grid.affine, atol=1e-12)


def test_slicerio_sees_the_same_masks_names_colours_and_place(written):
    path, masks, grid = written
    judged = _judged(path)
    np.testing.assert_allclose(judged["ijkToLPS"], np.diag([-1, -1, 1, 1]) @ grid.affine, atol=1e-9)
    voxels = judged["voxels"] if judged["voxels"].ndim == 4 else judged["voxels"][None]
    assert [segment["name"] for segment in judged["segments"]] == list(masks)
    for segment in judged["segments"]:
        mask = voxels[segment["layer"]] == segment["labelValue"]
        np.testing.assert_array_equal(mask, masks[segment["name"]])
        assert np.round(np.array(segment["color"]) * 255).astype(int).tolist() == list(colour(segment["name"]))
        if mask.any():
            low, high = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0)
            assert segment["extent"] == np.stack([low, high], axis=1).ravel().tolist()
    ids = [segment["id"] for segment in judged["segments"]]
    assert len(set(ids)) == len(ids)


def test_simpleitk_sees_the_same_voxels_at_the_same_points(written):
    sitk = pytest.importorskip("SimpleITK")
    path, masks, grid = written
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == SHAPE
    index = (2, 3, 4)
    lps = np.array(image.TransformIndexToPhysicalPoint(index))
    np.testing.assert_allclose(lps * [-1, -1, 1], grid.points_ras(np.array([index]))[0], atol=1e-9)
    array = sitk.GetArrayFromImage(image)
    layers = np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]
    for number, (name, mask) in enumerate(masks.items()):
        layer = int(image.GetMetaData(f"Segment{number}_Layer"))
        label = int(image.GetMetaData(f"Segment{number}_LabelValue"))
        assert image.GetMetaData(f"Segment{number}_Name") == name
        np.testing.assert_array_equal(label == layers[layer].T, mask)


def test_layers_are_a_list_first_and_only_where_structures_overlap(tmp_path):
    for overlap, kinds, sizes in (
        (True, "list domain domain domain", "2 7 8 9"),
        (False, "domain domain domain", "7 8 9"),
    ):
        path = tmp_path / f"{overlap}.seg.nrrd"
        write_seg_nrrd(path, _structures(overlap), _grid())
        header = path.read_bytes().split(b"\n\n")[0].decode()
        assert f"kinds: {kinds}\n" in header
        assert f"sizes: {sizes}\n" in header


def test_a_file_that_3d_slicer_wrote_another_way_is_read(tmp_path):
    # RAS space, raw, 16 bits big-endian, shared labels in two layers, CRLF, a segment without a name.
    layers = np.zeros((2, *SHAPE), dtype=">i2")
    layers[0, 1:3], layers[1, 2:5] = 1, 1
    header = [
        "NRRD0005",
        "# a comment: with a colon",
        "type: short",
        "dimension: 4",
        "space: right-anterior-superior",
        "sizes: 2 7 8 9",
        "space directions: none (2,0,0) (0,3,0) (0,0,2.5)",
        "kinds: list domain domain domain",
        "endian: big",
        "encoding: raw",
        "space origin: (1,2,3)",
        "Segment0_ID:=Segment_1",
        "Segment0_LabelValue:=1",
        "Segment0_Layer:=0",
        "Segment0_Name:=left parotid: v2",
        "Segment1_LabelValue:=1",
        "Segment1_Layer:=1",
    ]
    path = tmp_path / "s.seg.nrrd"
    path.write_bytes("\r\n".join([*header, "", ""]).encode() + layers.tobytes(order="F"))
    masks, grid = read_seg_nrrd(path)
    assert list(masks) == ["left parotid: v2", "Segment_2"]
    np.testing.assert_array_equal(masks["Segment_2"], layers[1] == 1)
    np.testing.assert_allclose(grid.affine, [[2, 0, 0, 1], [0, 3, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1]])


def test_equal_masks_give_equal_bytes(tmp_path):
    hashes = [write_seg_nrrd(tmp_path / f"{run}.seg.nrrd", _structures(), _grid()) for run in "ab"]
    assert hashes[0] == hashes[1]
    assert (tmp_path / "a.seg.nrrd").read_bytes() == (tmp_path / "b.seg.nrrd").read_bytes()


def test_more_structures_than_a_byte_can_count(tmp_path):
    masks = {f"s{i}": np.arange(504).reshape(SHAPE) == i for i in range(300)}
    write_seg_nrrd(tmp_path / "s.seg.nrrd", masks, _grid())
    back, _ = read_seg_nrrd(tmp_path / "s.seg.nrrd")
    assert all(np.array_equal(back[name], mask) for name, mask in masks.items())
    assert _judged(tmp_path / "s.seg.nrrd")["voxels"].max() == 300


def test_a_name_with_line_break_and_backslash_survives(tmp_path):
    name = "a\\nb\nSegment0_Name:=x"
    write_seg_nrrd(tmp_path / "s.seg.nrrd", {name: np.ones(SHAPE)}, _grid())
    assert read_segment_names(tmp_path / "s.seg.nrrd") == [name]


def test_a_mask_that_is_not_on_the_grid_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(GeometryError, match="Cord"):
        write_seg_nrrd(tmp_path / "s.seg.nrrd", {"Cord": np.ones((7, 8, 8))}, _grid())
    assert list(tmp_path.iterdir()) == []


def test_no_structure_is_refused(tmp_path):
    with pytest.raises(UsageError, match="0 structures"):
        write_seg_nrrd(tmp_path / "s.seg.nrrd", {}, _grid())


def _swap(old: bytes, new: bytes):
    return lambda data: data.replace(old, new)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-40], "bytes"),
        (lambda data: data[:60], "no NRRD"),
        (lambda data: b"\x00" + data, "no NRRD"),
        (_swap(b"encoding: gzip", b"encoding: bzip2"), "bzip2"),
        (_swap(b"sizes: 2 7 8 9", b"sizes: 2 7 8 10"), "bytes"),
        (_swap(b"sizes: 2 7 8 9", b"sizes: 2 7 8 8"), "bytes"),
        (_swap(b"sizes: 2 7 8 9", b"sizes: 2 7 x 9"), "segmentation"),
        (_swap(b"type: unsigned char", b"type: double"), "segmentation"),
        (_swap(b"space: left-posterior-superior", b"space: scanner-xyz"), "segmentation"),
        (_swap(b"space origin:", b"content:"), "segmentation"),
        (_swap(b"Segment2_Layer:=1", b"Segment2_Layer:=7"), "segmentation"),
        (_swap(b"Segment2_LabelValue:=3", b"Segment2_LabelValue:=c"), "number"),
        (_swap(b"Segment2_Name:=PTV70", b"Segment2_Name:=Larynx"), "share a name"),
        (_swap(b"encoding: gzip", b"data file: a.raw\nencoding: gzip"), "another file"),
    ],
    ids=[
        "truncated", "header only", "other magic", "encoding", "too few bytes", "too many bytes", "sizes", "type",
        "space", "no origin", "layer", "label", "same name", "detached",
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence_with_its_name(tmp_path, damage, message):
    path = tmp_path / "s.seg.nrrd"
    write_seg_nrrd(path, _structures(), _grid())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CaseError, match=message) as caught:
        read_seg_nrrd(path)
    assert "s.seg.nrrd" in str(caught.value)


def test_a_flipped_bit_in_the_voxels_is_noticed(tmp_path):
    path = tmp_path / "s.seg.nrrd"
    write_seg_nrrd(path, _structures(), _grid())
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CaseError, match="damaged"):
        read_seg_nrrd(path)


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "s.seg.nrrd"
    write_seg_nrrd(path, _structures(), _grid())
    head, _, _ = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head + b"\n\n" + gzip.compress(bytes(50_000_000)))
    with pytest.raises(CaseError, match="holds 1009 bytes of voxels, expected 1008"):
        read_seg_nrrd(path)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(CaseError, match="cannot be read"):
        read_seg_nrrd(tmp_path / "none.seg.nrrd")


def test_known_names_have_distinct_colours_and_unknown_ones_stable_colours():
    organs = {name: value for name, value in COLOURS.items() if name not in ("Body", "External")}
    assert len(set(organs.values())) == len(organs)
    assert colour("Cochlea_L") == colour("Cochlea_L") != colour("Cochlea_R")
    assert all(0 <= part <= 255 for part in colour("Cochlea_L"))
