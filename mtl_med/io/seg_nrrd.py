"""Segmentations with names, colours and overlaps in one file: `.seg.nrrd`, as 3D Slicer reads and writes it.

Structures that do not overlap share a layer, told apart by label value. One layer is a 3D file; several are a 4D file
whose first axis, of kind `list`, is the layer. The header speaks LPS.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError, UsageError
from mtl_med.files import atomic_path, safe_name, sha256_bytes
from mtl_med.geometry import Grid, lps_from_ras
from mtl_med.io.colours import colour

__all__ = ["read_seg_nrrd", "read_segment_names", "write_seg_nrrd"]

_TYPES = {
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
}
_TO_LPS = {"left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1), "right-anterior-superior": (-1, -1, 1)}
_TO_LPS["ras"] = _TO_LPS["right-anterior-superior"]
_MAX_LABELS = 65535


def write_seg_nrrd(path: str | Path, structures: Mapping[str, NDArray], grid: Grid) -> str:
    """Write masks as a segmentation, atomically; equal masks give equal bytes.

    Args:
        path: file name ending in `.seg.nrrd`.
        structures: name -> (X, Y, Z) mask, in the order in which they are to be listed; an empty mask is kept.
        grid: the masks' grid.

    Returns:
        Hexadecimal SHA-256 of the file.

    Raises:
        GeometryError: a mask has another shape than the grid.
        UsageError: no structure or more than 65,535.
    """
    if not 1 <= len(structures) <= _MAX_LABELS:
        raise UsageError(f"a segmentation of {len(structures)} structures", where=path, fix="Give 1 to 65,535")
    layers, layer_of = _layers(structures, grid, path)
    segments = [
        line
        for index, (name, mask) in enumerate(structures.items())
        for line in _segment_lines(index, name, mask, layer_of[name])
    ]
    # NRRD counts the fastest axis first, which for the array (layer, x, y, z) means Fortran order.
    voxels = layers.tobytes(order="F")
    header = "\n".join([*_geometry_lines(layers, grid), *segments, *_FOOTER, "", ""])
    data = header.encode("utf-8") + gzip.compress(voxels, compresslevel=4, mtime=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return sha256_bytes(data)


_FOOTER = [
    "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
    "Segmentation_MasterRepresentation:=Binary labelmap",
    "Segmentation_ReferenceImageExtentOffset:=0 0 0",
]


def _layers(
    structures: Mapping[str, NDArray], grid: Grid, path: str | Path
) -> tuple[NDArray[np.unsignedinteger], dict[str, int]]:
    """Put every structure into the first layer where it touches no other: array (L, X, Y, Z) or (X, Y, Z)."""
    dtype = np.uint8 if len(structures) < 256 else np.uint16
    layers: list[NDArray] = []
    layer_of: dict[str, int] = {}
    for label, (name, values) in enumerate(structures.items(), start=1):
        mask = np.asarray(values, dtype=bool)
        if mask.shape != grid.shape:
            raise GeometryError(f"'{name}' has shape {mask.shape}, expected {grid.shape} of its grid", where=path)
        number = next((n for n, layer in enumerate(layers) if not layer[mask].any()), len(layers))
        if number == len(layers):
            layers.append(np.zeros(grid.shape, dtype=dtype))
        layers[number][mask] = label
        layer_of[name] = number
    return (np.stack(layers) if len(layers) > 1 else layers[0]), layer_of


def _geometry_lines(layers: NDArray, grid: Grid) -> list[str]:
    several = layers.ndim == 4
    columns = lps_from_ras(grid.affine[:3, :3].T)
    directions = [_vector(column) for column in columns]
    return [
        "NRRD0004",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {'unsigned char' if layers.dtype == np.uint8 else 'unsigned short'}",
        f"dimension: {layers.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(size) for size in layers.shape)}",
        f"space directions: {' '.join(['none'] * several + directions)}",
        f"kinds: {' '.join(['list'] * several + ['domain'] * 3)}",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(lps_from_ras(grid.affine[None, :3, 3])[0])}",
    ]


def _segment_lines(index: int, name: str, mask: NDArray, layer: int) -> list[str]:
    fields = {
        "Color": " ".join(f"{value / 255:.6f}" for value in colour(name)),
        "ColorAutoGenerated": "0",
        "Extent": _extent(np.asarray(mask, dtype=bool)),
        "ID": f"Segment_{index + 1}_{safe_name(name)}",
        "LabelValue": str(index + 1),
        "Layer": str(layer),
        "Name": name.replace("\\", "\\\\").replace("\n", "\\n"),
        "NameAutoGenerated": "0",
        "Tags": "Segmentation.Status:inprogress|",
    }
    return [f"Segment{index}_{key}:={value}" for key, value in fields.items()]


def _extent(mask: NDArray[np.bool_]) -> str:
    """First and last voxel along each axis; Slicer's `0 -1` when the structure is empty."""
    if not mask.any():
        return "0 -1 0 -1 0 -1"
    ends = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        ends += [str(used[0]), str(used[-1])]
    return " ".join(ends)


def _vector(values: NDArray) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return f"({','.join(repr(float(value) + 0.0) for value in values)})"


def read_seg_nrrd(path: str | Path) -> tuple[dict[str, NDArray[np.bool_]], Grid]:
    """Read a segmentation that this package or 3D Slicer wrote.

    Returns:
        Name -> (X, Y, Z) mask in the file's order, overlaps kept, and their grid.

    Raises:
        CaseError: the file is missing, damaged, or not a segmentation.
    """
    path = Path(path)
    fields, body = _split(path)
    several = fields.get("kinds", "").split()[:1] == ["list"]
    try:
        sizes = [int(size) for size in fields["sizes"].split()]
        voxels = _voxels(fields, body, sizes, path)
        layers = voxels if several else voxels[None]
        grid = Grid(layers.shape[1:], _affine_ras(fields))
        segments = _segments(fields, path)
        masks = {name: layers[layer] == label for name, layer, label in segments}
    except (KeyError, ValueError, IndexError) as error:
        raise CaseError(f"is no readable segmentation: {error}", where=path, fix="Write it again") from error
    if len(masks) < len(segments):
        raise CaseError("two segments share a name", where=path, fix="Rename one of them")
    return masks, grid


def read_segment_names(path: str | Path) -> list[str]:
    """Names of the segments, in the file's order, without unpacking the voxels."""
    path = Path(path)
    return [name for name, _, _ in _segments(_split(path)[0], path)]


def _split(path: Path) -> tuple[dict[str, str], bytes]:
    """Header fields and key/value pairs as one dictionary, and the bytes after the header."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CaseError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the path") from error
    end = re.search(rb"\r?\n\r?\n", data)
    if not data.startswith(b"NRRD") or end is None:
        raise CaseError("is no NRRD file", where=path, fix="Write it again")
    fields = {}
    for line in data[: end.start()].decode("utf-8", "replace").splitlines()[1:]:
        match = re.match(r"([^#:][^:]*):(=| )(.*)", line)
        if match:
            key, sign, value = match.groups()
            fields[key if sign == "=" else key.lower()] = value if sign == "=" else value.strip()
    return fields, data[end.end() :]


def _voxels(fields: dict[str, str], body: bytes, sizes: list[int], path: Path) -> NDArray:
    if "data file" in fields or "datafile" in fields:
        raise CaseError("keeps its voxels in another file", where=path, fix="Save it as one .seg.nrrd file")
    if fields["encoding"].lower() not in ("raw", "gzip", "gz"):
        raise CaseError(f"has the encoding '{fields['encoding']}'", where=path, fix="Save it as raw or gzip")
    dtype = np.dtype(_TYPES[fields["type"].lower()]).newbyteorder("<" if fields.get("endian") != "big" else ">")
    expected = int(np.prod(sizes)) * dtype.itemsize
    if fields["encoding"].lower() != "raw":
        body = _unpack(body, expected, path)
    if len(sizes) not in (3, 4) or len(body) != expected:
        raise CaseError(f"holds {len(body)} bytes of voxels, expected {expected} for sizes {sizes}", where=path)
    return np.frombuffer(body, dtype=dtype).reshape(sizes, order="F")


def _unpack(body: bytes, expected: int, path: Path) -> bytes:
    try:
        # One byte more than declared is enough to see that the sizes lie, however much would follow.
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, expected + 1)
    except zlib.error as error:
        raise CaseError(f"is damaged: {error}", where=path, fix="Write it again") from error


def _affine_ras(fields: dict[str, str]) -> NDArray[np.float64]:
    signs = np.array(_TO_LPS[fields["space"].lower()]) * np.array([-1.0, -1.0, 1.0])
    vectors = re.findall(r"\(([^)]*)\)", fields["space directions"])
    affine = np.eye(4)
    affine[:3, :3] = np.array([[float(part) for part in vector.split(",")] for vector in vectors]).T * signs[:, None]
    origin = re.findall(r"\(([^)]*)\)", fields["space origin"])[0]
    affine[:3, 3] = np.array([float(part) for part in origin.split(",")]) * signs
    return affine


def _segments(fields: dict[str, str], path: Path) -> list[tuple[str, int, int]]:
    """Name, layer and label value of each segment."""
    found = sorted(int(match[1]) for key in fields if (match := re.fullmatch(r"Segment(\d+)_LabelValue", key)))
    try:
        return [
            (
                _unescape(fields.get(f"Segment{index}_Name", f"Segment_{index + 1}")),
                int(fields.get(f"Segment{index}_Layer", "0")),
                int(fields[f"Segment{index}_LabelValue"]),
            )
            for index in found
        ]
    except ValueError as error:
        raise CaseError(f"has a segment without a number: {error}", where=path, fix="Write it again") from error


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
