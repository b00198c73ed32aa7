"""Sheets of photographs: every case stands on one, in its place, with its outline where its mask ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtl_med.files import sha256_bytes
from mtl_med.io.picture import encode_png
from mtl_med.manifest import Case, Manifest
from mtl_med.prep.convert import Quality
from mtl_med.prep.mosaic import NOTED, draw_tile, plan_sheets, small_picture, write_mosaics
from mtl_med.prep.quality_page import quality_page

CYAN = (0, 255, 255)


def make_case(root: Path, number: int, *, size: tuple[int, int] = (150, 200), label: int | None = 0) -> Case:
    """A grey photograph with a box as its mask."""
    folder = root / "cases" / f"c{number:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, dtype=bool)
    mask[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    files = {}
    for key, name, pixels in (
        ("image", "image.png", np.full((*size, 3), 100, dtype=np.uint8)),
        ("structures/Lesion", "mask.png", mask),
    ):
        data = encode_png(pixels)
        (folder / name).write_bytes(data)
        files[key] = {"path": name, "sha256": sha256_bytes(data)}
    labels = {} if label is None else {"diagnosis": label}
    return Case(folder.name, "fit" if number % 3 else "tune", folder, files=files, labels=labels)


def make_study(root: Path, count: int) -> Manifest:
    cases = [make_case(root, number, size=(15, 20), label=number % 2) for number in range(count)]
    return Manifest.build("made", root, cases, {"diagnosis": ("good", "bad/odd")})


def test_every_case_stands_on_one_sheet_of_its_class(tmp_path):
    manifest = make_study(tmp_path, 170)
    notes = {"c005": ["common"], "c007": ["common"], "c009": ["rare", "common"], "c011": []}
    sheets = plan_sheets(manifest, notes)
    assert [(sheet.path, len(sheet.tiles)) for sheet in sheets] == [
        ("mosaics/good_01.jpg", 80),
        ("mosaics/good_02.jpg", 5),
        ("mosaics/bad_odd_01.jpg", 80),
        ("mosaics/bad_odd_02.jpg", 5),
        ("mosaics/findings_01.jpg", 3),
    ]
    shown = [tile.case.id for sheet in sheets if sheet.group != NOTED for tile in sheet.tiles]
    assert sorted(shown) == [case.id for case in manifest]
    assert [tile.case.id for tile in sheets[-1].tiles] == ["c009", "c005", "c007"], "the rarest finding first"


def test_cases_without_label_or_classes_are_shown_too(tmp_path):
    cases = [make_case(tmp_path, 0), make_case(tmp_path, 1, label=None)]
    labelled = Manifest.build("made", tmp_path, cases, {"diagnosis": ("good",)})
    assert [sheet.group for sheet in plan_sheets(labelled, {})] == ["good", "no diagnosis"]
    assert [sheet.group for sheet in plan_sheets(Manifest.build("made", tmp_path, cases), {})] == ["all"]


def test_volumes_have_no_sheets(tiny_study, tmp_path):
    manifest = Manifest.read(tiny_study)
    assert plan_sheets(manifest, {}) == [] == write_mosaics(manifest, {})
    assert not (tiny_study / "mosaics").exists()


@pytest.mark.parametrize("size", [(150, 200), (450, 600), (75, 100)], ids=["as it is", "reduced", "enlarged"])
def test_the_outline_runs_along_the_inner_border_of_the_mask(tmp_path, size):
    picture = draw_tile(make_case(tmp_path, 0, size=size))
    assert picture.size == (200, 150)
    line = (np.asarray(picture) == CYAN).all(axis=2)
    expected = np.zeros((150, 200), dtype=bool)
    expected[50:75, 50:100] = True
    expected[51:74, 51:99] = False
    if size == (150, 200):
        np.testing.assert_array_equal(line, expected)
    rows, columns = np.flatnonzero(line.any(axis=1)), np.flatnonzero(line.any(axis=0))
    assert abs(rows[0] - 50) <= 1 and abs(rows[-1] - 74) <= 1
    assert abs(columns[0] - 50) <= 1 and abs(columns[-1] - 99) <= 1


def test_a_mask_that_fills_the_picture_gets_a_frame_and_an_empty_one_nothing(tmp_path):
    case = make_case(tmp_path, 0)
    for value, pixels in ((True, 2 * 200 + 2 * 148), (False, 0)):
        case.path("structures/Lesion").write_bytes(encode_png(np.full((150, 200), value)))
        assert (np.asarray(draw_tile(case)) == CYAN).all(axis=2).sum() == pixels


def test_sheets_are_drawn_once_and_old_ones_go(tmp_path):
    manifest = make_study(tmp_path, 5)
    sheets = write_mosaics(manifest, {"c001": ["odd"]})
    files = {path.name: path.read_bytes() for path in (tmp_path / "mosaics").iterdir()}
    assert sorted(files) == ["bad_odd_01.jpg", "findings_01.jpg", "good_01.jpg"]
    with Image.open(tmp_path / sheets[0].path) as picture:
        assert picture.width > 10 * 200
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "mosaics").iterdir()}
    assert write_mosaics(manifest, {"c001": ["odd"]}) == sheets
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mosaics").iterdir()} == stamps
    write_mosaics(manifest, {})
    assert {path.name for path in (tmp_path / "mosaics").iterdir()} == {"bad_odd_01.jpg", "good_01.jpg"}
    (tmp_path / "mosaics" / "good_01.jpg").write_bytes(b"broken")
    write_mosaics(manifest, {"c001": ["odd"]}, workers=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "mosaics").iterdir()} == files


def test_a_sheet_that_cannot_be_drawn_is_told_and_left_out(tmp_path, caplog):
    manifest = make_study(tmp_path, 4)
    manifest.cases[1].path("image").write_bytes(b"broken")
    assert [sheet.group for sheet in write_mosaics(manifest, {})] == ["good"]
    assert "mosaics/bad_odd_01.jpg cannot be drawn" in caplog.text


def test_the_page_lists_noted_photographs_and_links_to_all_sheets(tmp_path):
    manifest = make_study(tmp_path, 30)
    notes = {"c004": ("mask_small: Lesion area is 0.1 % (below 0.5 %): too small",)}
    found = {
        case.id: Quality({"Lesion.area_percent": 0.1, "image.width_pixels": 20}, notes.get(case.id, ()), {}, {})
        for case in manifest
    }
    sheets = write_mosaics(manifest, {"c004": ["mask small"]})
    page = quality_page(manifest, found, tmp_path, sheets=sheets)
    assert page.count("<tbody id=") == 1 and 'data-id="c004"' in page and 'data-id="c005"' not in page
    for sheet in sheets:
        assert f'href="{sheet.path}"' in page
    assert "The 29 other cases stand on the sheets" in page and "<b>30</b> cases" in page
    assert "<dt>diagnosis</dt><dd>good</dd>" in page
    assert page.count("data:image/jpeg;base64,") == 1 and small_picture(manifest.cases[4])[:2] == b"\xff\xd8"
