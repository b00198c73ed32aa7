"""The picture of a case: the right place, the right way round, true proportions, and drawn with whatever there is."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtl_med.errors import CaseError, OutputError
from mtl_med.geometry import Grid, reorient
from mtl_med.io.colours import colour
from mtl_med.manifest import Case, Structure
from mtl_med.prep.overlay import draw_overlay, thumbnail, write_overlay
from mtl_med.prep.overlay_sheet import PANEL, PLANES_BOX, Plane, Scale, draw_plane, draw_sheet, wash_rgb

SHAPE, SPACING_MM = (60, 50, 40), (2.0, 3.0, 4.0)
GRID = Grid(SHAPE, np.diag([*SPACING_MM, 1.0]))
Box = tuple[slice, slice, slice]
AXIAL, CORONAL, SAGITTAL = range(3)


def box(x: int, y: int, z: int, size: tuple[int, int, int] = (6, 6, 6)) -> Box:
    """A box of voxels that begins at (x, y, z)."""
    return slice(x, x + size[0]), slice(y, y + size[1]), slice(z, z + size[2])


class Made:
    """A made-up case in memory: a body of water in air, and boxes in it."""

    def __init__(self, boxes: dict[str, Box], **prescriptions_gy: float) -> None:
        self.arrays = {"ct": np.full(SHAPE, -1000, dtype=np.int16)}
        self.arrays["ct"][6:54, 5:45, 0:40] = 0
        for name, place in boxes.items():
            self.arrays[f"structures/{name}"] = np.zeros(SHAPE, dtype=np.uint8)
            self.arrays[f"structures/{name}"][place] = 1
        self.prescriptions_gy = prescriptions_gy
        self.grid = GRID

    def dose(self, place: Box, gy: float = 60.0) -> Made:
        """Give it a dose: 30 % everywhere in the body, `gy` in a box."""
        self.arrays["dose"] = np.where(self.arrays["ct"] > -500, 0.3 * gy, 0).astype(np.float32)
        self.arrays["dose"][place] = gy
        self.arrays["mask_dose"] = (self.arrays["ct"] > -500).astype(np.uint8)
        return self

    @property
    def case(self) -> Case:
        names = [key.removeprefix("structures/") for key in self.arrays if key.startswith("structures/")]
        kinds = {name: "target" if name.startswith("PTV") else "oar" for name in names}
        return Case(
            id="made",
            split="fit",
            folder=Path("nowhere"),
            grid=self.grid,
            files={key: {"path": f"{key}.nii.gz", "sha256": ""} for key in self.arrays},
            structures={name: Structure(name, kinds[name], "contoured", 1.0) for name in names},
            prescriptions_gy=self.prescriptions_gy,
            spacing_mm=self.grid.spacing_mm,
        )

    def draw(self) -> Image.Image:
        return draw_overlay(self.case, self.arrays.__getitem__)


def panels(picture: Image.Image) -> list[np.ndarray]:
    planes = np.asarray(picture.crop(PLANES_BOX)).astype(int)
    step = (planes.shape[1] - PANEL) // 2
    return [planes[:, start : start + PANEL] for start in (0, step, 2 * step)]


def seen(panel: np.ndarray, name: str) -> np.ndarray:
    """Rows and columns of the pixels that have a structure's colour."""
    return np.argwhere(np.abs(panel - np.array(colour(name))).max(axis=-1) < 30)


def test_right_is_on_the_left_front_at_the_top_and_head_at_the_top() -> None:
    # Towards the patient's right, front and head from the middle of the body.
    picture = Made({"Bladder": box(40, 32, 28)}).draw()
    half = PANEL / 2
    for plane, rows_above, columns_left in ((AXIAL, True, True), (CORONAL, True, True), (SAGITTAL, True, True)):
        row, column = seen(panels(picture)[plane], "Bladder").mean(axis=0)
        assert (row < half - 20, column < half - 20) == (rows_above, columns_left)
    mirrored = Made({"Bladder": box(14, 12, 6)}).draw()
    for panel in panels(mirrored):
        assert (seen(panel, "Bladder").mean(axis=0) > half + 20).all()


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
def test_the_picture_does_not_depend_on_the_order_of_the_axes(codes: str) -> None:
    made = Made({"Bladder": box(40, 32, 28), "PTV": box(20, 20, 10)}, PTV=60.0).dose(box(20, 20, 10))
    expected = made.draw()
    made.arrays = {key: reorient(array, GRID, codes)[0] for key, array in made.arrays.items()}
    made.grid = reorient(np.zeros(SHAPE), GRID, codes)[1]
    assert np.array_equal(np.asarray(made.draw()), np.asarray(expected))


def test_proportions_are_true_whatever_the_voxels() -> None:
    # 48 mm by 24 mm by 40 mm: 24, 8 and 10 voxels.
    picture = Made({"Bladder": box(18, 20, 14, (24, 8, 10))}).draw()
    for plane, expected in ((AXIAL, 24 / 48), (CORONAL, 40 / 48), (SAGITTAL, 40 / 24)):
        height, width = np.ptp(seen(panels(picture)[plane], "Bladder"), axis=0)
        assert height / width == pytest.approx(expected, abs=0.04)


def test_planes_cross_in_the_target_of_the_highest_prescription() -> None:
    boxes = {"PTV50": box(10, 10, 4), "PTV70": box(40, 34, 30), "Bladder": box(10, 34, 30)}
    first, second = (Made(boxes, **prescriptions).draw() for prescriptions in ({"PTV70": 70.0}, {"PTV50": 50.0}))
    assert [len(seen(panel, "PTV70")) > 50 for panel in panels(first)] == [True] * 3
    assert [len(seen(panel, "PTV50")) > 50 for panel in panels(first)] == [False] * 3
    assert [len(seen(panel, "PTV50")) > 50 for panel in panels(second)] == [True] * 3


def test_without_targets_planes_cross_in_the_high_dose_and_without_dose_in_most_structures() -> None:
    # Two organs share their place; the third lies elsewhere, where the dose is high.
    boxes = {"Bladder": box(40, 34, 30), "Rectum": box(41, 35, 31), "Larynx": box(10, 10, 4)}
    with_dose = panels(Made(boxes).dose(box(10, 10, 4)).draw())
    without = panels(Made(boxes).draw())
    assert [len(seen(panel, "Larynx")) > 50 for panel in with_dose] == [True] * 3
    assert [len(seen(panel, "Rectum")) > 50 for panel in without] == [True] * 3
    assert [len(seen(panel, "Larynx")) > 50 for panel in without] == [False] * 3


def test_a_structure_outside_the_body_stays_in_the_picture() -> None:
    """A contour in the air is what a wrong frame of reference looks like: cropping must not hide it."""
    picture = Made({"PTV": box(0, 0, 18, (4, 4, 6))}).draw()
    assert len(seen(panels(picture)[AXIAL], "PTV")) > 30


def test_the_wash_shows_the_dose_in_parts_of_the_prescription() -> None:
    place = box(20, 15, 10, (20, 20, 20))
    made = Made({"PTV": place}, PTV=60.0).dose(place)
    middle = panels(made.draw())[AXIAL][PANEL // 2 - 20 : PANEL // 2 + 20, PANEL // 2 - 20 : PANEL // 2 + 20]
    red, green, blue = middle.mean(axis=(0, 1))
    assert red > green + 40 > blue + 40  # 100 % is orange
    made.prescriptions_gy = {"PTV": 120.0}
    red, green, blue = panels(made.draw())[AXIAL][PANEL // 2, PANEL // 2]
    assert green > red + 20  # 50 % is green
    grey = panels(Made({}).draw())[AXIAL][60:-60, 60:-60]
    assert np.ptp(grey, axis=-1).max() == 0


def test_colours_of_the_wash_and_labels_of_its_scale() -> None:
    blue, red = wash_rgb(np.array([0.1, 1.1]))
    assert tuple(blue) == (30, 60, 200) and tuple(red) == (210, 10, 30)
    assert np.array_equal(wash_rgb(np.array([-1.0, 5.0])), [blue, red])
    assert Scale(77.0, 70.0).ticks[0.95] == "66.5 Gy  95%"
    assert Scale(47.0756).ticks == {0.25: "11.8 Gy", 0.5: "23.5 Gy", 0.75: "35.3 Gy", 1.0: "47.1 Gy"}


@pytest.mark.parametrize("missing", ["dose", "ct", "structures", "mask_dose", "dose ct structures"])
def test_drawn_with_whatever_there_is(missing: str) -> None:
    made = Made({"Bladder": box(20, 20, 20), "PTV": box(20, 20, 20)}, PTV=60.0).dose(box(20, 20, 20))
    made.arrays = {key: array for key, array in made.arrays.items() if key.split("/")[0] not in missing.split()}
    picture = made.draw()
    assert picture.size[0] == Made({}).draw().size[0]
    if missing == "dose ct structures":
        return
    assert any(np.ptp(panel.reshape(-1, 3), axis=0).max() > 100 for panel in panels(picture))


def test_values_that_are_no_numbers_are_not_drawn() -> None:
    made = Made({"Bladder": box(20, 20, 20)}).dose(box(20, 20, 20))
    made.arrays["dose"][:, :, :10] = np.nan  # outside the dose grid
    made.arrays["ct"] = made.arrays["ct"].astype(np.float32)
    made.arrays["ct"][:5] = np.nan
    whole = made.draw()
    made.arrays["dose"][...] = np.nan
    assert whole.size == made.draw().size


def test_an_empty_structure_is_named_but_not_drawn() -> None:
    made = Made({"Bladder": box(20, 20, 20)})
    expected = [len(seen(panel, "Bladder")) for panel in panels(made.draw())]
    made.arrays["structures/Larynx"] = np.zeros(SHAPE, dtype=np.uint8)
    drawn = panels(made.draw())
    assert [len(seen(panel, "Bladder")) for panel in drawn] == expected
    assert not any(len(seen(panel, "Larynx")) for panel in drawn)


def test_many_long_names_do_not_break_the_sheet() -> None:
    outlines = {f"{'Structure_' * 6}{index}": np.zeros((4, 4), dtype=bool) for index in range(120)}
    plane = Plane("axial", (4, 4), (1.0, 1.0), (1, 1), outlines=outlines)
    few = draw_sheet([replace(plane, outlines={})] * 3, title="made")
    many = draw_sheet([plane] * 3, title="made")
    assert many.width == few.width and few.height < many.height < few.height + 220


def test_one_voxel_is_a_picture() -> None:
    """The smallest grid, and the longest: a panel stays a square."""
    for shape in ((1, 1), (1, 400), (400, 1)):
        plane = Plane("coronal", shape, (3.0, 1.0), (0, 0), ct=np.zeros(shape), outlines={"PTV": np.ones(shape) > 0})
        assert draw_plane(plane).size == (PANEL, PANEL)


def test_files_of_a_study_give_the_same_bytes_each_time(tiny_study: Path, tmp_path: Path) -> None:
    case = Case.read(tiny_study / "cases" / "p0")
    for name in ("a.png", "b.png"):
        write_overlay(case, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        assert all(len(seen(panel, "PTV70")) > 50 for panel in panels(picture.convert("RGB")))
    small = Image.open(io.BytesIO(thumbnail(tmp_path / "a.png", width=240)))
    assert (small.format, small.width) == ("JPEG", 240) and 70 < small.height < 90


def test_what_cannot_be_drawn_or_written_is_one_sentence(tiny_study: Path, tmp_path: Path) -> None:
    case = Case.read(tiny_study / "cases" / "p0")
    with pytest.raises(CaseError, match="p0: is no volume"):
        draw_overlay(replace(case, grid=None))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        write_overlay(case, tmp_path / "file" / "overlay.png")
    for name in ("file", "missing"):
        with pytest.raises(CaseError, match="no picture"):
            thumbnail(tmp_path / name)
