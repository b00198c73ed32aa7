"""The report as a whole: what stands where, in which order, and that a page needs nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mtl_med import cli
from mtl_med.errors import CaseError, NothingFoundError, OutputError, UsageError
from mtl_med.evaluation import evaluate
from mtl_med.metrics.summary import overall
from mtl_med.report import build_report
from mtl_med.report.build import _Scripts
from mtl_med.report.case_page import CaseInputs, Options, Part, Script, Section, Table
from mtl_med.report.kinds import REPORTS
from mtl_med.report.sources import read_inputs
from tests.report.cohort_study import IDS, PageParser, parse, write_cohort, write_predictions

WORST_FIRST = ["a2", "a3", "a1", "a4"]
QUICK = Options(viewer=False)


DOT = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


def table_alone(inputs: CaseInputs) -> Part:
    """A page of a dose without its pictures, which have tests of their own and take seconds."""
    return Part((Section("dose", "Dose", (Table("Doses.", ("structure", "Gy"), (("PTV70", "66"),)),)),))


@pytest.fixture(scope="module", autouse=True)
def quick_cases() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REPORTS, "regression", replace(REPORTS["regression"], prepare=None, case=table_alone))
        yield


@pytest.fixture
def quick_figures(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at figures."""
    for place in ("dose_cohort.box_plot", "dose_cohort.scatter_plot", "segmentation_cohort.box_plot"):
        monkeypatch.setattr(f"mtl_med.report.{place}", lambda *args, **options: DOT)
    monkeypatch.setattr("mtl_med.report.cohort.training_curves", lambda *args: DOT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two folders of predictions, and what it is made of."""
    folder = tmp_path_factory.mktemp("report")
    study = write_cohort(folder, notes=("metal: 12 voxels",))
    first, second = write_predictions(folder / "good"), write_predictions(folder / "better", factor=0.5)
    build_report(study, [first, second], folder / "out", QUICK)
    return folder


@pytest.fixture(scope="module")
def index(made: Path) -> PageParser:
    return parse(made / "out" / "index.html")


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def test_cases_are_listed_worst_first_and_linked(made: Path, index: PageParser) -> None:
    linked = [row["href"] for row in index.all("a") if (row["href"] or "").startswith("cases/")]
    assert linked[:4] == [f"cases/{case}.html" for case in WORST_FIRST]
    for address in linked:
        assert (made / "out" / (address or "")).is_file()


def test_the_first_thing_shown_are_the_scores_over_all_cases(made: Path, index: PageParser) -> None:
    scores = overall(evaluate(made / "study", made / "good" / "predictions").rows)
    assert scores["dose_score"] == pytest.approx((1 + 4 + 2 + 0.5) / 4, abs=1e-3)
    top = index.text[: index.text.index("Cases, worst first")]
    assert f"{scores['dose_score']:.2f} Gy dose score [" in top
    assert f"{scores['dvh_score']:.2f} Gy DVH score [" in top
    assert "4 cases scored" in top and "1 contoured outlines for which nothing was predicted" in top


def test_predictions_stand_side_by_side_with_paired_differences(index: PageParser) -> None:
    """Half the errors: the dose score halves, and an interval over patients that all gain leaves out zero."""
    assert "better \N{MINUS SIGN} good" in index.text
    assert "dose score, Gy good: \N{MINUS SIGN}0.94 [" in index.text.replace("✓ ", "").replace("✓", "")


def test_missing_and_not_contoured_are_counted(index: PageParser) -> None:
    counts = index.text[index.text.index("Of the 4 predicted cases.") :]
    row = counts[counts.index("Parotid_L oar") :]
    assert row.startswith("Parotid_L oar 2 warning: 1 1 a2") or row.startswith("Parotid_L oar 2 ! warning: 1 1 a2")


def test_where_all_comes_from_is_told(made: Path, index: PageParser) -> None:
    told = index.text[index.text.index("Study what value") :]
    record = json.loads((made / "study" / "manifest.json").read_text())
    for words in (
        record["fingerprint"],
        "f" * 64,
        "seed 7",
        "ct+ptv",
        "torch 9.9",
        "predict it",
        "3 epochs",
        "made-up",
    ):
        assert words in told, words


def test_training_curves_are_shown_with_their_figures_in_words(index: PageParser) -> None:
    alt = [row["alt"] or "" for row in index.all("img")]
    told = next(text for text in alt if text.startswith("Training curves of good"))
    assert "loss of oar from 2 to 0.5" in told and "weight of dose between 1 and 1.1" in told


def test_a_case_tells_its_rank_its_facts_and_what_to_look_at(made: Path) -> None:
    page = parse(made / "out" / "cases" / "a1.html")
    top = page.text[: page.text.index("All scores")]
    for words in ("Case 3 of 4", "PTV70 70 Gy", "No SpinalCord was predicted, although contoured.", "metal: 12 voxels"):
        assert words in top, words
    assert [row["href"] for row in page.all("a")[:3]] == ["../index.html", "../cases/a3.html", "../cases/a4.html"]


def test_every_page_is_whole_accessible_and_says_that_it_is_no_medical_device(made: Path) -> None:
    assert len(pages(made / "out")) == 1 + len(IDS)
    for path in pages(made / "out"):
        page = parse(path)
        assert page.all("html")[0]["lang"] == "en"
        assert page.text.count("Research use only, not a medical device") >= 2
        assert all(row.get("alt") for row in page.all("img"))
        assert all(row.get("scope") in ("col", "row") for row in page.all("th"))
        assert len(page.all("caption")) == len(page.all("table"))
        anchors = [row["id"] for _, row in page.elements if "id" in row]
        assert len(anchors) == len(set(anchors))
        assert all((row["href"] or "")[1:] in anchors for row in page.all("a") if (row["href"] or "").startswith("#"))


def test_no_page_loads_anything_or_runs_what_is_not_its_own(made: Path) -> None:
    for path in pages(made / "out"):
        page = parse(path)
        policy = next(row["content"] or "" for row in page.all("meta") if "http-equiv" in row)
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert "unsafe-eval" not in policy and "http" not in policy and "*" not in policy
        for script in page.scripts:
            assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
        assert all((row["src"] or "").startswith("data:image/") for row in page.all("img"))
        assert not page.all("link") and not page.all("iframe") and not page.all("object")


def test_the_same_again_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "before")
    build_report(made / "study", [made / name / "predictions" for name in ("good", "better")], made / "out", QUICK)
    for path in pages(tmp_path / "before"):
        assert path.read_bytes() == (made / "out" / path.relative_to(tmp_path / "before")).read_bytes()


@pytest.mark.usefixtures("quick_figures")
def test_a_single_file_holds_everything(made: Path, tmp_path: Path) -> None:
    options = Options(viewer=False, single_file=True)
    report = build_report(made / "study", [made / "good" / "predictions"], tmp_path / "one", options)
    assert report.path == tmp_path / "one" / "report.html"
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["report.html", "run.json"]
    page = parse(report.path)
    anchors = [row["id"] for _, row in page.elements if "id" in row]
    assert len(anchors) == len(set(anchors))
    assert {f"case-{case}" for case in IDS} <= set(anchors)
    links = [row["href"] or "" for row in page.all("a")]
    assert all(link.startswith("#") and link[1:] in anchors for link in links)
    assert "Research use only" in page.text and report.path.stat().st_size < 4 * 5_000_000


@pytest.mark.usefixtures("quick_figures")
def test_limit_leaves_the_cohort_whole(made: Path, tmp_path: Path) -> None:
    report = build_report(made / "study", [made / "good" / "predictions"], tmp_path / "out", QUICK, limit=1)
    assert [case.id for case in report.cases] == ["a2"]
    assert [path.name for path in pages(tmp_path / "out" / "cases")] == ["a2.html"]
    index = parse(report.path)
    assert "4 cases scored" in index.text
    assert {row["href"] for row in index.all("a") if (row["href"] or "").startswith("cases/")} == {"cases/a2.html"}
    assert "better case" not in parse(tmp_path / "out" / "cases" / "a2.html").text


@pytest.mark.usefixtures("quick_figures")
def test_a_report_is_written_anew_and_nothing_else_is_written_over(made: Path, tmp_path: Path) -> None:
    predictions = [made / "good" / "predictions"]
    build_report(made / "study", predictions, tmp_path / "out", QUICK)
    build_report(made / "study", predictions, tmp_path / "out", QUICK, limit=1)
    assert [path.name for path in pages(tmp_path / "out" / "cases")] == ["a2.html"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and holds no report"):
        build_report(made / "study", predictions, tmp_path / "other", QUICK)
    with pytest.raises(UsageError, match="exists and holds no report"):
        build_report(made / "study", predictions, made / "study", QUICK)


@pytest.mark.usefixtures("quick_figures")
def test_what_a_killed_report_left_is_removed(made: Path, tmp_path: Path) -> None:
    options = Options(viewer=False, single_file=True)
    build_report(made / "study", [made / "good" / "predictions"], tmp_path, options, limit=1)
    (tmp_path / ".tmp-killed").mkdir()
    (tmp_path / ".tmp-killed" / "a1.html.part").write_text("half")
    (tmp_path / ".tmp-killedreport.html").write_text("half")
    build_report(made / "study", [made / "good" / "predictions"], tmp_path, options, limit=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run.json"]


def test_a_place_that_cannot_be_written_is_told_before_anything_is_scored(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_med.report.build.read_inputs", lambda *args, **options: pytest.fail("scored"))
    (tmp_path / "file").write_text("mine")

    def build(out: Path) -> None:
        build_report(made / "study", [made / "good" / "predictions"], out, QUICK)

    with pytest.raises(OutputError, match="out: cannot write: file is a file. Choose another --out"):
        build(tmp_path / "file" / "out")
    with pytest.raises(UsageError, match="file: exists and holds no report"):
        build(tmp_path / "file")
    monkeypatch.setattr("mtl_med.report.build.os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(OutputError, match="out: cannot write: no permission"):
        build(tmp_path / "out")


def test_what_all_pages_share_is_kept_once() -> None:
    shared, own = Script("niivue.js", "let a = 1;", place="report"), Script("own.js", "let b = 2;", place="case")
    scripts = _Scripts()
    for _ in range(3):
        scripts.add([shared, own])
    assert scripts.kept == [shared, own, own, own]


@pytest.mark.usefixtures("quick_figures")
def test_what_fails_in_a_case_is_a_gap_on_its_page_and_no_more(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(inputs: CaseInputs) -> Part:
        if inputs.case.id == "a3":
            raise CaseError("cannot be drawn", where="a3")
        if inputs.case.id == "a4":
            raise ZeroDivisionError("by zero")
        return Part()

    monkeypatch.setitem(REPORTS, "regression", replace(REPORTS["regression"], case=part))
    report = build_report(made / "study", [made / "good" / "predictions"], tmp_path / "out", QUICK)
    assert {case.id for case in report.failed} == {"a3", "a4"}
    page = parse(tmp_path / "out" / "cases" / "a3.html")
    assert "Left out, what is known of the regression: a3: cannot be drawn." in page.text
    assert "Structures" in page.text and "SpinalCord" in page.text
    assert "unexpected ZeroDivisionError: by zero" in parse(tmp_path / "out" / "cases" / "a4.html").text
    assert "a3: cannot be drawn." in parse(tmp_path / "out" / "index.html").text


@pytest.mark.usefixtures("quick_figures")
def test_the_command_tells_what_it_did_and_whether_all_is_there(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", "--study", str(made / "study"), "--predictions", str(made / "good" / "predictions")]
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--no-viewer"]) == 0
    assert capsys.readouterr().out.endswith(f"written: {tmp_path / 'out' / 'index.html'}\n")
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--split", "nowhere"]) == 2
    assert "no case is in split 'nowhere'" in capsys.readouterr().err


def test_a_case_can_be_sent_to_another_process(made: Path) -> None:
    inputs = read_inputs(made / "study", [made / "good" / "predictions"], QUICK)
    one = inputs.of_case(inputs.cases[0])
    sent = pickle.loads(pickle.dumps(one))
    assert sent.case.id == one.case.id and repr(sent.predictions) == repr(one.predictions)
    assert {row.case for row in one.predictions[0].rows} == {"a1"}


@pytest.mark.usefixtures("quick_figures")
def test_damaged_predictions_are_told_and_stop_nothing(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "good", tmp_path / "bad")
    (tmp_path / "bad" / "predictions" / "a3" / "dose.nii.gz").write_bytes(b"no volume")
    report = build_report(made / "study", [tmp_path / "bad" / "predictions"], tmp_path / "out", QUICK)
    assert report.cases[0].id == "a3" and "could not be scored" in report.cases[0].failures[0]
    index = parse(report.path)
    assert "1 could not be scored" in index.text and "3 cases scored" in index.text
    assert "1 case could not be scored: first in the list, and in no score." in index.text
    assert index.text.index("a3 validation") < index.text.index("a2 validation")
    assert (tmp_path / "out" / "cases" / "a3.html").is_file()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["failed"].keys() == {"a3"}


def test_predictions_of_other_cases_are_refused_and_a_folder_twice(made: Path, tmp_path: Path) -> None:
    other = write_predictions(tmp_path / "other", ["b1"])
    with pytest.raises(NothingFoundError, match="no prediction of a case"):
        build_report(made / "study", [other], tmp_path / "out", QUICK)
    with pytest.raises(UsageError, match="is given twice"):
        build_report(made / "study", [made / "good" / "predictions"] * 2, tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick_figures")
def test_structures_alone_without_a_prescription(tmp_path: Path) -> None:
    study = write_cohort(tmp_path, dose=False)
    report = build_report(study, [write_predictions(tmp_path / "it", dose=False)], tmp_path / "out", QUICK)
    text = parse(report.path).text
    assert "dose score" not in text and "Ordered by the mean Dice" in text and not report.failed
