"""Masks -> polygons along voxel edges: the very mask comes back, areas are exact, holes and islands are kept."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import pytest

from mtl_med.contours import HOLES, edge_polygons, mask_contours
from mtl_med.errors import GeometryError, UsageError
from mtl_med.geometry import Grid


def winding_numbers(polygons: Iterable[np.ndarray], shape: tuple[int, int]) -> list[np.ndarray]:
    """How often each polygon winds around each voxel centre: signed crossings of the ray to the east, edge by edge."""
    x, y = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    maps = []
    for polygon in polygons:
        turns = np.zeros(shape, dtype=int)
        ends = np.roll(polygon, -1, axis=0)
        for (x0, y0), (x1, y1) in zip(polygon - 0.5, ends - 0.5, strict=True):
            if x0 == x1:
                turns += (x < x0) * (((y0 < y) & (y < y1)).astype(int) - ((y1 < y) & (y < y0)))
        maps.append(turns)
    return maps


def read_back(mask: np.ndarray, holes: str) -> dict[str, np.ndarray]:
    """The mask as three kinds of readers see its polygons."""
    found = {rule: np.zeros(mask.shape, dtype=bool) for rule in ("even-odd", "winding", "union")}
    for k in range(mask.shape[2]):
        polygons = [polygon for number, polygon in edge_polygons(mask, holes=holes) if number == k]
        maps = winding_numbers(polygons, mask.shape[:2])
        if maps:
            found["even-odd"][..., k] = sum(maps) % 2 == 1
            found["winding"][..., k] = sum(maps) != 0
            found["union"][..., k] = np.any([turns != 0 for turns in maps], axis=0)
    return found


def area(polygon: np.ndarray) -> float:
    """Signed area by the shoelace formula."""
    x, y = polygon.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def drawn(*rows: str) -> np.ndarray:
    """One slice from a picture: rows from north to south, columns from west to east."""
    return np.array([[character == "#" for character in row] for row in rows])[::-1].T[..., None]


PICTURES = {
    "voxel": drawn("#"),
    "corner-of-array": drawn("##", ".#"),
    "diagonal": drawn("#.", ".#"),
    "other-diagonal": drawn(".#", "#."),
    "hole": drawn("###", "#.#", "###"),
    "two-holes": drawn("######", "#.##.#", "######"),
    "holes-in-a-row": drawn("#######", "#.#.#.#", "#######"),
    "island-in-hole": drawn("#####", "#...#", "#.#.#", "#...#", "#####"),
    "hole-in-island-in-hole": drawn("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"),
    "holes-touch": drawn("####", "#.##", "##.#", "####"),
    "holes-touch-the-other-way": drawn("####", "##.#", "#.##", "####"),
    "hole-touches-outside": drawn("####", "#.##", "##.#", "###."),
    "ring-closed-by-a-corner": drawn(".###", "#..#", "#..#", "####"),
    "ring-closed-by-the-other-corner": drawn("###.", "#..#", "#..#", "####"),
    "ring-closed-below": drawn("####", "#..#", "#..#", ".###"),
    "ring-closed-by-two-corners": drawn(".##.", "#..#", "#..#", ".##."),
    "island-touches-hole": drawn("#####", "#...#", "##..#", "#.#.#", "#####"),
    "checkerboard": drawn(".#.#.", "#.#.#", ".#.#.", "#.#.#"),
    "staircase-hole": drawn("#####", "#..##", "##..#", "###.#", "#####"),
    "bars": drawn("####", "....", "####"),
}


@pytest.mark.parametrize("picture", PICTURES)
def test_every_reader_gets_the_mask_back(picture: str) -> None:
    mask = PICTURES[picture]
    for rule, found in read_back(mask, "keyhole").items():
        assert np.array_equal(found, mask), rule
    assert np.array_equal(read_back(mask, "separate")["even-odd"], mask)
    assert np.array_equal(read_back(mask, "separate")["winding"], mask)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.6, 0.9])
def test_noise_comes_back(share: float) -> None:
    """Noise has every way in which voxels can touch, up to the border of the array."""
    rng = np.random.default_rng(round(100 * share))
    mask = rng.random((13, 11, 12)) < share
    for rule, found in read_back(mask, "keyhole").items():
        assert np.array_equal(found, mask), rule
    assert np.array_equal(read_back(mask, "separate")["even-odd"], mask)


@pytest.mark.parametrize("holes", HOLES)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_area_is_the_number_of_voxels(share: float, holes: str) -> None:
    mask = np.random.default_rng(3).random((20, 17, 5)) < share
    areas = np.zeros(5)
    for k, polygon in edge_polygons(mask, holes=holes):
        areas[k] += area(polygon)
    assert areas.tolist() == mask.sum(axis=(0, 1)).tolist()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_separate_polygons_never_meet_themselves(share: float) -> None:
    mask = np.random.default_rng(4).random((20, 17, 5)) < share
    for _, polygon in edge_polygons(mask, holes="separate"):
        assert len({tuple(corner) for corner in polygon.tolist()}) == len(polygon)
        steps = np.roll(polygon, -1, axis=0) - polygon
        assert ((steps != 0).sum(axis=1) == 1).all(), "edges run along the axes"
        assert ((steps[:, 0] != 0) != (np.roll(steps, 1, axis=0)[:, 0] != 0)).all(), "every corner is a turn"


@pytest.mark.parametrize(
    ("picture", "keyhole", "separate"),
    [
        ("voxel", [1], [1]),
        ("diagonal", [1, 1], [1, 1]),
        ("other-diagonal", [1, 1], [1, 1]),
        ("hole", [8], [-1, 9]),
        ("two-holes", [16], [-1, -1, 18]),
        ("island-in-hole", [1, 16], [-9, 1, 25]),
        ("holes-touch", [14], [-1, -1, 16]),
        ("ring-closed-by-a-corner", [11], [-4, 15]),
        ("ring-closed-by-two-corners", [2, 2, 2, 2], [2, 2, 2, 2]),
        ("checkerboard", [1] * 10, [1] * 10),
    ],
)
def test_number_and_areas_of_polygons(picture: str, keyhole: list[int], separate: list[int]) -> None:
    for holes, expected in (("keyhole", keyhole), ("separate", separate)):
        assert sorted(area(polygon) for _, polygon in edge_polygons(PICTURES[picture], holes=holes)) == expected


def test_one_voxel_on_an_oblique_grid() -> None:
    """The corners lie half a voxel from the centre along the array's own axes, in the plane of its slice."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.diag([2.0, 3.0, 5.0])
    grid = Grid((4, 5, 6), np.block([[turn, np.array([[10.0], [20.0], [30.0]])], [np.zeros((1, 3)), 1]]))
    mask = np.zeros(grid.shape, dtype=np.uint8)
    mask[1, 2, 3] = 1
    (contour,) = mask_contours(mask, grid)
    assert contour.slice == 3
    expected = grid.points_ras(np.array([[0.5, 1.5, 3], [1.5, 1.5, 3], [1.5, 2.5, 3], [0.5, 2.5, 3]]))
    start = int(np.argmin(np.abs(contour.points - expected[0]).sum(axis=1)))
    assert np.allclose(np.roll(contour.points, -start, axis=0), expected, atol=1e-12)


def test_a_place_far_from_the_origin_of_the_array() -> None:
    small = np.random.default_rng(5).random((6, 7, 3)) < 0.5
    large = np.zeros((40, 30, 20), dtype=bool)
    large[20:26, 11:18, 9:12] = small
    here = [(k, polygon.tolist()) for k, polygon in edge_polygons(small)]
    there = [(k - 9, (polygon - [20, 11]).tolist()) for k, polygon in edge_polygons(large)]
    assert here == there


def test_slices_come_in_their_order_and_empty_ones_not_at_all() -> None:
    mask = np.zeros((5, 5, 9), dtype=bool)
    mask[2, 2, [7, 1, 4]] = True
    assert [k for k, _ in edge_polygons(mask)] == [1, 4, 7]
    assert list(edge_polygons(np.zeros((5, 5, 9)))) == []


def test_wrong_arguments() -> None:
    with pytest.raises(GeometryError, match=r"mask of shape \(2, 2, 2\) on a grid of shape \(3, 3, 3\)"):
        mask_contours(np.zeros((2, 2, 2)), Grid((3, 3, 3), np.eye(4)))
    with pytest.raises(UsageError, match="Did you mean keyhole"):
        list(edge_polygons(np.zeros((2, 2, 2)), holes="keyhold"))


def test_a_whole_body_takes_a_moment() -> None:
    """300x220 voxels wide on 60 slices with a rough surface and a hole in each; generous for a busy machine."""
    x, y, z = np.ogrid[-1:1:300j, -1:1:220j, -1:1:60j]
    rough = 0.02 * np.random.default_rng(6).random((300, 220, 60))
    distance = x**2 + y**2 + 0 * z
    mask = (distance + rough < 0.9) & (distance > 0.01)
    started = time.process_time()
    count = sum(len(polygon) for _, polygon in edge_polygons(mask))
    assert count > 60 * 100
    assert time.process_time() - started < 5
