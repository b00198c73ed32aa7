"""Names from files and headers are text in a report, whatever they hold; a must-fail twin shows that it is seen."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mtl_med.report import build_report
from mtl_med.report.case_page import Options, Part
from mtl_med.report.kinds import REPORTS
from tests.report.cohort_study import PageParser, parse, write_cohort, write_predictions

IDS = (
    "<script>document.title='broken'<",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}$\\frac$",
    "L" * 200,
)
NAMES = {"SpinalCord": "<b onmouseover='alert(1)'>cord</b>", "PTV70": "靶区 \u202egnp.exe $x$", "Parotid_L": "p" * 300}
NOTE = "</style></table><!-- <svg onload=alert(1)> \x00 javascript:alert(1)"
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "p", "b", "main", "article", "header", "nav", "a", "h1", "h2"),
    *("dl", "div", "dt", "dd", "span", "ul", "li", "section", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("small", "figure", "img", "figcaption", "details", "summary", "footer", "script"),
}


def harm(page: PageParser) -> list[str]:
    """What a name has brought into a page, if anything."""
    found = [f"element {tag}" for tag, _ in page.elements if tag not in ELEMENTS]
    for tag, attributes in page.elements:
        found += [f"{tag} {name}" for name in attributes if name.startswith("on")]
        found += [f"{tag} {name}={value}" for name, value in attributes.items() if "javascript:" in (value or "")
                  and name in ("href", "src")]  # fmt: skip
    found += [f"image {row.get('src')}" for row in page.all("img") if not (row.get("src") or "").startswith("data:")]
    found += [f"script {text[:40]}" for text in page.scripts if not text.startswith('"use strict";')]
    return found + [f"seen {sign!r}" for sign in ("\u202e", "\x00") if sign in page.text]


@pytest.fixture(scope="module", params=["folder", "single file"])
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[PageParser]:
    folder = tmp_path_factory.mktemp("hostile")
    study = write_cohort(folder, IDS, NAMES, dataset=f"<i>{NOTE}", notes=(NOTE,))
    settings = {"method": "<script>alert(1)</script>", "weighting": "$\\bad{"}
    predictions = write_predictions(folder / "<svg onload=1>", IDS, NAMES, settings=settings)
    training = folder / "<svg onload=1>" / "training.csv"
    training.write_text(training.read_text().replace("loss/oar", "loss/<img src=x>"))
    record = json.loads((predictions / "run.json").read_text())
    (predictions / "run.json").write_text(json.dumps(record | {"command": [NOTE, "<script>"]}))
    options = Options(viewer=False, single_file=request.param == "single file")
    report = build_report(study, [predictions], folder / "out", options, limit=2 if request.param == "folder" else 1)
    assert not report.failed
    return [parse(path) for path in sorted((folder / "out").rglob("*.html"))]


def test_nothing_of_a_name_becomes_more_than_text(hostile: list[PageParser]) -> None:
    assert [fault for page in hostile for fault in harm(page)] == []


def test_the_names_are_shown(hostile: list[PageParser]) -> None:
    text = " ".join(page.text for page in hostile)
    for name in (*IDS, NAMES["SpinalCord"], NAMES["Parotid_L"], "靶区 \N{REPLACEMENT CHARACTER}gnp.exe"):
        assert " ".join(name.split()) in text, name


def test_links_lead_to_pages_with_safe_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that become one name, or one name on a disk that ignores case, have a page each."""
    for kind in ("regression", "segmentation"):
        quiet = replace(REPORTS[kind], prepare=None, case=lambda _: Part(), cohort=lambda _: [])
        monkeypatch.setitem(REPORTS, kind, quiet)
    ids = ("P 1", "P_1", "p_1", "../q".replace("/", "_"))
    study = write_cohort(tmp_path, ids)
    build_report(study, [write_predictions(tmp_path / "it", ids)], tmp_path / "out", Options(viewer=False))
    names = sorted(path.name for path in (tmp_path / "out" / "cases").iterdir())
    assert len({name.lower() for name in names}) == 4 and all(re.fullmatch(r"[\w.-]+", name) for name in names)
    shown = {row["href"] for row in parse(tmp_path / "out" / "index.html").all("a")}
    assert {f"cases/{name}" for name in names} <= shown


def test_harm_is_seen() -> None:
    page = PageParser(f"<p>{IDS[0]}/script>{IDS[1]}{NAMES['SpinalCord']}<a href='javascript:1'>\u202e")
    assert len(harm(page)) >= 5
