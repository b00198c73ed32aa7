"""Masks from contours: exact cases, an independent point-in-polygon judge, planes and slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid, reorient
from mtl_med.prep import scanline
from mtl_med.prep.rasterise import rasterise

SMALL = Grid((6, 5, 4), np.eye(4))


def contour(*corners: tuple[float, float], z: float = 0.0, grid: Grid = SMALL) -> np.ndarray:
    """Corners given in voxel indices, as RAS mm."""
    return grid.points_ras(np.array([[x, y, z] for x, y in corners]))


def rectangle(x0: float, y0: float, x1: float, y1: float, z: float = 0.0, grid: Grid = SMALL) -> np.ndarray:
    return contour((x0, y0), (x1, y0), (x1, y1), (x0, y1), z=z, grid=grid)


def star(
    rng: np.random.Generator, centre: Sequence[float], radius: float, count: int = 25
) -> list[tuple[float, float]]:
    """A ragged outline around a centre."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    lengths = radius * rng.uniform(0.3, 1.0, count)
    return [(centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)) for a, r in zip(angles, lengths, strict=True)]


def judged(contours: Sequence[np.ndarray], grid: Grid, shift_voxels: float = 0.0) -> np.ndarray:
    """Even-odd mask by matplotlib, voxel centre by voxel centre, in mm in the plane of the slices."""
    frame = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    centres = grid.points_ras(indices + np.array([shift_voxels, 0, 0])) @ frame
    mask = np.zeros(len(indices), dtype=bool)
    for corners in contours:
        flat = corners @ frame
        in_slice = np.abs(centres[:, 2] - flat[:, 2].mean()) < grid.spacing_mm[2] / 2
        mask[in_slice] ^= Polygon(flat[:, :2]).contains_points(centres[in_slice, :2])
    return mask.reshape(grid.shape)


def oblique() -> np.ndarray:
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.9, 1.4, 3.0])
    affine[:3, 3] = [12.3, -45.6, 7.8]
    return affine


GRIDS = {
    "identity": Grid((24, 20, 3), np.eye(4)),
    "head first supine": Grid(
        (24, 20, 3), np.array([[-0.98, 0, 0, 9], [0, -0.98, 0, 8], [0, 0, 2.5, -3], [0, 0, 0, 1]])
    ),
    "feet first prone": Grid((24, 20, 3), np.array([[1.3, 0, 0, -9], [0, -0.7, 0, 8], [0, 0, -3, 5], [0, 0, 0, 1]])),
    "decubitus": Grid((24, 20, 3), np.array([[0, -1.1, 0, 4], [0.6, 0, 0, 8], [0, 0, 3, 5], [0, 0, 0, 1.0]])),
    "oblique": Grid((24, 20, 3), oblique()),
}


class TestExactCases:
    def test_contour_along_voxel_edges_gives_just_these_voxels(self) -> None:
        mask = rasterise([rectangle(0.5, 1.5, 3.5, 3.5, z=2)], SMALL).mask
        expected = np.zeros(SMALL.shape, dtype=np.uint8)
        expected[1:4, 2:4, 2] = 1
        np.testing.assert_array_equal(mask, expected)

    def test_mask_is_uint8_and_slices_are_pieces_of_memory(self) -> None:
        mask = rasterise([rectangle(0.5, 1.5, 3.5, 3.5)], SMALL).mask
        assert mask.dtype == np.uint8
        assert mask.flags.f_contiguous

    def test_nothing_is_rounded_to_pixels(self) -> None:
        """A contour of three quarters of a voxel around a centre covers it; one beside all centres covers nothing."""
        assert rasterise([rectangle(1.9, 1.9, 2.4, 2.4)], SMALL).mask.sum() == 1
        assert rasterise([rectangle(1.1, 1.1, 1.9, 1.9)], SMALL).mask.sum() == 0

    def test_centres_on_sides_belong_to_greater_indices(self) -> None:
        mask = rasterise([rectangle(1, 1, 3, 4)], SMALL).mask
        expected = np.zeros(SMALL.shape, dtype=np.uint8)
        expected[1:3, 1:4, 0] = 1
        np.testing.assert_array_equal(mask, expected)

    @pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
    def test_centres_on_sides_follow_the_rule_whatever_the_affine_rounds(self, grid: Grid) -> None:
        mask = rasterise([rectangle(2, 3, 9, 12, grid=grid)], grid).mask
        assert mask[2:9, 3:12, 0].all() and mask.sum() == 7 * 9

    def test_neighbours_share_no_voxel_and_leave_none_out(self) -> None:
        """Two halves of a rectangle, cut along a line through voxel centres."""
        cut = [(0.5, 0.5), (3, 3), (2, 4), (3, 4.5)]
        left = contour((0, 0.5), *cut, (0, 4.5))
        right = contour(*cut[::-1], (5.5, 0.5), (5.5, 4.5))
        masks = [rasterise([half], SMALL).mask for half in (left, right)]
        both = rasterise([contour((0, 0.5), (5.5, 0.5), (5.5, 4.5), (0, 4.5))], SMALL).mask
        np.testing.assert_array_equal(masks[0] + masks[1], both)

    def test_direction_start_and_closing_point_do_not_matter(self) -> None:
        corners = [(0.2, 0.3), (4.4, 1.0), (3.0, 4.1), (1.0, 2.0)]
        masks = [
            rasterise([contour(*some)], SMALL).mask
            for some in (corners, corners[::-1], corners[2:] + corners[:2], [*corners, corners[0]])
        ]
        assert masks[0].sum() > 4
        for mask in masks[1:]:
            np.testing.assert_array_equal(mask, masks[0])

    def test_no_contours_give_an_empty_mask(self) -> None:
        raster = rasterise([], SMALL)
        assert raster.mask.shape == SMALL.shape and not raster.mask.any()
        assert (raster.counts, raster.notes) == ({"contours": 0}, ())


class TestEvenOdd:
    outer, inner, island = rectangle(-0.5, -0.5, 5.5, 4.5), rectangle(0.5, 0.5, 4.5, 3.5), rectangle(1.5, 1.5, 2.5, 2.5)

    def test_hole_and_island(self) -> None:
        mask = rasterise([self.island, self.outer, self.inner], SMALL).mask[:, :, 0]
        expected = np.ones((6, 5))
        expected[1:5, 1:4] = 0
        expected[2, 2] = 1
        np.testing.assert_array_equal(mask, expected)

    def test_keyhole_is_the_same_as_hole(self) -> None:
        keyhole = np.concatenate([self.outer, self.outer[:1], self.inner, self.inner[:1]])
        np.testing.assert_array_equal(rasterise([keyhole], SMALL).mask, rasterise([self.outer, self.inner], SMALL).mask)

    def test_figure_of_eight_encloses_both_loops(self) -> None:
        eight = contour((-0.5, -0.5), (5.5, 4.5), (5.5, -0.5), (-0.5, 4.5))
        mask = rasterise([eight], SMALL).mask[:, :, 0]
        assert mask[0, 1] and mask[0, 3] and mask[5, 1] and mask[5, 3]
        assert not mask[2:4, 0].any() and not mask[2:4, 4].any()

    @pytest.mark.parametrize(
        "again",
        [
            pytest.param(lambda corners: corners, id="same"),
            pytest.param(lambda corners: corners[::-1], id="other way round"),
            pytest.param(lambda corners: np.roll(corners, 2, axis=0), id="other start"),
            pytest.param(lambda corners: np.concatenate([corners, corners[:1]]), id="closed"),
            pytest.param(lambda corners: np.add(corners, [0, 0, 0.01]), id="z rounded"),
        ],
    )
    def test_repeated_contour_does_not_cancel_itself(self, again: Callable[[np.ndarray], np.ndarray]) -> None:
        raster = rasterise([self.outer, self.inner, again(self.inner)], SMALL)
        np.testing.assert_array_equal(raster.mask, rasterise([self.outer, self.inner], SMALL).mask)
        assert raster.counts["repeated"] == 1
        assert "1 contours repeat another" in raster.notes[0]

    def test_same_contour_on_another_plane_is_no_repetition(self) -> None:
        raster = rasterise([self.inner, np.add(self.inner, [0, 0, 1.0])], SMALL)
        assert raster.counts == {"contours": 2}
        assert raster.mask.sum() == 2 * 12


class TestJudge:
    """Against matplotlib's point-in-polygon test."""

    @pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
    @pytest.mark.parametrize("seed", range(3))
    def test_random_outlines_voxel_for_voxel(self, grid: Grid, seed: int) -> None:
        contours = self.random(grid, seed)
        mask = rasterise(contours, grid).mask
        assert 50 < mask.sum() < mask.size / 2
        np.testing.assert_array_equal(mask, judged(contours, grid))

    @pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
    def test_half_a_pixel_of_shift_fails_the_judge(self, grid: Grid) -> None:
        """The must-fail twin: the comparison above sees a shift that many converters have."""
        contours = self.random(grid, 0)
        wrong = rasterise(contours, grid).mask != judged(contours, grid, shift_voxels=0.5)
        assert wrong.sum() > 20

    def test_far_corners_and_many_points(self) -> None:
        grid = GRIDS["head first supine"]
        corners = star(np.random.default_rng(0), (12, 10), 4000.0, count=400)
        contours = [contour(*corners, z=1, grid=grid)]
        np.testing.assert_array_equal(rasterise(contours, grid).mask, judged(contours, grid))

    def test_mask_does_not_depend_on_how_the_axes_run(self) -> None:
        """The same structure straight on the RAS grid, and turned to RAS afterwards."""
        grid = GRIDS["head first supine"]
        contours = self.random(grid, 1)
        mask = rasterise(contours, grid).mask
        turned, turned_grid = reorient(mask, grid)
        assert turned_grid.axis_codes == "RAS" != grid.axis_codes
        np.testing.assert_array_equal(rasterise(contours, turned_grid).mask, turned)

    def test_memory_is_bounded_for_contours_that_run_to_and_fro(self, monkeypatch: pytest.MonkeyPatch) -> None:
        grid = GRIDS["identity"]
        zigzag = [(0.03 * n, -3.0 if n % 2 else 22.0) for n in range(600)]
        whole = rasterise([contour(*zigzag, grid=grid)], grid).mask
        monkeypatch.setattr(scanline, "_CROSSINGS_AT_ONCE", 50)
        np.testing.assert_array_equal(rasterise([contour(*zigzag, grid=grid)], grid).mask, whole)

    @staticmethod
    def random(grid: Grid, seed: int) -> list[np.ndarray]:
        """Overlapping ragged outlines with some corners beyond the image, several on each slice."""
        rng = np.random.default_rng(seed)
        centres = [(8, 9), (15, 10), (12, 4), (21, 17)]
        return [contour(*star(rng, centre, 8.0), z=z, grid=grid) for z in range(grid.shape[2]) for centre in centres]


class TestImageBorder:
    def test_what_reaches_beyond_the_image_is_cut(self) -> None:
        raster = rasterise([rectangle(-7.5, 1.5, 2.5, 90.5)], SMALL)
        assert raster.mask[:3, 2:, 0].all() and raster.mask.sum() == 9
        assert raster.counts == {"contours": 1, "cut": 1}

    @pytest.mark.parametrize("box", [(-9, 1, -2, 3), (7, 1, 9, 3), (1, -9, 3, -2), (1, 6, 3, 9)], ids=str)
    def test_what_lies_beside_the_image_is_left_out(self, box: tuple[int, int, int, int]) -> None:
        raster = rasterise([rectangle(*box)], SMALL)
        assert not raster.mask.any()
        assert raster.counts == {"contours": 1, "outside": 1}

    def test_contour_around_the_image_fills_it(self) -> None:
        assert rasterise([rectangle(-90, -90, 90, 90)], SMALL).mask[:, :, 0].all()


def heights(grid: Grid, *positions: float, **options: object) -> tuple[list[int], dict[str, int], tuple[str, ...]]:
    """Slices that get a structure drawn at these positions (in slices)."""
    raster = rasterise([rectangle(0.5, 0.5, 3.5, 3.5, z=z, grid=grid) for z in positions], grid, **options)  # type: ignore[arg-type]
    drawn = np.flatnonzero(raster.mask.any(axis=(0, 1))).tolist()
    assert raster.mask.sum() == 9 * len(drawn)
    return drawn, {key: count for key, count in raster.counts.items() if key != "contours"}, raster.notes


class TestPlanes:
    grid = Grid((6, 5, 12), np.diag([1.0, 1.0, 2.5, 1.0]))

    def test_on_slices(self) -> None:
        assert heights(self.grid, 3, 5, 4) == ([3, 4, 5], {}, ())

    def test_between_slices_each_goes_to_one_slice(self) -> None:
        drawn, counts, notes = heights(self.grid, 3.3, 4.3, 5.3)
        assert (drawn, counts) == ([3, 4, 5], {"between_slices": 3})
        assert notes == ("3 contours lie between slices and were put on the nearest",)

    @pytest.mark.parametrize("noise", [0, 1e-5, -1e-5, 1e-3, -1e-3])
    def test_just_between_two_slices_follows_one_rule(self, noise: float) -> None:
        """Rounded coordinates neither double a slice nor leave one out."""
        assert heights(self.grid, 3.5, 4.5 + noise, 5.5 - noise, 6.5)[0] == [3, 4, 5, 6]

    def test_outside_the_slices(self) -> None:
        drawn, counts, notes = heights(self.grid, -0.8, -0.4, 11.4, 12.0)
        assert (drawn, counts["outside"]) == ([0, 11], 2)
        assert "2 contours lie outside the image and were left out" in notes

    def test_two_planes_on_one_slice_are_not_mixed(self) -> None:
        raster = rasterise(
            [rectangle(0.5, 0.5, 3.5, 3.5, z=z, grid=self.grid) for z in (2, 3, 4)]
            + [rectangle(0.5, 0.5, 4.5, 4.5, z=3.2, grid=self.grid)],
            self.grid,
            plane_pitch_mm=2.5,
        )
        assert raster.mask.sum(axis=(0, 1)).tolist()[2:5] == [9, 9, 9]
        assert raster.counts["beaten"] == 1
        assert any("another plane is nearer" in note for note in raster.notes)

    def test_rounded_heights_are_one_plane(self) -> None:
        hole = rectangle(1.5, 1.5, 2.5, 2.5, z=3.004, grid=self.grid)
        raster = rasterise([rectangle(0.5, 0.5, 3.5, 3.5, z=3, grid=self.grid), hole], self.grid)
        assert raster.mask.sum() == 8

    def test_contour_that_leaves_its_plane_is_left_out(self) -> None:
        upright = rectangle(0.5, 0.5, 3.5, 3.5, z=3, grid=self.grid)
        upright[0, 2] += 2.0
        raster = rasterise([upright, rectangle(0.5, 0.5, 3.5, 3.5, z=4, grid=self.grid)], self.grid)
        assert raster.counts == {"contours": 2, "tilted": 1}
        assert raster.mask.sum() == 9

    def test_descending_slices(self) -> None:
        grid = Grid((6, 5, 12), np.diag([1.0, 1.0, -2.5, 1.0]))
        assert heights(grid, 3, 4, 7)[0] == [3, 4, 7]
        assert "between -10.0 and -17.5 mm" in heights(grid, 3, 4, 7)[2][0]


class TestOtherSlices:
    """Grids whose slices are not the ones that were drawn on; drawn every 3 mm at 0, 3, ... 12 mm."""

    planes_mm = (0, 3, 6, 9, 12)

    def on(self, pitch_mm: float, first_mm: float = -6.0, **options: object) -> tuple[list[float], dict[str, int]]:
        count = int(30 / pitch_mm)
        affine = np.diag([1.0, 1.0, pitch_mm, 1.0])
        affine[2, 3] = first_mm
        drawn, counts, notes = heights(
            Grid((6, 5, count), affine), *[(z - first_mm) / pitch_mm for z in self.planes_mm], **options
        )
        assert notes == () or pitch_mm < 3
        return [first_mm + pitch_mm * index for index in drawn], counts

    def test_finer_slices_take_the_nearest_plane(self) -> None:
        drawn_mm, counts = self.on(1.0)
        assert drawn_mm == list(range(-1, 14))
        assert counts == {}

    def test_half_the_pitch_keeps_the_height(self) -> None:
        """Slices half way between planes go to the upper one: ten slices of 1.5 mm for five planes of 3 mm."""
        drawn_mm, _ = self.on(1.5, plane_pitch_mm=3.0)
        assert drawn_mm == [-1.5 + 1.5 * n for n in range(10)]

    def test_coarser_slices_leave_planes_out(self) -> None:
        drawn_mm, counts = self.on(5.0, first_mm=-5.0)
        assert drawn_mm == [0, 5, 10]
        assert counts == {"between_slices": 2, "beaten": 2}

    def test_single_plane_is_as_thick_as_the_slice_it_was_drawn_on(self) -> None:
        grid = Grid((6, 5, 12), np.eye(4))
        assert heights(grid, 5)[0] == [5]
        assert heights(grid, 5, plane_pitch_mm=3.0)[0] == [4, 5, 6]

    def test_every_other_slice_drawn(self) -> None:
        """Each plane fills its share, unless the pitch of the slices is given: then slices are missing."""
        drawn, counts, notes = heights(SMALL, 0, 2)
        assert (drawn, counts) == ([0, 1, 2], {})
        assert notes == ("contours are 2 mm apart, slices 1 mm; each contour fills its share",)
        drawn, counts, _ = heights(SMALL, 0, 2, plane_pitch_mm=1.0)
        assert (drawn, counts) == ([0, 2], {"missing_slices": 1})

    def test_planes_far_apart_are_not_taken_for_thick_slices(self) -> None:
        grid = Grid((6, 5, 40), np.eye(4))
        drawn, counts, notes = heights(grid, 5, 35)
        assert (drawn, counts) == ([5, 35], {"missing_slices": 29})
        assert notes == ("no contour on 29 slices between 5.0 and 35.0 mm (slices are 1 mm apart)",)

    @pytest.mark.parametrize("pitch", [0.977, 1.17, 1.25, 3.75])
    @pytest.mark.parametrize("finer", [1.0, 0.5, 0.4])
    def test_planes_of_rounded_positions_leave_no_holes(self, pitch: float, finer: float) -> None:
        planes = np.round(0.03 + pitch * np.arange(40), 1)
        affine = np.diag([1.0, 1.0, finer, 1.0])
        grid = Grid((6, 5, int(planes[-1] / finer) + 1), affine)
        drawn, counts, _ = heights(grid, *(planes / finer), plane_pitch_mm=pitch)
        assert drawn == list(range(grid.shape[2]))
        assert "missing_slices" not in counts


class TestGaps:
    grid = Grid((20, 20, 12), np.diag([1.0, 2.0, 2.5, 1.0]))

    def squares(self, *halves: tuple[int, float]) -> list[np.ndarray]:
        return [rectangle(10 - half, 10 - half, 10 + half, 10 + half, z=z, grid=self.grid) for z, half in halves]

    def test_missing_contours_stay_missing_and_are_told(self) -> None:
        raster = rasterise(self.squares((2, 4.5), (3, 4.5), (6, 4.5), (7, 4.5)), self.grid)
        assert np.flatnonzero(raster.mask.any(axis=(0, 1))).tolist() == [2, 3, 6, 7]
        assert raster.counts["missing_slices"] == 2
        assert raster.notes == ("no contour on 2 slices between 7.5 and 15.0 mm (slices are 2.5 mm apart)",)

    def test_interpolated_on_request(self) -> None:
        """A square that grows from 5 to 11 voxels has 7 and 9 between; equal planes give equal slices."""
        raster = rasterise(self.squares((2, 2.5), (3, 2.5), (6, 5.5), (7, 5.5)), self.grid, interpolate_gaps=True)
        widths = raster.mask.any(axis=1).sum(axis=0)
        assert widths[2:8].tolist() == [5, 5, 7, 9, 11, 11]
        assert raster.counts["interpolated_slices"] == raster.counts["missing_slices"] == 2
        same = rasterise(self.squares((2, 4.5), (3, 4.5), (6, 4.5)), self.grid, interpolate_gaps=True).mask
        np.testing.assert_array_equal(same[:, :, 4], same[:, :, 3])

    def test_plane_between_centres_has_nothing_to_interpolate(self) -> None:
        raster = rasterise(self.squares((2, 2.5), (3, 2.5), (6, 0.1)), self.grid, interpolate_gaps=True)
        assert raster.mask[:, :, 6].sum() == 1
        thin = [*self.squares((2, 2.5), (3, 2.5)), rectangle(10.1, 10.1, 10.9, 10.9, z=6, grid=self.grid)]
        raster = rasterise(thin, self.grid, interpolate_gaps=True)
        assert "interpolated_slices" not in raster.counts


@pytest.mark.parametrize(
    "bad",
    [np.zeros((2, 3)), np.zeros((4, 2)), np.zeros(9), np.full((3, 3), np.nan)],
    ids=["two points", "flat", "one axis", "NaN"],
)
def test_unusable_contours_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(GeometryError, match=r"case_7: a contour needs three finite points or more"):
        rasterise([bad], SMALL, where="case_7")
