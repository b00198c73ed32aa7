"""What goes into a page for the viewer: exact values, the right voxels, no more than needed, and nothing that runs."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from mtl_med.errors import CaseError, UsageError
from mtl_med.geometry import Grid, picture_grid
from mtl_med.io.nifti import write_nifti
from mtl_med.io.results import write_picture_prediction, write_prediction
from mtl_med.manifest import Case, Structure
from mtl_med.report import niivue
from mtl_med.report.case_page import CaseInputs, CasePrediction, Markup, Options, Text
from mtl_med.report.niivue import Library, as_script, find_library
from mtl_med.report.viewer import viewer_section
from mtl_med.report.viewer_volumes import MISSING, Contents, Outlined, encode, excerpt
from tests.report.viewer_case import AFFINE, HOSTILE, SHAPE, ball, write_case

LIBRARY = Library("globalThis.niivueLibrary=()=>({});", "0.0", "a stand-in 0.0")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for NiiVue where only the page around it matters."""
    monkeypatch.setattr("mtl_med.report.viewer.find_library", lambda: LIBRARY)


def decoded(item: dict[str, Any], shape: list[int]) -> np.ndarray:
    data = gzip.decompress(base64.b64decode(item["data"]))
    return np.frombuffer(data, "<i2", offset=352).reshape(shape, order="F") * item["step"]


@pytest.mark.parametrize("most_voxels", [10**6, 700])
def test_every_voxel_has_the_value_of_its_place_in_the_files(most_voxels: int) -> None:
    rng = np.random.default_rng(0)
    dose = np.where(ball((15, 13, 18), 8), rng.uniform(0.1, 80, SHAPE), 0).astype(np.float32)
    ct = rng.integers(-1000, 3000, SHAPE).astype(np.int16)
    mask = ball((14, 12, 20), 4)
    contents = Contents(Grid(SHAPE, AFFINE), ct, {"planned": dose}, (Outlined("Heart", "oar", None, mask),))
    part = excerpt(contents, most_voxels)
    fields = json.loads(json.dumps(encode(contents, part)))
    shape = fields["shape"]
    assert np.prod(shape) <= most_voxels
    assert (part.step == (1, 1, 1)) == (most_voxels == 10**6)
    assert part.grid.axis_codes == "RAS"
    voxels = np.indices(shape).reshape(3, -1).T
    index = np.array(fields["index"])
    places = voxels @ index[:3, :3].T + index[:3, 3]
    assert np.allclose(part.grid.points_ras(voxels), Grid(SHAPE, AFFINE).points_ras(places))
    at = tuple(places.T)
    assert np.array_equal(decoded(fields["ct"], shape)[tuple(voxels.T)], ct[at])
    assert np.abs(decoded(fields["doses"]["planned"], shape)[tuple(voxels.T)] - dose[at]).max() <= 0.005001
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(fields["masks"])), "u1"), bitorder="little")
    assert np.array_equal(bits[: len(voxels)].reshape(shape, order="F")[tuple(voxels.T)], mask[at])
    assert fields["structures"][0]["true"] is None


def test_the_excerpt_holds_all_dose_and_structures_with_a_margin() -> None:
    dose = np.zeros(SHAPE, np.float32)
    dose[10:12, 20, 5] = 1.0
    contents = Contents(Grid(SHAPE, AFFINE), np.zeros(SHAPE, np.int16), {"planned": dose})
    assert excerpt(contents).grid.shape == (1 + 10, 1 + 10, 2 + 10)  # axes are turned: right, front, head
    empty = Contents(Grid(SHAPE, AFFINE), np.zeros(SHAPE, np.int16))
    assert sorted(excerpt(empty).grid.shape) == sorted(SHAPE)


@pytest.mark.parametrize(
    ("top", "step", "decimals"), [(327.6, 0.01, 2), (327.7, 0.1, 1), (3276.0, 0.1, 1), (30000.0, 1.0, 0)]
)
def test_the_step_of_a_dose(top: float, step: float, decimals: int) -> None:
    contents = Contents(Grid((2, 2, 2), np.eye(4)), np.zeros((2, 2, 2)), {"planned": np.full((2, 2, 2), top)})
    found = encode(contents, excerpt(contents))["doses"]["planned"]
    assert (found["step"], found["decimals"]) == (step, decimals)
    assert decoded(found, [2, 2, 2]) == pytest.approx(top, abs=step / 2 + 1e-6)


def test_a_dose_beyond_all_steps_is_refused() -> None:
    contents = Contents(Grid((2, 2, 2), np.eye(4)), np.zeros((2, 2, 2)), {"planned": np.full((2, 2, 2), 1e6)})
    with pytest.raises(CaseError, match=r"a dose of 1e\+06 Gy"):
        encode(contents, excerpt(contents))


def test_what_is_no_number_is_told_and_never_a_value(tmp_path: Path, library: None) -> None:
    inputs = write_case(tmp_path)
    dose = np.full(SHAPE, 5.0, np.float32)
    dose[3, 4, 5:8] = [np.nan, np.inf, 6.0]
    write_nifti(inputs.case.path("dose"), dose, Grid(SHAPE, AFFINE))
    section = viewer_section(inputs)
    assert "In 2 voxels the planned dose is no number" in section.blocks[0].html
    fields = json.loads(section.scripts[-1].text)
    values = decoded(fields["doses"]["planned"], fields["shape"])
    assert np.count_nonzero(values == MISSING * 0.01) == 2
    assert fields["missing"] == MISSING


def test_hostile_names_cannot_leave_their_place(tmp_path: Path, library: None) -> None:
    section = viewer_section(write_case(tmp_path))
    (block,), data = section.blocks, section.scripts[-1]
    assert isinstance(block, Markup)
    for name in HOSTILE[:3]:
        assert name not in block.html
        assert name not in data.text
    assert not set("<>&") & set(data.text)
    assert [item["name"] for item in json.loads(data.text)["structures"]][2] == HOSTILE[0]
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in block.html + json.loads(data.text)["structures"][5]["name"]
    assert data.kind == "application/json"


def test_what_does_not_fit_is_a_gap_and_the_rest_is_shown(tmp_path: Path, library: None) -> None:
    inputs = write_case(tmp_path, ())
    other = Grid((8, 8, 8), np.eye(4))
    write_prediction(
        tmp_path / "predictions", "p1", other, dose_gy=np.ones((8, 8, 8)), structures={"Heart": np.ones((8, 8, 8))}
    )
    inputs.case.path("structures/SpinalCord").unlink()
    section = viewer_section(inputs)
    html = section.blocks[0].html
    for part in ("The predicted dose", "The predicted structures", "Structure SpinalCord"):
        assert f"{part} is not shown: " in html
    fields = json.loads(section.scripts[-1].text)
    assert (list(fields["doses"]), [item["name"] for item in fields["structures"]]) == (["planned"], ["PTV70"])


def test_without_the_package_the_page_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_library.cache_clear()
    find = importlib.util.find_spec
    monkeypatch.setattr(niivue.importlib.util, "find_spec", lambda name: None if name == "ipyniivue" else find(name))
    section = viewer_section(write_case(tmp_path, ()))
    (block,) = section.blocks
    assert isinstance(block, Text)
    assert "needs ipyniivue, which is not installed. pip install 'mtl_med[report]'" in block.text
    assert section.scripts == ()


def test_no_viewer_where_none_is_wanted(tmp_path: Path) -> None:
    inputs = write_case(tmp_path, ())
    assert viewer_section(CaseInputs(inputs.case, inputs.predictions, Options(viewer=False))) is None


def widget(module: str) -> str:
    """A script with a copy of a library inside, as ipyniivue's is."""
    return f'var a=1,b="{quote(module + " " * 10, safe=FREE)}";export{{a as default}};'


FREE = "!~*'()-_."
MODULE = "/*" + "x" * 500_000 + '*/var version={version:"1.2.3"},Niivue=1,NVImage=2,S=3,SHOW_RENDER=4,DRAG_MODE=5;'
NAMES = "export{Niivue,NVImage,S as SLICE_TYPE,SHOW_RENDER,DRAG_MODE};"


def test_a_library_becomes_a_script_with_its_public_names() -> None:
    script, version = as_script(widget(MODULE + NAMES), "Copyright somebody")
    assert version == "1.2.3"
    assert script.startswith("/*! NiiVue 1.2.3\nCopyright somebody\n*/\nglobalThis.niivueLibrary=()=>{/*xx")
    assert script.endswith(
        "return{Niivue:Niivue,NVImage:NVImage,SLICE_TYPE:S,SHOW_RENDER:SHOW_RENDER,DRAG_MODE:DRAG_MODE}};\n"
    )
    assert "export" not in script


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("export{a as default};", "no copy of the library"),
        (widget(MODULE), "no copy of the library"),
        (widget(MODULE + NAMES.replace("Niivue,", "")), "has no Niivue"),
        (widget(MODULE + "var t='</SCRIPT>';" + NAMES), "cannot stand in a page"),
        (widget(MODULE + "var t='<!--';" + NAMES), "cannot stand in a page"),
    ],
    ids=["nothing", "no-exports", "other-names", "ends-script", "comment"],
)
def test_a_package_of_another_make_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        as_script(text)


def test_an_unusable_package_is_an_error_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_library.cache_clear()
    (tmp_path / "ipyniivue" / "static").mkdir(parents=True)
    (tmp_path / "ipyniivue" / "__init__.py").touch()
    (tmp_path / "ipyniivue" / "static" / "widget.js").write_text("export{a as default};")
    (tmp_path / "ipyniivue-9.9.9.dist-info").mkdir()
    (tmp_path / "ipyniivue-9.9.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ipyniivue\nVersion: 9.9.9\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"ipyniivue 9\.9\.9 holds no NiiVue that a page can use .*constraints\.txt"):
        find_library()
    find_library.cache_clear()


def test_the_installed_library_has_its_licence(require_judge) -> None:
    require_judge("ipyniivue")
    find_library.cache_clear()
    found = find_library()
    assert "BSD 2-Clause License" in found.script[:400]
    assert found.version and found.package.startswith("ipyniivue ")
    find_library.cache_clear()


def picture_case(folder: Path) -> CaseInputs:
    rng = np.random.default_rng(1)
    case_folder = folder / "study" / "cases" / "i1"
    case_folder.mkdir(parents=True)
    rows, columns = np.indices((90, 120))
    true = (rows - 45) ** 2 + (columns - 60) ** 2 < 30**2
    Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(case_folder / "image.png")
    Image.fromarray(true).save(case_folder / "mask.png")
    files = {"image": {"path": "image.png"}, f"structures/{HOSTILE[0]}": {"path": "mask.png"}}
    case = Case("i1", "test", case_folder, files=files, structures={HOSTILE[0]: Structure("x", "other", "contoured")})
    write_picture_prediction(folder / "predictions", "i1", {"Lesion": np.roll(true, 6, axis=1)})
    prediction = folder / "predictions" / "i1"
    write_nifti(
        prediction / "explain" / "attention_lesion_stage2.nii.gz",
        rng.random((120, 90, 1), np.float32),
        picture_grid(120, 90),
    )
    return CaseInputs(case, (CasePrediction("ctan", prediction, ()),))


def test_a_photograph_has_its_layers(tmp_path: Path) -> None:
    section = viewer_section(picture_case(tmp_path))
    html = section.blocks[0].html
    assert html.count('<img class="viewer-layer"') == 3
    for name in (
        "&lt;script&gt;hacked=1&lt;/script&gt;, true outline",
        "Lesion, predicted outline",
        "attention lesion stage2",
    ):
        assert f'alt="{name}"' in html
    assert HOSTILE[0] not in html
    assert [script.name for script in section.scripts] == ["pictures.js"]


def test_a_mask_of_another_size_is_a_gap(tmp_path: Path) -> None:
    inputs = picture_case(tmp_path)
    write_picture_prediction(tmp_path / "predictions", "i1", {"Lesion": np.ones((9, 12), bool)})
    html = viewer_section(inputs).blocks[0].html
    assert "The predicted structures are not shown: the mask has 12 x 9 pixels, the image 120 x 90" in html


def test_layers_turn_on_and_off_in_a_browser(browser, write_page, tmp_path: Path) -> None:
    page = browser.open(write_page(viewer_section(picture_case(tmp_path)), tmp_path / "report"))
    shown = "[...document.querySelectorAll('.viewer-layer')].map((layer) => layer.getClientRects().length)"
    assert page.run(shown) == [1, 1, 0]
    page.run("document.querySelectorAll('.viewer-show').forEach((box) => box.click())")
    assert page.run(shown) == [0, 0, 1]
    page.run("globalThis.slider = document.querySelector('.viewer-strength'); slider.value = 40")
    page.run("slider.dispatchEvent(new Event('input'))")
    assert page.run("getComputedStyle(document.querySelectorAll('.viewer-layer')[2]).opacity") == "0.4"
    assert page.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert (page.left_the_machine, page.errors, page.run("typeof hacked")) == ([], [], "undefined")
    page.screenshot(tmp_path / "picture.png")
    page.close()
