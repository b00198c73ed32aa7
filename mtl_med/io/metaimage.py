"""MetaImage volumes (`.mha`): the header read with one meaning, the voxels a few planes at a time, and written.

ITK reads these files too, and tests judge by it. It goes on where this refuses: a damaged compressed volume, a missing
spacing (1 mm is taken), a negative one, a rescaling that it passes over, a header that points at another file.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import Grid, lps_from_ras

__all__ = ["MetaImage", "encode_metaimage", "open_metaimage"]

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_REFUSED = {  # key -> its only value that changes nothing
    "ElementNumberOfChannels": "1",
    "BinaryData": "True",
    "HeaderSize": "0",
    "ElementToIntensityFunctionSlope": "1",
    "ElementToIntensityFunctionOffset": "0",
}
_LONGEST_HEADER = 1 << 16
_CHUNK = 1 << 20
_RIGHT_ANGLE = 1e-3  # largest scalar product of two axes, or error of the length of one
_ROUNDING = 1e-9
_COPY = "Copy or write the file again"


@dataclass(frozen=True, eq=False)
class MetaImage:
    """A volume whose header has been read and whose voxels have not.

    Args:
        path: the file.
        grid: where its voxels lie, RAS mm, axes as stored.
        dtype: type of the stored values.
        start: where the voxels begin in the file, bytes.
        compressed: whether they are a zlib stream.
    """

    path: Path
    grid: Grid
    dtype: np.dtype
    start: int
    compressed: bool

    def planes(self, count: int) -> Iterator[NDArray]:
        """The volume a few planes at a time, in order; no more than these are in memory.

        Args:
            count: number of planes along the third axis.

        Yields:
            (X, Y, count) values; the last has what is left.

        Raises:
            CaseError: the file is damaged or truncated.
        """
        x, y, z = self.grid.shape
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.start)
                source = _Unpacked(stream) if self.compressed else stream
                for first in range(0, z, count):
                    planes = min(count, z - first)
                    data = source.read(size := planes * x * y * self.dtype.itemsize)
                    if len(data) < size:
                        raise _damaged(self.path, "it ends before its last plane")
                    yield np.frombuffer(data, dtype=self.dtype).reshape(planes, y, x).T
                if source.read(1):
                    raise _damaged(self.path, "it goes on after its last plane")
        except zlib.error as error:
            raise _damaged(self.path, str(error)) from error
        except OSError as error:
            raise CaseError(f"cannot be read: {error.strerror or error}", where=self.path, fix=_COPY) from error


class _Unpacked:
    """What a zlib stream holds, as a stream; its checksum is tested at the end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._unpacker = stream, zlib.decompressobj()

    def read(self, size: int) -> bytes:
        """The next bytes, fewer at the end only."""
        parts: list[bytes] = []
        while size > 0 and not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._stream.read(_CHUNK)
            part = self._unpacker.decompress(packed, size)
            if not packed and not part:
                raise zlib.error("it ends in the middle of the compressed voxels")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def open_metaimage(path: str | Path) -> MetaImage:
    """Read the header of a `.mha` file, and whether all of its voxels are there.

    Fields about a patient, which some files have, are not looked at.

    Raises:
        CaseError: the file is missing, damaged or truncated, no MetaImage, not 3D, or of a kind that is not read.
        GeometryError: it does not say where its voxels lie, or cannot mean what it says.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(_LONGEST_HEADER)
            length = stream.seek(0, 2)
    except OSError as error:
        raise CaseError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the path") from error
    fields, start = _fields(head, path)
    for key, plain in _REFUSED.items():
        if fields.get(key, plain).lower() != plain.lower():
            raise CaseError(f"has {key} = {fields[key]}, which is not read (expected {plain})", where=path)
    dtype = _dtype(fields, path)
    grid = _grid(fields, path)
    compressed = _true(fields, "CompressedData")
    size = int(np.prod(grid.shape, dtype=np.int64)) * dtype.itemsize
    stored = _whole_number(fields, "CompressedDataSize", path) if compressed else size
    if stored is not None and length - start != stored:
        raise _damaged(path, f"{length - start:,} bytes of voxels, expected {stored:,}")
    return MetaImage(path, grid, dtype, start, compressed)


def _fields(head: bytes, path: Path) -> tuple[dict[str, str], int]:
    """The header up to the line that says where the voxels are, and where they begin."""
    fields: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in fields:
        end = head.find(b"\n", start)
        key, equals, value = head[start : max(end, start)].decode("latin-1").partition("=")
        if end < 0 or not equals or (key := key.strip()) in fields:
            raise CaseError("is no MetaImage: its header cannot be read", where=path, fix=_COPY)
        fields[key] = value.strip()
        start = end + 1
    if fields["ElementDataFile"] != "LOCAL":
        raise CaseError("keeps its voxels in another file", where=path, fix="Write it as one .mha file")
    return fields, start


def _true(fields: Mapping[str, str], key: str) -> bool:
    return fields.get(key, "False")[:1] in ("T", "t", "1")


def _dtype(fields: Mapping[str, str], path: Path) -> np.dtype:
    name = fields.get("ElementType", "")
    if name not in _TYPES:
        raise CaseError(f"has ElementType = {name or 'nothing'}, expected one of {', '.join(_TYPES)}", where=path)
    return np.dtype(_TYPES[name]).newbyteorder(">" if _true(fields, "BinaryDataByteOrderMSB") else "<")


def _grid(fields: Mapping[str, str], path: Path) -> Grid:
    if fields.get("NDims") != "3":
        raise CaseError(f"has {fields.get('NDims', 'no')} dimensions, expected 3", where=path, fix="Take one volume")
    shape = _numbers(fields, "DimSize", 3, path)
    spacing_mm = _numbers(fields, "ElementSpacing", 3, path)
    axes = _numbers(fields, "TransformMatrix", 9, path).reshape(3, 3)  # a row is the direction of an array axis, LPS
    if (shape < 1).any() or (shape % 1).any():
        raise GeometryError(f"has DimSize = {fields['DimSize']}, expected three whole numbers from 1 up", where=path)
    if (spacing_mm <= 0).any():
        raise GeometryError(f"has ElementSpacing = {fields['ElementSpacing']}, expected mm above 0", where=path)
    error = np.abs(axes @ axes.T - np.eye(3)).max()
    if error > _RIGHT_ANGLE:
        raise GeometryError("has axes that are not at right angles, or not of length 1", where=path)
    if error > _ROUNDING:  # a header of few decimals: the nearest axes that are
        u, _, v = np.linalg.svd(axes)
        axes = u @ v
    affine = np.eye(4)
    affine[:3, :3] = lps_from_ras(axes * spacing_mm[:, None]).T
    affine[:3, 3] = lps_from_ras(_numbers(fields, "Offset", 3, path)[None])[0]
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _numbers(fields: Mapping[str, str], key: str, count: int, path: Path) -> NDArray[np.float64]:
    try:
        found = np.array([float(word) for word in fields[key].split()])
    except (KeyError, ValueError):
        found = np.empty(0)
    if len(found) != count or not np.isfinite(found).all():
        raise GeometryError(f"has {key} = {fields.get(key, 'nothing')}, expected {count} numbers", where=path)
    return found


def _whole_number(fields: Mapping[str, str], key: str, path: Path) -> int | None:
    text = fields.get(key)
    if text is not None and not text.isdecimal():
        raise CaseError(f"has {key} = {text}, expected a number of bytes", where=path)
    return None if text is None else int(text)


def _damaged(path: Path, why: str) -> CaseError:
    return CaseError("is damaged or truncated", where=path, why=why[:1].upper() + why[1:], fix=_COPY)


def encode_metaimage(
    array: NDArray, grid: Grid, fields: Mapping[str, str] | None = None, *, compressed: bool = True
) -> bytes:
    """Bytes of a `.mha` file; equal arguments give equal bytes.

    Args:
        array: (X, Y, Z) on `grid`, of one of the types that are read.
        grid: its grid, RAS mm.
        fields: further lines of the header.
        compressed: with zlib.

    Raises:
        GeometryError: another shape than the grid's.
        CaseError: a type that the format does not have.
    """
    if array.shape != grid.shape:
        raise GeometryError(f"array of shape {array.shape} on a grid of shape {grid.shape}")
    names = {code: name for name, code in _TYPES.items()}
    code = array.dtype.str[1:]
    if code not in names:
        raise CaseError(f"cannot write {array.dtype} voxels", fix=f"Convert to {', '.join(_TYPES.values())}")
    voxels = np.ascontiguousarray(array.T, dtype=array.dtype.newbyteorder("<")).tobytes()
    voxels = zlib.compress(voxels, 1) if compressed else voxels
    axes = lps_from_ras(grid.affine[:3, :3].T) / np.array(grid.spacing_mm)[:, None]
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(compressed),
        **({"CompressedDataSize": str(len(voxels))} if compressed else {}),
        "TransformMatrix": _text(axes.ravel()),
        "Offset": _text(lps_from_ras(grid.affine[None, :3, 3])[0]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _text(np.array(grid.spacing_mm)),
        "DimSize": " ".join(map(str, grid.shape)),
        **(fields or {}),
        "ElementType": names[code],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in header.items()).encode() + voxels


def _text(numbers: NDArray) -> str:
    return " ".join(f"{number + 0.0:.15g}" for number in numbers.tolist())
