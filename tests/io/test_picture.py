"""Photographs and masks: what is stored is what is read, and what would silently be another picture is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtl_med.errors import CaseError
from mtl_med.io.picture import encode_png, fit_mask, orientation, read_picture, read_picture_mask, read_png

RNG = np.random.default_rng(5)
COLOURS = RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8)
MASK = np.zeros((9, 14), dtype=bool)
MASK[2:6, 3:11] = True


def saved(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("pixels", [COLOURS, COLOURS[..., 0], MASK], ids=["rgb", "grey", "mask"])
def test_a_written_png_is_what_pillow_and_we_read(tmp_path, pixels):
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(pixels))
    expected = np.where(pixels, 255, 0) if pixels.dtype == bool else pixels
    with Image.open(path) as picture:
        picture.load()
        assert picture.size == (14, 9)
        np.testing.assert_array_equal(np.asarray(picture), expected)
    np.testing.assert_array_equal(read_png(path), expected)
    assert encode_png(pixels.copy(order="F")) == path.read_bytes()


def test_a_photograph_keeps_every_pixel(tmp_path):
    remarks: list[str] = []
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "a.png", Image.fromarray(COLOURS)), remarks), COLOURS)
    assert remarks == []
    path = saved(tmp_path / "a.jpg", Image.fromarray(COLOURS), quality=95)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(read_picture(path), np.asarray(picture))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_turns_the_photograph_upright(tmp_path, orientation):
    """The corner that EXIF calls the top left one, by the table of the standard."""
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :8] = 255
    undo = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation]))
    remarks: list[str] = []
    found = read_picture(saved(tmp_path / "a.jpg", stored, exif=exif, quality=100), remarks)
    assert found.shape == (16, 24, 3)
    np.testing.assert_array_equal(found > 127, upright > 127)
    assert remarks == [
        f"image is turned upright as EXIF orientation {orientation} says; its mask has to be upright too"
    ]


def test_grey_alpha_and_16_bits_are_told(tmp_path):
    grey = COLOURS[..., 0]
    opaque = np.concatenate([COLOURS, np.full((9, 14, 1), 255, dtype=np.uint8)], axis=2)
    deep = grey.astype(np.uint16) * 256 + 77
    files = {
        "grey": (saved(tmp_path / "g.png", Image.fromarray(grey)), np.repeat(grey[..., None], 3, axis=2)),
        "alpha": (saved(tmp_path / "a.png", Image.fromarray(opaque, "RGBA")), COLOURS),
        "16 bits": (saved(tmp_path / "d.png", Image.fromarray(deep)), np.repeat(grey[..., None], 3, axis=2)),
    }
    for word, (path, expected) in files.items():
        remarks: list[str] = []
        np.testing.assert_array_equal(read_picture(path, remarks), expected)
        assert len(remarks) == 1 and word in remarks[0]


@pytest.mark.parametrize("stored", [0, 9, 65535])
def test_an_exif_orientation_that_means_nothing_is_none(tmp_path, stored):
    exif = Image.Exif()
    exif[0x0112] = stored
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOURS).save(path, exif=exif)
    remarks: list[str] = []
    assert read_picture(path, remarks).shape == COLOURS.shape and remarks == []
    assert orientation(path) == 1


def test_a_damaged_exif_block_turns_nothing(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOURS).save(
        path, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x02up\x00\x00"
    )
    remarks: list[str] = []
    assert read_picture(path, remarks).shape == COLOURS.shape and remarks == []


def test_colours_of_16_bits_are_told(tmp_path):
    """Pillow cannot write such a file: one pixel row by hand, filter 0."""
    import struct
    import zlib

    from mtl_med.io.picture import _chunk

    row = b"\x00" + struct.pack(">6H", 0xFF12, 0x0034, 0x8056, 0x0100, 0x7FFF, 0xFFFF)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    parts = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(row)), _chunk(b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    remarks: list[str] = []
    assert read_picture(tmp_path / "a.png", remarks).tolist() == [[[0xFF, 0, 0x80], [1, 0x7F, 0xFF]]]
    assert "16 bits" in remarks[0]


def test_a_transparent_photograph_is_refused(tmp_path):
    pixels = np.concatenate([COLOURS, np.full((9, 14, 1), 255, dtype=np.uint8)], axis=2)
    pixels[0, :7, 3] = 0
    path = saved(tmp_path / "a.png", Image.fromarray(pixels, "RGBA"))
    with pytest.raises(CaseError, match=r"a\.png: is transparent in 5\.56 % of its pixels"):
        read_picture(path)


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kind, part):
    data = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(data, format=kind.replace("jpg", "jpeg"))
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data.getvalue()[: int(part * len(data.getvalue()))])
    with pytest.raises(CaseError, match=rf"a\.{kind}: (is cut off|cannot be read as JPEG or PNG) \(") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused_whatever_their_name(tmp_path, kind):
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS), format=kind)
    with pytest.raises(CaseError, match="cannot be read as JPEG or PNG"):
        read_picture(path)
    with pytest.raises(CaseError, match="there is no such file"):
        read_picture(tmp_path / "none.jpg")


def test_four_printing_colours_are_refused(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(COLOURS).convert("CMYK"))
    with pytest.raises(CaseError, match="has channels CMYK, expected RGB or grey"):
        read_picture(path)


def palette_mask(codes: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    picture = Image.frombytes("P", codes.shape[::-1], codes.astype(np.uint8).tobytes())
    picture.putpalette([value for code in range(256) for value in colours.get(code, (0, 0, 0))])
    return picture


MASKS = {
    "0 and 255": Image.fromarray(np.where(MASK, 255, 0).astype(np.uint8)),
    "0 and 1": Image.fromarray(MASK.astype(np.uint8)),
    "one bit": Image.fromarray(MASK),
    "16 bits": Image.fromarray(np.where(MASK, 65535, 0).astype(np.uint16)),
    "rgb": Image.fromarray(np.where(MASK[..., None], (0, 0, 9), 0).astype(np.uint8)),
    "rgba": Image.fromarray(np.where(MASK[..., None], 255, (0, 0, 0, 255)).astype(np.uint8), "RGBA"),
    "palette": palette_mask(MASK, {1: (128, 0, 0)}),
    "palette backwards": palette_mask(np.where(MASK, 0, 255), {code: (255 - code,) * 3 for code in range(256)}),
    "palette with two whites": palette_mask(
        np.where(MASK, 3 + 4 * (np.arange(14) % 2), 0), {3: (9, 9, 9), 7: (9, 9, 9)}
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind(tmp_path, kind):
    found = read_picture_mask(saved(tmp_path / "a.png", MASKS[kind]))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, MASK)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_masks_of_one_value(tmp_path, value):
    found = read_picture_mask(saved(tmp_path / "a.png", Image.fromarray(np.full((4, 5), value, dtype=np.uint8))))
    assert found.all() if value else not found.any()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0, 255, 128], r"holds 3 values \(0, 128, 255, \.\.\.\), expected 0 outside and one other value inside"),
        ([10, 20], "holds the values 10 and 20"),
    ],
)
def test_masks_that_say_no_inside_are_refused(tmp_path, values, told):
    pixels = np.array([values, values], dtype=np.uint8)
    with pytest.raises(CaseError, match=told):
        read_picture_mask(saved(tmp_path / "a.png", Image.fromarray(pixels)))


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_a_larger_mask_is_averaged_and_halved(factor):
    fine = RNG.random((6 * factor, 4 * factor)) > 0.5
    expected = fine.reshape(6, factor, 4, factor).mean(axis=(1, 3)) >= 0.5
    np.testing.assert_array_equal(fit_mask(fine, (6, 4)), expected)


def test_half_covered_is_inside():
    assert fit_mask(np.array([[1, 1], [0, 0]], dtype=bool), (1, 1)).tolist() == [[True]]
    assert fit_mask(np.array([[1, 0], [0, 0]], dtype=bool), (1, 1)).tolist() == [[False]]


@pytest.mark.parametrize("shape", [(8, 12), (3, 4), (13, 8), (18, 16)])
def test_a_mask_of_another_size_is_refused(shape):
    with pytest.raises(CaseError, match=rf"m\.png: is a mask of {shape[1]} x {shape[0]} pixels for an image of 8 x 6"):
        fit_mask(np.ones(shape, dtype=bool), (6, 8), where="m.png")
