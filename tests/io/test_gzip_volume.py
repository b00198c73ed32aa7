"""Volumes as gzip: readers get the bytes back, whatever the number of threads, and zeros take little of a file."""

from __future__ import annotations

import gzip
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from mtl_med import parallel
from mtl_med.io.gzip_volume import gzip_volume

HEADER = bytes(range(256)) + bytes(96)


def blobs(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Noise in some planes, in part of one, and zeros."""
    rng = np.random.default_rng(seed)
    voxels = np.zeros(shape, dtype=dtype)
    voxels[1:3] = rng.integers(0, 2 if dtype == "uint8" else 1000, voxels[1:3].shape)
    voxels[-1, : shape[1] // 2] = 1
    return voxels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (6, 256, 256), (7, 255, 257), (70, 130, 128)])
def test_what_comes_back_is_what_went_in(shape: tuple[int, ...], dtype: str) -> None:
    for voxels in (blobs(shape, dtype), np.zeros(shape, dtype), np.ones(shape, dtype)):
        packed = gzip_volume(HEADER, voxels)
        assert gzip.decompress(packed) == HEADER + voxels.tobytes()
        reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
        reader.decompress(packed)
        assert reader.eof and not reader.unused_data, "one member, nothing behind it"


def test_negative_zero_is_not_zero() -> None:
    voxels = np.full((2, 256, 256), -0.0, dtype=np.float32)
    assert gzip.decompress(gzip_volume(b"", voxels)) == voxels.tobytes()


def test_threads_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = blobs((300, 256, 256), "float32")  # several pieces
    alone = gzip_volume(HEADER, voxels)
    monkeypatch.setattr(parallel, "_threads", 3)
    assert gzip_volume(HEADER, voxels) == alone


def test_zeros_take_next_to_nothing() -> None:
    voxels = np.zeros((100, 512, 512), dtype=np.uint8)
    voxels[50, 200:300, 200:300] = 1
    assert len(gzip_volume(HEADER, voxels)) < voxels.size / 600


def test_gzip_itself_finds_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "volume.nii.gz"
    path.write_bytes(gzip_volume(HEADER, blobs((70, 300, 256), "int16")))
    subprocess.run(["gzip", "--test", str(path)], check=True, capture_output=True)
