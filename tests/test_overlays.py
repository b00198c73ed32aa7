"""Heat on an image: the same picture however the volume lies, three planes through the maximum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtl_med.errors import CaseError
from mtl_med.geometry import Grid, reorient
from mtl_med.overlays import picture_overlay, volume_overlay

GRID = Grid((30, 24, 20), np.diag([3.0, 3.5, 5.0, 1.0]))


def head() -> tuple[np.ndarray, np.ndarray]:
    """A head-like volume and a mask whose maximum lies at the patient's right front top."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in GRID.shape], indexing="ij")
    volume = np.where(x**2 + y**2 + z**2 < 0.8, 40.0 + 20 * x, -1000.0)
    return volume, np.exp(-((x - 0.4) ** 2 + (y - 0.3) ** 2 + (z - 0.2) ** 2) / 0.02)


def test_a_turned_volume_gives_the_same_picture(tmp_path: Path) -> None:
    for codes in ("RAS", "PLI"):
        turned, grid = reorient(head()[0], GRID, codes)
        volume_overlay(turned, grid, reorient(head()[1], GRID, codes)[0], tmp_path / f"{codes}.png", "x: covid")
    assert (tmp_path / "RAS.png").read_bytes() == (tmp_path / "PLI.png").read_bytes()


def test_the_heat_lies_where_the_mask_is_high(tmp_path: Path) -> None:
    picture = np.full((60, 80, 3), 128, np.uint8)
    mask = np.zeros((60, 80))
    mask[:20, :20] = 1.0
    picture_overlay(picture, mask, tmp_path / "x.png", "x: lesion")
    drawn = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    red = (drawn[..., 0] - drawn[..., 2] > 40) & (drawn[..., 0] - drawn[..., 1] > 40)
    overlay = red[:, drawn.shape[1] * 4 // 10 : drawn.shape[1] * 8 // 10]  # left of the colour bar
    rows, columns = np.nonzero(overlay)
    assert rows.max() < drawn.shape[0] * 0.45
    assert columns.max() < overlay.shape[1] * 0.5
    assert not red[:, : drawn.shape[1] * 4 // 10].any(), "the picture beside it stays as it is"


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    """matplotlib takes what stands between two $ for one, and ends at what is no formula."""
    picture_overlay(np.full((60, 80, 3), 128, np.uint8), np.eye(60, 80), tmp_path / "x.png", "IMG_$1_$2: lesion", "$^$")
    volume_overlay(head()[0], GRID, head()[1], tmp_path / "y.png", "IMG_$1_$2: covid", "$^$")
    assert (tmp_path / "x.png").stat().st_size and (tmp_path / "y.png").stat().st_size


@pytest.mark.parametrize("mask", [np.zeros((60, 81)), np.full((60, 80), np.nan)], ids=["other-size", "no-number"])
def test_what_is_no_mask_of_it_is_refused(tmp_path: Path, mask: np.ndarray) -> None:
    with pytest.raises(CaseError, match="has no value for an image of \\(60, 80\\)"):
        picture_overlay(np.zeros((60, 80, 3), np.uint8), mask, tmp_path / "x.png", "x: lesion")
    assert not list(tmp_path.iterdir())
