"""The crop holds the lungs, whatever is wrong with them, and the mask is lung and not other air."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mtl_med.geometry import Grid, reorient, resample
from mtl_med.phantoms import ChestPhantom, make_chest
from mtl_med.prep.lungs import LungRegion, find_lungs
from mtl_med.prep.shrink import block_grid, block_mean, factors_for

SHAPE = (64, 64, 48)
CASES = {
    "healthy": {"finding": "none"},
    "COVID-19": {"covid": True},
    "severe COVID-19": {"covid": True, "severe": True},
    "mostly consolidated": {"covid": True, "extent": 0.6},
    "lobe without air": {"finding": "lobe"},
    "emphysema": {"finding": "emphysema"},
    "right lung collapsed": {"finding": "none", "collapsed": "right"},
    "left lung collapsed": {"finding": "none", "collapsed": "left"},
    "arms beside the chest": {"finding": "none", "arms_down": True},
    "noise of 150 HU": {"finding": "none", "noise_hu": 150.0},
    "few thick slices": {"finding": "none", "shape": (64, 64, 26)},
    "small voxels": {"covid": True, "shape": (150, 150, 100)},
}


def found_in(phantom: ChestPhantom) -> tuple[LungRegion, np.ndarray, np.ndarray, np.ndarray]:
    """What is found, and on the phantom's grid in RAS: true lungs, mask, box."""
    hu, grid = reorient(np.clip(phantom.ct_hu, -1024, 3071), phantom.grid)
    region = find_lungs(hu, grid)
    box = np.zeros(region.mask.shape)
    box[region.box] = 1
    mask, box = (resample(item, region.grid, grid, order="nearest") > 0 for item in (region.mask, box))
    return region, reorient(phantom.lungs, phantom.grid)[0], mask, box


@pytest.mark.parametrize("name", CASES)
def test_the_crop_holds_the_lungs_and_is_a_crop(name: str) -> None:
    phantom = make_chest((1, list(CASES).index(name)), **{"shape": SHAPE, "covid": False} | CASES[name])
    region, lungs, mask, box = found_in(phantom)
    assert region.found and not region.remark
    assert lungs[box].sum() >= 0.995 * lungs.sum()
    assert box.mean() < 0.55
    assert (mask & lungs).sum() > 0.93 * mask.sum(), "the rest are airways, vessels at the hila and rounding"


@pytest.mark.parametrize("name", ["healthy", "COVID-19", "emphysema", "arms beside the chest", "noise of 150 HU"])
def test_lungs_with_air_are_found_whole(name: str) -> None:
    phantom = make_chest((2, list(CASES).index(name)), **{"shape": SHAPE, "covid": False} | CASES[name])
    _, lungs, mask, _ = found_in(phantom)
    assert 2 * (mask & lungs).sum() / (mask.sum() + lungs.sum()) > 0.96


def test_small_consolidation_and_vessels_are_filled() -> None:
    phantom = make_chest((3, 1), shape=(96, 96, 64), covid=True, severe=False)
    _, lungs, mask, _ = found_in(phantom)
    hu = reorient(phantom.ct_hu, phantom.grid)[0]
    dense = ndimage.binary_erosion(lungs, iterations=3) & (hu > -200)
    assert dense.sum() > 50 and mask[dense].mean() > 0.9


def test_gas_in_the_belly_and_the_hollow_table_are_no_lungs() -> None:
    phantom = make_chest((4, 4), shape=SHAPE, covid=False, finding="none")
    _, lungs, mask, _ = found_in(phantom)
    hu = reorient(phantom.ct_hu, phantom.grid)[0]
    other_air = (hu < -850) & ~ndimage.binary_dilation(lungs, iterations=2)
    below = other_air & (np.arange(SHAPE[2]) < np.flatnonzero(lungs.any(axis=(0, 1)))[0] + 8)
    assert below.sum() > 100 and not mask[below].any()


@pytest.mark.parametrize("part", [slice(14, None), slice(0, 34), slice(14, 34)], ids=["below", "above", "both"])
def test_lungs_may_go_on_beyond_the_scan(part: slice) -> None:
    phantom = make_chest((5, 5), shape=SHAPE, covid=False, finding="none", axis_codes="RAS")
    hu = np.clip(phantom.ct_hu, -1024, 3071)[:, :, part]
    region = find_lungs(hu, Grid(hu.shape, phantom.grid.affine))
    factor = phantom.lungs.shape[0] // region.mask.shape[0]
    assert region.found
    wanted = phantom.lungs[:, :, part].sum() / factor**3
    assert region.mask.sum() == pytest.approx(wanted, rel=0.06)


def body_without_lungs() -> np.ndarray:
    x, y, _ = np.ogrid[-32:32, -32:32, :30]
    return np.where((x / 24) ** 2 + (y / 16) ** 2 + np.zeros(30) < 1, 40, -1000).astype(np.int16)


def test_without_lungs_the_crop_is_the_body_and_a_remark_says_so() -> None:
    hu = body_without_lungs()
    region = find_lungs(hu, Grid(hu.shape, np.diag([5.0, 5, 5, 1])))
    assert not region.found and not region.mask.any()
    assert region.remark.startswith("no lungs were found") and region.remark.endswith("cropped to the body")
    assert region.box == (slice(7, 58), slice(15, 50), slice(0, 30))


def test_gas_alone_and_air_alone_are_no_lungs() -> None:
    hu = body_without_lungs()
    hu[20:44, 26:38, 5:25] = -1000
    assert not find_lungs(hu, Grid(hu.shape, np.diag([5.0, 5, 5, 1]))).found
    nothing = find_lungs(np.full_like(hu, -1000), Grid(hu.shape, np.diag([5.0, 5, 5, 1])))
    assert not nothing.found and nothing.box == (slice(0, 64), slice(0, 64), slice(0, 30))


def test_air_that_leads_out_of_the_body_is_no_lung() -> None:
    hu = body_without_lungs()
    hu[20:44, 26:38, 5:25] = -850
    closed = find_lungs(hu, Grid(hu.shape, np.diag([5.0, 5, 5, 1])))
    hu[30:34, 26:, 10:20] = -850
    opened = find_lungs(hu, Grid(hu.shape, np.diag([5.0, 5, 5, 1])))
    assert closed.found and not opened.found


def test_blocks_keep_their_place_and_their_mean() -> None:
    grid = Grid((5, 4, 7), np.array([[0, -1.0, 0, 3], [0.5, 0, 0, -2], [0, 0, 2, 9], [0, 0, 0, 1]]))
    array = np.random.default_rng(0).integers(-1000, 1000, grid.shape).astype(np.int16)
    factors = factors_for(grid, 2.0)
    assert factors == (4, 2, 1)
    small, coarse = block_mean(array, factors), block_grid(grid, factors)
    assert small.shape == coarse.shape == (1, 2, 7)
    for j in range(2):
        assert small[0, j, 3] == pytest.approx(array[:4, 2 * j : 2 * j + 2, 3].mean())
        centres = grid.points_ras(np.argwhere(np.ones(grid.shape))).reshape(*grid.shape, 3)
        middle = centres[:4, 2 * j : 2 * j + 2, 3].reshape(-1, 3).mean(axis=0)
        assert coarse.points_ras(np.array([[0, j, 3]]))[0] == pytest.approx(middle)


def test_blocks_are_never_longer_than_the_volume() -> None:
    assert factors_for(Grid((3, 9, 9), np.eye(4)), 5.0) == (3, 5, 5)
    assert factors_for(Grid((9, 9, 9), np.diag([6.0, 2.0, 0.7, 1])), 2.0) == (1, 1, 2)
