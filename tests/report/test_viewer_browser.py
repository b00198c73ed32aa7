"""The viewer in a real browser: it opens from disk, asks for nothing, and shows the values of the files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mtl_med.html import visible
from mtl_med.report.case_page import CaseInputs
from mtl_med.report.viewer import viewer_section
from tests.report.browser import Browser, Page
from tests.report.viewer_case import HOSTILE, HOSTILE_PREDICTION, SHAPE, write_case

PROBE = (Path(__file__).parent / "viewer_probe.js").read_text(encoding="utf-8")
PTV, PTV_COLOUR = (15, 13, 18), [220, 40, 40]  # middle of PTV70, in voxels of the files


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, require_judge: Callable[[str], str]) -> CaseInputs:
    require_judge("ipyniivue")
    return write_case(tmp_path_factory.mktemp("viewer"))


@pytest.fixture(scope="module")
def page(inputs: CaseInputs, browser: Browser, write_page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    section = viewer_section(inputs)
    assert section is not None
    opened = start(browser.open(write_page(section, tmp_path_factory.mktemp("report"))))
    ask(opened, "find", ".viewer-stage", then=".scrollIntoView()")
    yield opened
    opened.close()


def start(page: Page) -> Page:
    """Open the viewer as a reader does."""
    page.run(PROBE)
    assert page.run("probe.find('.viewer-body').hidden")
    page.run("probe.find('.viewer-start').click()")
    page.wait("probe.ended()")
    return page


def ask(page: Page, name: str, *arguments: Any, then: str = "") -> Any:
    """Value of `probe.name(...)`."""
    return page.run(f"probe.{name}({', '.join(map(json.dumps, arguments))}){then}")


def seen(page: Page, place: tuple[int, int, int]) -> list[int]:
    """Voxel of the viewer that is this voxel of the files."""
    index = np.array(page.run("probe.find('.viewer-start').closest('.viewer').viewer.index"))
    return np.rint(np.linalg.inv(index) @ [*place, 1])[:3].astype(int).tolist()


def test_opens_from_disk_and_asks_for_nothing(page: Page, tmp_path: Path) -> None:
    assert ask(page, "status") == ""
    assert (page.left_the_machine, page.errors) == ([], [])
    assert {address.split(":")[0] for address in page.requests} == {"file", "data"}
    page.screenshot(tmp_path / "viewer.png")
    assert (tmp_path / "viewer.png").stat().st_size > 10_000


def test_print_leaves_the_viewer_out_with_its_heading(
    inputs: CaseInputs, browser: Browser, write_page: Callable[..., Path], tmp_path: Path
) -> None:
    section = viewer_section(inputs)
    assert section is not None
    page = browser.open(write_page(section, tmp_path))
    shown = "document.querySelector('.viewer').closest('section').getClientRects().length"
    assert page.run(shown) == 1
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.run(shown) == 0
    page.close()


@pytest.mark.parametrize(("plane", "count"), [("axial", 8), ("coronal", 6), ("sagittal", 6)])
def test_values_under_the_cursor_are_those_of_the_files(page: Page, inputs: CaseInputs, plane: str, count: int) -> None:
    """20 voxels in all, each at the crosshair and under the pointer, against nibabel and NiiVue's own reading."""
    paths = [inputs.case.path("ct"), inputs.case.path("dose"), inputs.predictions[0].folder / "dose.nii.gz"]
    files = [np.asanyarray(nib.load(path).dataobj) for path in paths]
    shape = page.run("document.querySelector('.viewer').viewer.size")
    assert sorted(shape) != sorted(SHAPE)  # the part around dose and structures, not all
    rng = np.random.default_rng(count)
    for _ in range(count):
        voxel = [int(rng.integers(0, size)) for size in shape]
        ask(page, "move", voxel)
        shown = ask(page, "values")
        page.mouse("move", *ask(page, "point", voxel, plane))
        assert page.run("probe.find('.viewer-where').textContent") == "Under the pointer"
        assert ask(page, "values") == shown
        place = tuple(int(number) for number in shown["voxel"].split(", "))
        ct, *doses = (float(array[place]) for array in files)
        told = [float(shown[name].removesuffix(" Gy")) for name in ("planned", "predicted", "difference")]
        assert shown["ct"] == f"{ct:.0f} HU"
        assert told[:2] == pytest.approx(doses, abs=0.005001)
        assert told[2] == pytest.approx(told[1] - told[0], abs=1e-9)
        mm = nib.affines.apply_affine(nib.load(paths[0]).affine, place)
        assert [float(text) for text in shown["position"][:-3].split(",")] == pytest.approx(mm.tolist(), abs=0.051)
        assert ask(page, "read", ["ct", "planned", "predicted"]) == pytest.approx([ct, *told[:2]], abs=1e-5)


def test_outlines_lie_where_the_mask_is(page: Page) -> None:
    """Just inside of the drawn line the pointer is inside of the structure, just outside of it no longer."""
    ask(page, "move", seen(page, PTV))
    ask(page, "outlineOnly", "true outline of PTV70")
    pixels = np.array(ask(page, "drawn", PTV_COLOUR))
    assert len(pixels) > 50
    middle, corner = pixels.mean(axis=0), ask(page, "corner")
    for axis in range(2):
        on_line = pixels[np.abs(pixels[:, 1 - axis] - middle[1 - axis]) < 1]
        for pixel in (on_line[on_line[:, axis].argmin()], on_line[on_line[:, axis].argmax()]):
            outward = np.sign(pixel - middle) * [axis == 0, axis == 1]
            inside = []
            for step in (-4, 4):
                page.mouse("move", *(corner + pixel + step * outward))
                inside.append("PTV70 (true)" in ask(page, "values")["inside"])
            assert inside == [True, False]
    ask(page, "outlineOnly", "predicted outline of SpinalCord")
    assert ask(page, "drawn", PTV_COLOUR) == []


def test_keys_and_controls(page: Page) -> None:
    viewer = "document.querySelector('.viewer').viewer"
    ask(page, "move", [5, 6, 7])
    ask(page, "find", ".viewer-canvas", then=".focus()")
    for key, expected in (("ArrowLeft", [6, 6, 7]), ("ArrowUp", [6, 7, 7]), ("PageDown", [6, 7, 6])):
        page.press(key)
        assert page.run(f"{viewer}.voxel") == expected
    for overlay in ("planned", "difference", "", "predicted"):
        ask(page, "choose", ".viewer-overlay", overlay)
        shown = page.run(f"{viewer}.niivue.volumes.map((volume) => volume.name)")
        assert shown == ["ct.nii", *([f"{overlay}.nii"] if overlay else [])]
    ask(page, "choose", ".viewer-window", "-500 1300")
    assert page.run(f"[{viewer}.images.ct.cal_min, {viewer}.images.ct.cal_max]") == [-500, 1300]
    ask(page, "find", ".viewer-worst", then=".click()")
    largest = page.run(f"{viewer}.volumes.difference.steps.reduce((top, at) => Math.max(top, Math.abs(at)), 0)") / 100
    assert abs(float(ask(page, "values")["difference"].removesuffix(" Gy"))) == largest


def test_hostile_names_are_text(page: Page) -> None:
    cells = page.run(
        "[...document.querySelectorAll('.viewer-structures tbody th')].map((cell) => cell.textContent.trim())"
    )
    assert cells == ["PTV70", "SpinalCord", *(visible(name) for name in HOSTILE), "Heart"]
    assert HOSTILE_PREDICTION in page.run("probe.find('.viewer-about').textContent")
    assert page.run("typeof hacked") == "undefined"
    assert page.run("document.querySelectorAll('.viewer img, .viewer script, .viewer b').length") == 0
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    ask(page, "move", seen(page, (12, 9, 14)))
    assert f"{HOSTILE[1]} (true)" in ask(page, "values")["inside"]


def test_a_single_file_opens_alone(inputs: CaseInputs, browser: Browser, write_page, tmp_path: Path) -> None:
    """Mailed, dark, on a narrow and fine screen; of its two cases one viewer runs at a time."""
    written = write_page(viewer_section(inputs), tmp_path / "report", single=True)
    opened = start(browser.open(written.rename(tmp_path / "mailed.html"), dark=True, width=700, scale=2))
    assert (ask(opened, "status"), opened.left_the_machine, opened.errors) == ("", [], [])
    ask(opened, "find", ".viewer-stage", then=".scrollIntoView()")
    ask(opened, "move", seen(opened, PTV))
    shown = ask(opened, "values")
    opened.mouse("move", *ask(opened, "point", seen(opened, PTV), "coronal"))
    assert ask(opened, "values") == shown
    opened.run("[...document.querySelectorAll('.viewer')].at(-1).querySelector('.viewer-start').click()")
    states = "[...document.querySelectorAll('.viewer')].map((root) => root.dataset.state).join()"
    opened.wait(f"{states} === 'closed,open'")
    assert opened.errors == []
    opened.close()


def test_a_report_without_its_folder_says_so(inputs: CaseInputs, browser: Browser, write_page, tmp_path: Path) -> None:
    written = write_page(viewer_section(inputs), tmp_path)
    (tmp_path / "viewer" / "niivue.js").unlink()
    opened = start(browser.open(written))
    assert "niivue.js is not beside this report" in ask(opened, "status")
    opened.close()
