"""The quality page: the cases to look at come first, nothing is left out, and no name can break it."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mtl_med.manifest import Case, Manifest, Structure
from mtl_med.prep.convert import Quality
from mtl_med.prep.overlay import OVERLAY_FILE, write_overlay
from mtl_med.prep.quality_page import quality_page, write_quality_page
from mtl_med.prep.quality_rows import Finding, finding, number, told_measure
from mtl_med.prep.unusual import MIN_CASES, unusual

NOTES = {
    "p1": ("low_coverage: PTV70 D95 is 63 Gy, 90 % (below 95 %): targets are meant to receive more",),
    "p3": (
        "left_is_right: Parotid_L x is 20 mm (above 0 mm): sides are mixed up",
        "low_coverage: PTV70 D95 is 60 Gy, 86 % (below 95 %): targets are meant to receive more",
        "slices were resampled to 2.5 mm",
    ),
}
ACCOUNT = {"found": ["40 CT images", "1 RTSTRUCT"], "skipped": ["1 POINT contour of Isocentre: not an area"]}
ODD_NAMES = (
    "<script>document.title='broken'</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe",
    "half\ud800",
    "nul\x00\x1b[31m",
    "Ω≈ç√ 靶区 هدف",
    "L" * 300,
    "</style></table><!--",
    "javascript:alert(1)",
)


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.script = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.words.append(data)
        elif self.inside[-1] == "script":
            self.script += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str | None]:
        return [row["data-id"] for row in self.all("tbody") if "data-id" in row]


def qualities(manifest: Manifest, notes: dict[str, tuple[str, ...]] = NOTES) -> dict[str, Quality]:
    """Made-up qualities of the tiny study's cases."""
    return {
        case.id: Quality(
            {"dose.max_gy": 71.5, "PTV70.volume_cc": 30.0, "PTV70.D95_percent": 98.2, "ct.metal_voxels": 1234},
            notes.get(case.id, ()),
            ACCOUNT if case.id == "p0" else {},
            {"Lt. Thing": "Lt_Thing"} if case.id in ("p0", "p1") else {},
        )
        for case in manifest
    }


@pytest.fixture(scope="module")
def study(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study with volumes, and pictures of two of its cases."""
    folder = tmp_path_factory.mktemp("quality") / "study"
    shutil.copytree(tiny_study, folder)
    for place, case in enumerate(Manifest.read(folder)):
        volumes = {name: 10.0 + place if item.status == "contoured" else None for name, item in case.structures.items()}
        structures = {name: replace(item, volume_cc=volumes[name]) for name, item in case.structures.items()}
        replace(case, structures=structures).write()
    for name in ("p0", "p3"):
        case = Case.read(folder / "cases" / name)
        write_overlay(case, case.folder / OVERLAY_FILE)
    return folder


@pytest.fixture(scope="module")
def page(study: Path) -> Page:
    manifest = Manifest.read(study)
    write_quality_page(manifest, qualities(manifest), study / "quality.html", failed={"p9": "p9: holds no CT."})
    return Page((study / "quality.html").read_text(encoding="utf-8"))


def test_cases_with_most_findings_come_first(page: Page) -> None:
    assert page.ids == ["p3", "p1", "p0", "p2", "p4", "p5"]


def test_counts_and_kinds_stand_at_the_top(page: Page) -> None:
    top = page.text[: page.text.index("Cases Find")]
    for words in ("6 cases", "1 not converted", "2 with findings", "4 with nothing to note", "p9: holds no CT."):
        assert words in top
    assert "2 cases low coverage" in top and "1 case left is right" in top
    assert top.index("low coverage") < top.index("left is right")
    assert "targets are meant to receive more" in top
    assert "Lt. Thing 2 cases" in top


def test_what_is_known_about_a_case_is_told(page: Page) -> None:
    for words in (
        *("40 CT images", "1 POINT contour of Isocentre: not an area", "slices were resampled to 2.5 mm"),
        *("PTV70 D95 is 60 Gy, 86 % (below 95 %)", "ct metal 1,234 voxels", "D95 98.2 %", "70 Gy"),
        *("PTV70 target 6 of 6 12.5 10 p0 p1 p2 p3 p4 p5 15", "Parotid_L 5 of 6 13 10 p0 p2 p3 p4 p5 15"),
        *("40 x 36 x 32", "3 x 3 x 2.5 mm", "71.5 Gy", "validation", "not contoured"),
    ):
        assert words in page.text


def test_nothing_is_fetched_and_only_its_own_script_may_run(page: Page, study: Path) -> None:
    addresses = [value or "" for _, item in page.elements for key, value in item.items() if key in ("src", "href")]
    assert {address[:5] for address in addresses} == {"data:", "#case", "cases"}
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "object", "embed", "base", "audio")]
    assert "@import" not in (study / "quality.html").read_text() and "url(" not in (study / "quality.html").read_text()
    (policy,) = [item["content"] for item in page.all("meta") if item.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in (policy or "") and "default-src 'none'" in (policy or "")
    assert len(page.all("script")) == 1


def test_pictures_are_in_the_page_and_link_to_the_large_ones(page: Page, study: Path) -> None:
    pictures = [item["src"] or "" for item in page.all("img")]
    assert len(pictures) == 2
    for address in pictures:
        assert base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))[:3] == b"\xff\xd8\xff"
    links = [item["href"] or "" for item in page.all("a") if (item["href"] or "").startswith("cases/")]
    assert links == ["cases/p3/overlay.png", "cases/p0/overlay.png"]
    assert all((study / link).is_file() for link in links)
    assert page.text.count("no picture") == 4


def test_a_damaged_picture_is_left_out(study: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "study/cases/p0" / OVERLAY_FILE).write_bytes(b"\x89PNG\r\n\x1a\n")
    manifest = Manifest.read(tmp_path / "study")
    text = quality_page(manifest, qualities(manifest), tmp_path / "study")
    assert len(Page(text).all("img")) == 1 and "is no picture" in caplog.text


def test_equal_arguments_give_equal_bytes(page: Page, study: Path) -> None:
    manifest = Manifest.read(study)
    again = quality_page(manifest, qualities(manifest), study, failed={"p9": "p9: holds no CT."})
    assert again.encode() == (study / "quality.html").read_bytes()


def page_of(name: str, study: Path, folder: Path) -> Page:
    """A page on which everything that a user or a file can name has one name."""
    manifest = Manifest.read(study)
    first, *others = manifest
    case = replace(first, id=name, structures={name: Structure(name, "oar", "contoured", 3.0)}, split=name)
    manifest = Manifest(name, manifest.root, (case, *others))
    notes = (f"{name}: found", f"found: {name}: {name}")
    found = qualities(manifest) | {name: Quality({f"{name}.D95_percent": 3.0}, notes, {name: [name]}, {name: name})}
    write_quality_page(manifest, found, folder / "quality.html", failed={name: name})
    return Page((folder / "quality.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of("Plain", study, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", ODD_NAMES, ids=[ascii(name)[:30] for name in ODD_NAMES])
def test_no_name_breaks_the_page(study: Path, tmp_path: Path, plain: Page, name: str) -> None:
    page = page_of(name, study, tmp_path)
    assert page.script == plain.script
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [list(item) for _, item in page.elements] == [list(item) for _, item in plain.elements]
    visible = "".join(c if c.isprintable() else "\ufffd" for c in name)
    assert page.text.count(visible) == plain.text.count("Plain") > 8 and visible in page.ids
    assert not any(c in page.text for c in "\x00\x1b\u202e")


@pytest.mark.parametrize("failed", [{}, {"a": "a: is empty.", "b": "b: holds no CT."}], ids=["nothing", "all failed"])
def test_a_study_without_cases_has_a_page(tmp_path: Path, failed: dict[str, str]) -> None:
    page = Page(quality_page(Manifest("none", tmp_path, ()), {}, tmp_path, failed=failed))
    assert "0 cases" in page.text and all(reason in page.text for reason in failed.values())


def test_cases_without_volumes_have_rows(tmp_path: Path) -> None:
    """2D images have neither grid nor structures."""
    case = Case(id="image", split="fit", folder=tmp_path / "image", labels={"diagnosis": 2.0})
    page = Page(quality_page(Manifest("skin", tmp_path, (case,)), {"image": Quality({}, (), {}, {})}, tmp_path))
    assert page.ids == ["image"] and "diagnosis 2" in page.text


def test_what_is_unusual_in_a_study_is_told_and_comes_before_the_rest(study: Path, tmp_path: Path) -> None:
    case = Manifest.read(study).cases[0]
    cases = tuple(replace(case, id=f"c{index:02}") for index in range(MIN_CASES))
    measures = {item.id: {"Rectum.volume_cc": 60.0 + index} for index, item in enumerate(cases)}
    measures["c07"] = {"Rectum.volume_cc": 600.0}
    found = {name: Quality(values, (), {}, {}) for name, values in measures.items()}
    page = Page(quality_page(Manifest("made", tmp_path, cases), found, tmp_path))
    assert page.ids[0] == "c07" and page.ids[1:] == [name for name in sorted(measures) if name != "c07"]
    assert "Rectum volume 600 cc; median of this study 65" in page.text
    assert "1 without, but unusual" in page.text


def test_unusual_compares_with_the_other_cases() -> None:
    same = {f"c{index}": {"spacing.z_mm": 2.5, "Rectum.x_mm": 0.0} for index in range(MIN_CASES)}
    assert unusual(same) == {name: {} for name in same}
    odd = unusual(same | {"c0": {"spacing.z_mm": 3.0, "Rectum.x_mm": 90.0}})
    assert odd["c0"] == {"spacing.z_mm": 2.5} and not any(odd[name] for name in odd if name != "c0")
    few = dict(list(same.items())[: MIN_CASES - 2]) | {"c0": {"spacing.z_mm": 30.0}}
    assert not any(unusual(few).values())
    volumes = {f"c{index}": {"PTV.volume_cc": 100.0 * 1.1**index} for index in range(20)}
    assert not any(unusual(volumes).values())
    assert unusual(volumes | {"x": {"PTV.volume_cc": 1e6}, "y": {"PTV.volume_cc": 0.0}})["x"]["PTV.volume_cc"] > 200
    assert unusual({"a": {"PTV.volume_cc": None}}) == {"a": {}}


def test_notes_and_numbers_are_read_as_people_write_them() -> None:
    assert finding("hot_dose: PTV D2 is 9 Gy: too much: more") == Finding(
        "hot_dose", "PTV D2 is 9 Gy", "too much: more"
    )
    assert finding("Two plans: one was taken") == Finding("", "Two plans: one was taken")
    assert finding("case_7: a: B") == Finding("case_7", "a", "B")
    assert [number(value) for value in (0.5, 12.3456, 1234.5, 7, 12345)] == ["0.5", "12.35", "1,234", "7", "12,345"]
    assert told_measure("PTV70.D95_percent", 98.21) == "PTV70 D95 98.21 %"
    assert told_measure("Brainstem.above_SpinalCord_mm", -3.0, whose=False) == "above SpinalCord -3 mm"
    assert told_measure("targets.count", 3) == "targets count 3" and told_measure("a.b_cc", None) == ""


def test_a_browser_runs_the_page_s_script_and_no_other(
    study: Path, tmp_path: Path, require_judge: Callable[[str], str]
) -> None:
    browser = require_judge("chromium")
    manifest = Manifest.read(study)
    found = qualities(manifest, NOTES | {"p2": tuple(ODD_NAMES[:3])})
    write_quality_page(manifest, found, study / "odd.html", failed=dict.fromkeys(ODD_NAMES[:3], ODD_NAMES[0]))
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={tmp_path}", "--virtual-time-budget=2000", "--dump-dom", (study / "odd.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    drawn = Page(done.stdout)
    assert "6 of 6 cases" in drawn.text, done.stderr[-2000:]
    assert "broken" not in done.stdout.split("</title>")[0]
