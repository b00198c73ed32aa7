"""Masks, CT and dose on the grid of a case: packed, turned and interpolated without losing where they are."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import Grid, reorient, same_grid
from mtl_med.prep.body import body_mask
from mtl_med.prep.packed_masks import PackedMasks
from mtl_med.prep.target_grid import parallel, place_ct, place_dose, spacing_grid
from mtl_med.prep.turning import bounding_box, part_of, turn_to_ras

SHAPE = (9, 7, 5)


def grid_of(cosines: list[list[float]], spacing: tuple[float, float, float] = (2.0, 3.0, 4.0)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.array(cosines, dtype=float).T * spacing
    affine[:3, 3] = (-7, 11, 13)
    return Grid(SHAPE, affine)


RAS = grid_of([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
AXES = {
    "ras": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "lps": [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
    "sagittal": [[0, -1, 0], [0, 0, -1], [-1, 0, 0]],
    "coronal": [[-1, 0, 0], [0, 0, -1], [0, 1, 0]],
}


@pytest.mark.parametrize("name", AXES)
def test_packed_masks_come_out_as_reorient_turns_them(name: str) -> None:
    grid = grid_of(AXES[name])
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[2:6, 1:4, 3:] = rng.integers(0, 2, (4, 3, 2))
    turned, ras = reorient(mask.copy(), grid)
    masks = PackedMasks(ras)
    masks.add("a", mask, grid)
    masks.add("empty", np.zeros_like(mask), grid)
    masks.add("full", np.ones_like(mask), grid)
    voxels = int(mask.sum())
    mask[:] = 0
    assert np.array_equal(masks["a"], turned) and masks["a"].dtype == np.uint8
    assert not masks["empty"].any() and masks["full"].all()
    assert masks.voxels == {"a": voxels, "empty": 0, "full": mask.size}
    assert list(masks) == ["a", "empty", "full"] and len(masks) == 3 and "a" in masks and "b" not in masks
    part, where = masks.part("a")
    assert part.sum() == voxels and np.array_equal(turned[where], part)
    changed = masks["a"]
    changed[:] = 1
    assert np.array_equal(masks["a"], turned), "what is given out may be changed"


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, 1, -1), (-1, -1, -1)])
def test_flips_happen_in_place(signs: tuple[int, int, int], order: str) -> None:
    grid = grid_of(np.diag(signs).tolist())
    values = np.array(np.random.default_rng(0).integers(-1000, 3000, SHAPE), dtype=np.int16, order=order)
    wanted, ras = reorient(values.copy(), grid)
    turned, found = turn_to_ras(values, grid)
    assert turned is values and np.array_equal(turned, wanted) and np.array_equal(found.affine, ras.affine)


@pytest.mark.parametrize("name", ["sagittal", "coronal"])
def test_other_turns_keep_the_order_in_memory(name: str) -> None:
    grid = grid_of(AXES[name])
    values = np.asfortranarray(np.random.default_rng(0).random(SHAPE))
    wanted, ras = reorient(values, grid)
    turned, found = turn_to_ras(values, grid)
    assert np.array_equal(turned, wanted) and found.shape == ras.shape and np.array_equal(found.affine, ras.affine)
    locked = values.copy()
    locked.setflags(write=False)
    assert np.array_equal(turn_to_ras(locked, grid_of(AXES["lps"]))[0], locked[::-1, ::-1])


def test_packed_masks_are_small() -> None:
    grid = Grid((128, 128, 64), np.diag([2.0, 2, 2, 1]))
    masks = PackedMasks(grid)
    mask = np.zeros(grid.shape, dtype=np.uint8)
    mask[40:60, 40:60, 20:30] = 1
    masks.add("a", mask, grid)
    packed, _ = masks._packed["a"]
    assert packed.nbytes == 20 * 20 * 10 / 8


def test_bounding_box_and_its_grid() -> None:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[2, 3, 1] = mask[5, 4, 4] = 1
    box = bounding_box(mask)
    assert box == (slice(2, 6), slice(3, 5), slice(1, 5))
    part = part_of(RAS, box)
    assert part.shape == (4, 2, 4) and np.allclose(part.points_ras([[0, 0, 0]]), RAS.points_ras([[2, 3, 1]]))


def test_a_spacing_covers_the_grid_and_keeps_its_middle() -> None:
    made = spacing_grid(RAS, 2.5)
    assert made.shape == (8, 9, 8) and np.allclose(made.spacing_mm, 2.5)

    def middle(grid: Grid) -> np.ndarray:
        return grid.points_ras((np.array(grid.shape)[None] - 1) / 2)

    assert np.allclose(middle(made), middle(RAS))
    cube = Grid((4, 4, 4), np.diag([3.0, 3, 3, 1]))
    assert same_grid(spacing_grid(cube, 3.0), cube, 1e-9)


@pytest.mark.parametrize("spacing", [0.0, -2.0, float("nan"), float("inf"), 1e-4])
def test_a_spacing_that_cannot_be_meant(spacing: float) -> None:
    with pytest.raises(GeometryError):
        spacing_grid(RAS, spacing)


def test_slices_are_parallel_or_not() -> None:
    assert parallel(RAS, grid_of(AXES["lps"])) and not parallel(RAS, grid_of(AXES["sagittal"]))
    tilted = np.deg2rad(0.1)
    tilt = [[1, 0, 0], [0, np.cos(tilted), np.sin(tilted)], [0, -np.sin(tilted), np.cos(tilted)]]
    assert not parallel(RAS, grid_of(tilt))


def test_ct_of_a_straight_line_stays_straight_and_ends_in_air() -> None:
    hu = np.broadcast_to(np.arange(SHAPE[0], dtype=np.int16)[:, None, None] * 10, SHAPE)
    wide = Grid((20, 7, 5), RAS.affine @ np.array([[0.5, 0, 0, -2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    placed, beyond = place_ct(hu, RAS, wide)
    assert placed.dtype == np.int16
    assert placed[:, 3, 2].tolist()[4:] == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75]
    assert placed[0, 3, 2] == -1000 and 0 < beyond < 30
    same, none = place_ct(hu, RAS, RAS)
    assert same is hu and none == 0


@pytest.mark.parametrize("name", AXES)
def test_dose_in_every_direction(name: str) -> None:
    """A linear dose is a linear dose on any grid, exactly, between the centres of its outermost voxels."""
    source = grid_of(AXES[name], (4.0, 5.0, 6.0))
    slope = np.array([0.7, -0.3, 0.5])
    points = source.points_ras(np.argwhere(np.ones(SHAPE)))
    dose = (50 + points @ slope).reshape(SHAPE).astype(np.float32)
    target = Grid((30, 24, 20), np.array([[2.3, 0, 0, -50], [0, 2.1, 0, -20], [0, 0, 2.2, -10], [0, 0, 0, 1.0]]))
    placed = place_dose(dose, source, target)
    index = np.argwhere(np.ones(target.shape))
    place = (target.points_ras(index) - source.affine[:3, 3]) @ np.linalg.inv(source.affine[:3, :3]).T
    inside = ((place > -1e-3) & (place < np.array(SHAPE) - 1 + 1e-3)).all(axis=1).reshape(target.shape)
    wanted = np.where(inside, (50 + target.points_ras(index) @ slope).reshape(target.shape), 0)
    assert inside.any() and not inside.all()
    assert np.abs(placed.dose_gy - wanted).max() < 2e-4
    everything, whole = np.ones(target.shape, dtype=np.uint8), tuple(slice(0, size) for size in target.shape)
    assert placed.known_percent(everything, whole) == pytest.approx(100 * inside.mean())
    assert placed.known_percent(np.zeros_like(everything), whole) == 100
    corner = (slice(0, 2), slice(0, 2), slice(0, 2))
    assert placed.known_percent(everything[corner], corner) == 0
    some = np.random.default_rng(0).integers(0, 2, target.shape, dtype=np.uint8)
    box = (slice(3, 28), slice(2, 20), slice(1, 18))
    held = np.zeros_like(some)
    held[box] = some[box]
    assert placed.known_percent(some[box], box) == pytest.approx(100 * held[inside].sum() / held.sum())
    assert np.array_equal(placed.keep_known(some.copy()), some * inside)


def test_dose_on_its_own_grid_is_not_touched() -> None:
    dose = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    placed = place_dose(dose, RAS, RAS)
    assert placed.dose_gy is dose and placed.known.all()


def test_dose_that_does_not_meet_the_grid() -> None:
    far = Grid(SHAPE, RAS.affine + np.array([[0, 0, 0, 1000.0], [0] * 4, [0] * 4, [0] * 4]))
    with pytest.raises(CaseError, match=r"outside the CT. x 993..1009.*against x -7..9"):
        place_dose(np.ones(SHAPE, dtype=np.float32), far, RAS)


def test_body_is_the_largest_part() -> None:
    ct = np.full((20, 20, 10), -1000, dtype=np.int16)
    ct[2:10, 2:10, 2:8] = 0
    ct[4:6, 4:6, 4:6] = -900  # a lung is no body, by the threshold
    ct[14:18, 14:18, 2:8] = 50  # a couch
    body = body_mask(ct)
    assert body.dtype == np.uint8 and body.sum() == 8 * 8 * 6 - 8 and not body[14:18, 14:18].any()
    assert body_mask(np.full((3, 3, 3), -1000)).all()
