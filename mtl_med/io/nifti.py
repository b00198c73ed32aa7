"""NIfTI volumes: read with one meaning, written whole and byte for byte the same each time."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mtl_med.errors import CaseError, GeometryError, OutputError
from mtl_med.files import atomic_path, sha256_bytes
from mtl_med.geometry import Grid, same_grid
from mtl_med.io.gzip_volume import gzip_volume

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header, Nifti1Pair

__all__ = ["encode_nifti", "read_grid", "read_nifti", "write_nifti"]

log = logging.getLogger(__name__)

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_MOST = 1032  # times as large as the file is what deflate can hold
_DTYPES = ("uint8", "int16", "uint16", "int32", "float32")
_MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def read_nifti(path: str | Path, dtype: DTypeLike | None = None) -> tuple[NDArray, Grid]:
    """Read a 3D volume.

    Args:
        path: `.nii` or `.nii.gz`.
        dtype: type of the result; by default the stored type, or float32 where the file scales its values.

    Returns:
        array (X, Y, Z) in C order, and its grid in RAS mm.

    Raises:
        CaseError: the file is missing, damaged, no NIfTI, not 3D or too large for the memory, or its values do not fit
            into an integer `dtype`.
        GeometryError: it does not say where its voxels lie, or its affine is singular.
    """
    image, most_bytes = _load(path, header_only=False)
    grid = _grid(image, most_bytes, path)
    try:
        stored = np.asanyarray(image.dataobj).reshape(grid.shape)
    except MemoryError as error:
        raise _too_large(path) from error
    except (OSError, ValueError) as error:
        raise CaseError(f"is damaged or truncated: {error}", where=path, fix="Copy or write the file again") from error
    if stored.dtype.kind not in "iuf":
        raise CaseError(f"holds {stored.dtype} values, expected plain numbers", where=path, fix="Convert it")
    if dtype is None:
        scaled = image.header.get_slope_inter() not in ((None, None), (1.0, 0.0))
        dtype = np.float32 if scaled or stored.dtype == np.float64 else stored.dtype.newbyteorder("=")
    return _cast(stored, np.dtype(dtype), path), grid


def read_grid(path: str | Path) -> Grid:
    """Grid of a 3D volume, from its header alone; raises as `read_nifti` does."""
    return _grid(*_load(path, header_only=True), path)


def _load(path: str | Path, *, header_only: bool) -> tuple[Nifti1Pair, int]:
    """The image, and the most bytes that the file can hold once it is unpacked."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.nifti1 import Nifti1Image
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        with np.errstate(all="ignore"):  # an affine of nonsense is refused below, with a sentence
            if header_only:
                packed = str(path).endswith(".gz")
                return Nifti1Image.from_filename(path), Path(path).stat().st_size * (_GZIP_MOST if packed else 1)
            data = Path(path).read_bytes()
            # nibabel stops reading before the checksum at the end of a gzip file, gzip.decompress does not.
            data = gzip.decompress(data) if data[:2] == _GZIP_MAGIC else data
            return Nifti1Image.from_bytes(data), len(data)
    except FileNotFoundError as error:
        raise CaseError("there is no such file", where=path, fix="Check the path") from error
    except MemoryError as error:
        raise _too_large(path) from error
    except (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, zlib.error, ValueError) as error:
        raise CaseError(f"cannot be read as NIfTI: {error}", where=path, fix="Copy or write the file again") from error


def _too_large(path: str | Path) -> CaseError:
    return CaseError("does not fit into the memory", where=path, fix="Resample or crop it, or use fewer --workers")


def _grid(image: Nifti1Pair, most_bytes: int, path: str | Path) -> Grid:
    header = image.header
    shape = tuple(int(size) for size in image.shape)
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise CaseError(f"has shape {shape}, expected one 3D volume", where=path, fix="Give a single volume per file")
    needed = header.get_data_offset() + math.prod(shape) * header.get_data_dtype().itemsize
    if needed > most_bytes:
        size = " x ".join(map(str, shape[:3]))
        raise CaseError(
            f"is damaged or truncated: {size} voxels are {needed:,} bytes, the file holds {most_bytes:,} at most",
            where=path,
            fix="Copy or write the file again",
        )
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        raise GeometryError(
            "has neither sform nor qform: left, right, head and feet are unknown",
            where=path,
            fix="Write it again with its orientation (nibabel: image.set_sform(affine, 1))",
        )
    if not np.isfinite(image.affine).all():
        raise GeometryError(
            "has an affine (sform or qform) with values that are no numbers",
            where=path,
            fix="Write it again with its orientation (nibabel: image.set_sform(affine, 1))",
        )
    scale = np.diag([_mm_per_unit(header, path)] * 3 + [1.0])
    try:
        x, y, z = shape[:3]
        grid = Grid((x, y, z), scale @ image.affine)
        if header["sform_code"] and header["qform_code"]:
            _warn_of_two_affines(image, grid, scale, path)
    except GeometryError as error:
        raise GeometryError(error.what, where=path, why=error.why, fix=error.fix) from error
    return grid


def _mm_per_unit(header: Nifti1Header, path: str | Path) -> float:
    try:
        return _MM_PER_UNIT[header.get_xyzt_units()[0]]
    except KeyError as error:
        raise GeometryError(f"has unknown length units (xyzt_units {header['xyzt_units']})", where=path) from error


def _warn_of_two_affines(image: Nifti1Pair, grid: Grid, scale: NDArray, path: str | Path) -> None:
    """Tell of a qform that is another affine than the sform, or none."""
    try:
        with np.errstate(all="ignore"):
            agree = same_grid(grid, Grid(grid.shape, scale @ image.get_qform()), tolerance_mm=0.01)
    except (GeometryError, ValueError, ArithmeticError, np.linalg.LinAlgError):
        agree = False
    if not agree:
        log.warning("%s: sform and qform put the voxels at different places; the sform is used", path)


def _cast(stored: NDArray, dtype: np.dtype, path: str | Path) -> NDArray:
    if dtype.kind in "iub" and not np.can_cast(stored.dtype, dtype):
        with np.errstate(invalid="ignore"):
            whole = stored.astype(dtype)
        if not np.array_equal(whole, stored):
            raise CaseError(f"has values that are no {dtype}", where=path, fix="Check that it is the right file")
        stored = whole
    return _in_c_order(stored, dtype)


def write_nifti(path: str | Path, array: NDArray, grid: Grid) -> str:
    """Write a 3D volume as `encode_nifti` makes it; the file appears whole or not at all.

    Args:
        path: `.nii.gz` or `.nii`.
        array: (X, Y, Z) on `grid`.
        grid: its grid, RAS mm.

    Returns:
        SHA-256 of the file.

    Raises:
        GeometryError: another shape than the grid's, or a sheared grid, which a qform cannot hold.
        OutputError: a type that cannot be written, or the file cannot be written.
    """
    data = encode_nifti(array, grid, compressed=str(path).endswith(".gz"), where=path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return sha256_bytes(data)


def encode_nifti(array: NDArray, grid: Grid, *, compressed: bool = True, where: str | Path = "") -> bytes:
    """Bytes of a NIfTI file with sform = qform, code 1, in mm; equal arguments give equal bytes.

    Args:
        array: (X, Y, Z) on `grid`: uint8, int16, uint16, int32, float32 or bool (as uint8).
        grid: its grid, RAS mm.
        compressed: as `.nii.gz`.
        where: the file, for errors.

    Raises:
        GeometryError: another shape than the grid's, or a sheared grid.
        OutputError: a type that cannot be written.
    """
    if array.shape != grid.shape:
        raise GeometryError(f"array of shape {array.shape} on a grid of shape {grid.shape}", where=where)
    array = array.view(np.uint8) if array.dtype == bool else array
    if array.dtype.name not in _DTYPES:
        raise OutputError(f"cannot write {array.dtype} voxels", where=where, fix=f"Convert to {', '.join(_DTYPES)}")
    header, voxels = _header(array.dtype, grid, where), _in_c_order(array.T, array.dtype.newbyteorder("<"))
    if not compressed:
        return header + voxels.tobytes()
    return gzip_volume(header, voxels)


def _in_c_order(array: NDArray, dtype: np.dtype, slab: int = 8) -> NDArray:
    """The array (A, B, C) in C order; where A runs fastest, slab by slab, for which the cache thanks with the time."""
    if not array.flags.f_contiguous or array.flags.c_contiguous:
        return np.ascontiguousarray(array, dtype=dtype)
    turned = np.empty(array.shape, dtype=dtype)
    for start in range(0, array.shape[2], slab):
        turned[:, :, start : start + slab] = array[:, :, start : start + slab]
    return turned


def _header(dtype: np.dtype, grid: Grid, path: str | Path) -> bytes:
    from nibabel.nifti1 import Nifti1Header

    header = Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(grid.shape)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header.set_sform(grid.affine, code=1)
    header.set_qform(grid.affine, code=1)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    if not same_grid(Grid(grid.shape, header.get_qform()), grid, tolerance_mm=0.05):
        raise GeometryError("the grid is sheared, which a NIfTI qform cannot hold", where=path, fix="Resample it first")
    return header.binaryblock + bytes(4)
