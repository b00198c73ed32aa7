"""Photographs and their masks: JPEG and PNG in, PNG out; whatever would silently be another picture is refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["encode_png", "fit_mask", "orientation", "read_picture", "read_picture_mask", "read_png"]

_FORMATS = ("JPEG", "PNG")
_UPRIGHT = 1  # of the EXIF tag Orientation
_ORIENTATION = 0x0112
_ORIENTATIONS = range(1, 9)
_GREY_16_BIT = ("I;16", "I;16B", "I;16L", "I")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # place of that byte: signature, length and name of IHDR, width, height
_COLOUR_TYPES = {1: 0, 3: 2}  # channels -> colour type of a PNG: grey, red-green-blue
_FILTER_NONE, _FILTER_UP = 0, 2
_PNG_LEVEL = 3  # with the differences to the row above: half the time of level 6, files a twentieth larger
_MOST_VALUES = 256


def read_picture(path: str | Path, remarks: list[str] | None = None) -> NDArray[np.uint8]:
    """A photograph as it is meant to be seen: upright, in three channels of eight bits.

    Grey becomes three equal channels, an alpha channel that hides nothing is dropped, of 16 bits the upper eight stay.

    Args:
        path: JPEG or PNG.
        remarks: where a sentence goes about each of these steps that was taken.

    Returns:
        (H, W, 3), rows from the top.

    Raises:
        CaseError: the file is missing, cut off or damaged, of another format, transparent, or has other channels.
    """
    told = remarks if remarks is not None else []
    stored, bits = _open(path)
    picture = _upright(stored, told)
    if bits == 16:
        told.append("image has 16 bits per channel, of which the upper eight are kept")
    if picture.mode in _GREY_16_BIT:
        grey = _sixteen_bits(picture, path) >> 8
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = _opaque(picture, path)
        told.append("image has an alpha channel that hides nothing; it is dropped")
    if picture.mode in ("L", "1"):
        told.append("image is grey; its three channels are equal")
    elif picture.mode not in ("RGB", "P"):
        raise CaseError(f"has channels {picture.mode}, expected RGB or grey", where=path, fix="Convert it to RGB")
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def orientation(path: str | Path) -> int:
    """EXIF orientation of a picture: 1 upright, 3 upside down, 6 and 8 on its side, the others mirrored.

    Raises:
        CaseError: as `read_picture`.
    """
    return _orientation(_open(path)[0])


def read_picture_mask(path: str | Path) -> NDArray[np.bool_]:
    """A mask stored as a picture: outside is black, inside any one other value or colour.

    In a file with a palette the colours decide and not their numbers, which may run the other way round: number 0 is
    white in some masks of HAM10000.

    Args:
        path: PNG, or another format without loss of values.

    Returns:
        (H, W), rows from the top.

    Raises:
        CaseError: the file cannot be read, or holds more than two values, or two of which none is black.
    """
    picture = _upright(_open(path)[0], [])
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = _opaque(picture, path)
    if picture.mode in ("L", "P"):
        colours = picture.getcolors(_MOST_VALUES) or []
        codes = [int(code) for _, code in colours if isinstance(code, int)]
        palette = picture.getpalette("RGB") or []
        values = {code: max(palette[3 * code : 3 * code + 3]) if picture.mode == "P" else code for code in codes}
        inside = _inside(values, path)
        stored = np.asarray(picture)
        return stored == inside[0] if len(inside) == 1 else np.isin(stored, inside)
    if picture.mode in _GREY_16_BIT:
        stored = _sixteen_bits(picture, path)
    else:
        stored = np.asarray(picture.convert("RGB")).max(axis=2)
    return np.isin(stored, _inside({int(value): int(value) for value in np.unique(stored)}, path))


def _inside(values: dict[int, int], path: str | Path) -> list[int]:
    """Codes that mean inside, from code -> brightness."""
    bright = sorted(set(values.values()) - {0})
    if len(bright) > 1:
        found = f"{len(set(values.values()))} values ({', '.join(map(str, sorted(set(values.values()))[:4]))}, ...)"
        told = found if len(bright) > 2 or 0 in values.values() else f"the values {bright[0]} and {bright[1]}"
        raise CaseError(
            f"holds {told}, expected 0 outside and one other value inside",
            where=path,
            fix="Threshold the mask, and store it without loss",
        )
    return [code for code, value in values.items() if value]


def fit_mask(mask: NDArray[np.bool_], shape: tuple[int, int], *, where: str | Path = "") -> NDArray[np.bool_]:
    """A mask in the size of its image: where it is larger by a whole factor, pixels covered by half or more.

    Args:
        mask: (h, w).
        shape: rows and columns of the image.
        where: for the message.

    Raises:
        CaseError: the mask's size is no whole multiple of the image's, the same in both directions.
    """
    (rows, columns), (height, width) = mask.shape, shape
    factor = rows // height
    if factor < 1 or (rows, columns) != (factor * height, factor * width):
        raise CaseError(
            f"is a mask of {columns} x {rows} pixels for an image of {width} x {height}",
            where=where,
            why="A mask is as large as its image, or a whole number of times larger in both directions",
            fix="Look whether the two belong together, and whether one of them was turned or cropped",
        )
    if factor == 1:
        return mask
    covered = np.zeros((height, width), dtype=np.uint32)
    for row in range(factor):
        for column in range(factor):
            covered += mask[row::factor, column::factor]
    return 2 * covered >= factor * factor


def encode_png(pixels: NDArray) -> bytes:
    """The bytes of a PNG file, equal for equal pixels.

    Args:
        pixels: (H, W) or (H, W, 3), uint8 or bool; bool is stored as 0 and 255.
    """
    is_mask = pixels.dtype == np.bool_
    pixels = np.where(pixels, np.uint8(255), np.uint8(0)) if is_mask else np.asarray(pixels, dtype=np.uint8)
    height, width, channels = (*pixels.shape, 1)[:3]
    rows = np.empty((height, 1 + width * channels), dtype=np.uint8)
    flat = pixels.reshape(height, -1)
    if channels == 1:  # mostly masks, whose runs need no filter
        rows[:, 0], rows[:, 1:] = _FILTER_NONE, flat
    else:
        rows[:, 0], rows[0, 1:] = _FILTER_UP, flat[0]
        np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    packer = zlib.compressobj(_PNG_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    packed = packer.compress(rows.data.cast("B")) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    return _PNG_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_png(path: str | Path) -> NDArray[np.uint8]:
    """Pixels of a PNG that `encode_png` made: (H, W, 3), or (H, W) for a mask.

    Raises:
        CaseError: the file is missing, damaged or of another kind.
    """
    picture, _ = _open(path)
    if picture.mode not in ("RGB", "L"):
        raise CaseError(f"has channels {picture.mode}, expected RGB or grey", where=path, fix="Prepare the study again")
    return np.array(picture)


def _open(path: str | Path) -> tuple[Image, int]:
    """The decoded file, and its bits per channel, which Pillow reduces to eight where there are three channels."""
    from PIL import Image as Pillow

    try:
        data = Path(path).read_bytes()
        with warnings.catch_warnings(action="ignore"):  # about damaged EXIF blocks
            picture = Pillow.open(io.BytesIO(data), formats=_FORMATS)
            picture.load()
    except FileNotFoundError as error:
        raise CaseError("there is no such file", where=path, fix="Copy it again") from error
    except Pillow.DecompressionBombError as error:
        raise CaseError("is larger than any photograph", where=path, fix="Check the file") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        reason = "is cut off" if "truncated" in str(error) else "cannot be read as JPEG or PNG"
        raise CaseError(f"{reason} ({_first_line(error)})", where=path, fix="Copy the file again") from error
    return picture, data[_PNG_BIT_DEPTH] if picture.format == "PNG" else 8


def _first_line(error: BaseException) -> str:
    """What Pillow says, without the address of the stream it was given."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return "of no known form" if "BytesIO" in text else text


def _orientation(picture: Image) -> int:
    """What EXIF says, 1 to 8; upright where it says nothing, or nothing that means something."""
    try:
        with warnings.catch_warnings(action="ignore"):
            stored = picture.getexif().get(_ORIENTATION, _UPRIGHT) if "exif" in picture.info else _UPRIGHT
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return _UPRIGHT
    return stored if isinstance(stored, int) and stored in _ORIENTATIONS else _UPRIGHT


def _upright(picture: Image, told: list[str]) -> Image:
    from PIL import ImageOps

    stored = _orientation(picture)
    if stored == _UPRIGHT:
        return picture
    told.append(f"image is turned upright as EXIF orientation {stored} says; its mask has to be upright too")
    return ImageOps.exif_transpose(picture)


def _opaque(picture: Image, path: str | Path) -> Image:
    """The colours of a picture whose alpha channel hides nothing."""
    alpha = np.asarray(picture.convert("RGBA"))[..., 3]
    if alpha.min() < 255:
        hidden = 100 * float(np.mean(alpha < 255))
        raise CaseError(
            f"is transparent in {hidden:.3g} % of its pixels", where=path, fix="Save it without transparency"
        )
    return picture.convert("L" if picture.mode == "LA" else "RGB")


def _sixteen_bits(picture: Image, path: str | Path) -> NDArray[np.int64]:
    stored = np.asarray(picture).astype(np.int64)
    if stored.min() < 0 or stored.max() > 0xFFFF:
        raise CaseError(f"holds values from {stored.min()} to {stored.max()}, expected 0 to 65535", where=path)
    return stored
