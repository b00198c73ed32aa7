"""Planes are cut and turned as people look at them, colours stand for values, outlines run along voxel edges."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_med.geometry import Grid
from mtl_med.plane_figures import MANNERS, Wash, draw_planes
from mtl_med.planes import box_around, cut

GRID = Grid((12, 10, 8), np.array([[2.0, 0, 0, -10], [0, 2, 0, -8], [0, 0, 3, -12], [0, 0, 0, 1]]))
WHOLE = tuple(slice(0, size) for size in GRID.shape)
SCALES = {"dose": 60.0, "difference": 60.0, "gamma": 1.0}


def test_right_is_on_the_left_and_front_and_head_at_the_top():
    volume = np.zeros(GRID.shape)
    volume[10, 8, 6] = 1  # left, front, head of the patient... in RAS the first axis runs to the right
    assert np.argwhere(cut(volume, "axial", (0, 0, 6))).tolist() == [[1, 1]]
    assert np.argwhere(cut(volume, "coronal", (0, 8, 0))).tolist() == [[1, 1]]
    assert np.argwhere(cut(volume, "sagittal", (10, 0, 0))).tolist() == [[1, 1]]


def test_box_around():
    region = np.zeros(GRID.shape, bool)
    region[4:6, 3, 2] = True
    assert box_around(region, 1) == (slice(3, 7), slice(2, 5), slice(1, 4))
    assert box_around(region & False) == WHOLE


def _axes(washes, centre=(5, 5, 4), box=WHOLE, ct=None, **more):
    figure = draw_planes(ct, GRID, washes, centre, box, title="p", scales=SCALES, **more)
    return figure, figure.axes[: 3 * len(washes)]


def test_colours_stand_for_values_over_the_ct():
    dose = np.zeros(GRID.shape)
    dose[5, 5, 4] = 60
    dose[2, 5, 4] = 5.9  # below 10 %: not shown
    ct = np.full(GRID.shape, 100.0)
    figure, axes = _axes([Wash("planned", dose), Wash("difference", -dose, "difference")], ct=ct)
    pictures = [axis.images[0].get_array() for axis in axes]
    row, column = 10 - 1 - 5, 12 - 1 - 5
    assert pictures[0].shape == (10, 12, 3)
    red, _, blue = (int(value) for value in pictures[0][row, column])
    assert red > blue + 50  # the top of the dose's colours
    assert pictures[0][row, 12 - 1 - 2].tolist() == [128, 128, 128]  # CT alone: 100 HU between -200 and 400
    assert int(pictures[1 * 3][row, column][2]) > int(pictures[1 * 3][row, column][0]) + 30  # too little is blue
    figure.savefig("/dev/null", format="png", dpi=20)


def test_outlines_run_along_the_edges_and_are_asked_for_once():
    mask = np.zeros(GRID.shape, np.uint8)
    mask[5, 5, 4] = 1
    asked = []

    class Lazy(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

        def items(self):
            return ((name, self[name]) for name in self)

    masks = Lazy(A=mask, Unseen=np.zeros(GRID.shape, np.uint8))
    figure, axes = _axes([Wash("a", np.zeros(GRID.shape), outlines=masks), Wash("b", mask * 1.0, outlines=masks)])
    assert asked == ["A", "Unseen"]
    corners = {tuple(point) for point in axes[0].patches[0].get_path().vertices.tolist()}
    assert corners == {(5.5, 3.5), (6.5, 3.5), (5.5, 4.5), (6.5, 4.5)}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1 A"]


def test_planes_share_one_scale_in_mm():
    figure, axes = _axes([Wash("a", np.zeros(GRID.shape))])
    figure.canvas.draw()
    sizes = [axis.get_window_extent() for axis in axes]
    per_mm = [(sizes[i].width / w, sizes[i].height / h) for i, (w, h) in enumerate([(24, 20), (24, 24), (20, 24)])]
    assert np.ptp(np.array(per_mm)) / np.mean(per_mm) < 0.01


def test_nothing_known_is_nothing_shown():
    values = np.full(GRID.shape, np.nan)
    _, axes = _axes([Wash("gamma", values, "gamma")], rows_are_planes=False)
    assert not axes[0].images[0].get_array().any()


@pytest.mark.parametrize("name", MANNERS)
def test_manners_span_a_range(name):
    assert MANNERS[name].low < MANNERS[name].high
