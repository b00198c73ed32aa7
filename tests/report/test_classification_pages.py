"""Classes in the report: what the pages tell of each image and of all, also with names that nobody should have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtl_med.io.classification_table import write_classification
from mtl_med.io.picture import encode_png
from mtl_med.io.results import write_picture_prediction
from mtl_med.manifest import Case, Manifest, Structure
from mtl_med.report import classification_case, classification_cohort
from mtl_med.report.build import _ranking
from mtl_med.report.case_builder import build_case, head_of
from mtl_med.report.case_page import Figure, Markup, Options, Part, Section, Table, Text
from mtl_med.report.explained import explained_section
from mtl_med.report.page import Page, fragment
from mtl_med.report.sources import Inputs, read_inputs
from mtl_med.tasks import Task

HOSTILE = "</script><img src=x onerror=alert(1)> $\\frac$ \u202e"
NAMES = ("mel", "nv", HOSTILE)
TASK = Task("diagnosis", "classification", 3, NAMES)
TRUTH = [0, 0, 1, 1, 2, None]  # i5 has no label
CALLED = [(0.7, 0.2, 0.1), (0.1, 0.85, 0.05), (0.3, 0.6, 0.1), (0.95, 0.03, 0.02), (0.2, 0.2, 0.6), (0.1, 0.8, 0.1)]
HEIGHT, WIDTH = 24, 32


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Six photographs; i1 and i3 are decided wrong, i3 with more confidence."""
    root = tmp_path_factory.mktemp("report")
    cases, rows = [], {}
    for number, truth in enumerate(TRUTH):
        folder = root / "study" / "cases" / f"i{number}"
        folder.mkdir(parents=True)
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[4:12, 6:20] = True
        (folder / "image.png").write_bytes(
            encode_png(np.where(mask[..., None], np.uint8(90), np.uint8([220, 180, 170])))
        )
        (folder / "mask.png").write_bytes(encode_png(mask))
        files = {"image": {"path": "image.png", "sha256": ""}, "structures/Lesion": {"path": "mask.png", "sha256": ""}}
        case = Case(
            folder.name,
            "validation",
            folder,
            files=files,
            structures={"Lesion": Structure("segmentation", "target", "contoured")},
            labels={} if truth is None else {"diagnosis": truth},
            group=f"lesion_{number // 2}",
        )
        case.write()
        cases.append(case)
        write_picture_prediction(root / "ctan", folder.name, {"Lesion": np.roll(mask, 2, axis=1)})
        rows[folder.name] = {"diagnosis": (NAMES[int(np.argmax(CALLED[number]))], CALLED[number])}
    Manifest.build("made-up", root / "study", cases, {"diagnosis": NAMES}).write()
    write_classification(root / "ctan" / "classification.csv", [TASK], rows)
    (root / "ctan" / "i0" / "attention_diagnosis.png").write_bytes(encode_png(np.zeros((4, 4), bool)))
    return read_inputs(root / "study", [root / "ctan"], Options())


def of(inputs: Inputs, name: str) -> Part:
    return classification_case.part(inputs.of_case(next(case for case in inputs.manifest if case.id == name)))


def blocks(sections: tuple[Section, ...] | list[Section], kind: type) -> list:
    return [block for section in sections for block in section.blocks if isinstance(block, kind)]


class TestCase:
    def test_a_right_decision_is_told_with_its_figures(self, inputs: Inputs) -> None:
        part = of(inputs, "i0")
        assert [section.key for section in part.sections] == ["image", "classes-1"]
        assert part.warnings == ()
        (text,) = blocks(part.sections, Text)
        assert (text.text, text.mark) == ("Decided mel, called 0.700 probable; right.", "")
        picture, bars, attention = blocks(part.sections, Figure)
        assert "true outlines (Lesion 14.6 % of it) and predicted outlines (Lesion 14.6 % of it)" in picture.alt
        assert picture.data.startswith(b"\x89PNG")
        assert bars.data.startswith(b"<svg")
        assert "attends to" in attention.alt
        (table,) = blocks(part.sections, Table)
        assert [row[1].value for row in table.rows] == pytest.approx([0.7, 0.2, 0.1])

    def test_its_head_gives_medians_of_numbers_alone(self, inputs: Inputs) -> None:
        _, _, places = _ranking(inputs)
        case = next(case for case in inputs.manifest if case.id == "i3")
        page = build_case(replace(inputs, options=Options(viewer=False)).of_case(case), places["i3"])
        details = {tile.text: tile.detail for tile in head_of(page, places["i3"]).tiles}
        assert details["mel"] == "diagnosis (is nv)"
        assert details["0.030"] == "diagnosis: probability of the true class; median of all 0.600"

    def test_a_wrong_one_is_a_warning(self, inputs: Inputs) -> None:
        part = of(inputs, "i3")
        assert part.warnings == ("diagnosis: decided mel, called 0.95 probable, but it is nv.",)
        assert blocks(part.sections, Text)[0].mark == "bad"

    def test_an_image_without_label_still_shows_what_was_predicted(self, inputs: Inputs) -> None:
        part = of(inputs, "i5")
        assert blocks(part.sections, Text)[0].text == "Decided nv, called 0.800 probable; the image has no label."
        assert not any("(true)" in str(row[0]) for row in blocks(part.sections, Table)[0].rows)

    def test_outlines_of_another_size_are_a_gap(self, inputs: Inputs, tmp_path: Path) -> None:
        from dataclasses import replace

        write_picture_prediction(tmp_path, "i0", {"Lesion": np.ones((HEIGHT + 1, WIDTH), bool)})
        given = inputs.of_case(inputs.cases[0])
        moved = replace(given.predictions[0], folder=tmp_path / "i0")
        part = classification_case.part(replace(given, predictions=(moved,)))
        gap = blocks(part.sections, Text)[0]
        assert gap.mark == "warning"
        assert "has 32 x 25 pixels, the image 32 x 24" in gap.text

    def test_a_case_without_image_and_classes_has_no_part(self, inputs: Inputs, tiny_study: Path) -> None:
        from mtl_med.report.case_page import CaseInputs

        assert classification_case.part(CaseInputs(Manifest.read(tiny_study).cases[0], ())) == Part()


class TestCohort:
    def test_figures_tables_and_the_most_confident_mistakes(self, inputs: Inputs) -> None:
        (section,) = classification_cohort.sections(inputs)
        texts = [block.text for block in blocks([section], Text)]
        assert texts[0] == (
            "Scored on 5 images of 3 lesions or patients that have a label of diagnosis. "
            "1 predicted images have none and are left out: their pages show what was predicted."
        )
        assert texts[1].startswith("2 of 5 decisions of ctan are wrong (40 %).")
        roc, confusion, calibration = blocks([section], Figure)
        assert roc.alt.startswith("ROC curves of task diagnosis")
        assert "mel 50 %; nv 50 %" in confusion.alt
        assert "ECE" in calibration.alt
        (table,) = blocks([section], Table)
        assert [row[0] for row in table.rows] == list(NAMES)
        assert [row[1].value for row in table.rows] == [2, 2, 1]
        (mistakes,) = blocks([section], Markup)
        html = str(mistakes.html)
        assert html.index("i3") < html.index("i1"), "the more confident mistake comes first"
        assert html.count("<img") == 2

    def test_mistakes_lead_to_their_pages(self, inputs: Inputs) -> None:
        from dataclasses import replace

        linked = replace(inputs, pages={"i3": "cases/i3.html"})
        html = str(blocks(classification_cohort.sections(linked), Markup)[0].html)
        assert html.count("<a href") == 1
        assert '<a href="cases/i3.html">' in html
        single = replace(linked, options=Options(single_file=True))
        assert '<a href="#case-i3">' in str(blocks(classification_cohort.sections(single), Markup)[0].html)

    def test_hostile_class_names_are_text(self, inputs: Inputs) -> None:
        sections = [*classification_cohort.sections(inputs), *of(inputs, "i4").sections]
        html = fragment(Page("t", "l", "a"), sections).html
        assert "<img src=x" not in html
        assert "&lt;img src=x onerror" in html
        assert "\u202e" not in html


RECORD = {
    "stage": "explain",
    "case": "i0",
    "weights": {"sha256": "a"},
    "settings": {"method": "ctan"},
    "maps": [{"name": "m", "task": "lesion", "title": "lesion, stage 0", "unit": "", "low": 0.25, "high": 0.5}],
    "told": ["Something was found."],
}


class TestExplained:
    def write(self, inputs: Inputs, tmp_path: Path, **fields: object):
        from dataclasses import replace

        folder = tmp_path / "predictions" / "i0" / "explain"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(RECORD | fields))
        (folder / "attention.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
        head = "part,first,second,cosine,first_norm,second_norm,parameters\n"
        (folder / "gradient_conflict.csv").write_text(f"{head}encoder stage 0,lesion,diagnosis,-0.25,1,2,10\n")
        (folder / "exchange_effect.csv").write_text("task,output,measure,trained,alone\nlesion,Lesion,voxels,10,8\n")
        given = inputs.of_case(inputs.cases[0])
        return replace(given, predictions=(replace(given.predictions[0], folder=folder.parent),))

    def test_maps_conflict_and_effect_are_shown(self, inputs: Inputs, tmp_path: Path) -> None:
        section = explained_section(self.write(inputs, tmp_path))
        sheet, conflict = blocks([section], Figure)
        assert "lesion, stage 0 0.25 to 0.5" in sheet.alt
        assert "laid over the features of the other task" in sheet.caption
        assert "encoder stage 0, lesion and diagnosis: \u22120.25" in conflict.alt
        maps, gradients, effect = blocks([section], Table)
        assert maps.rows[0][-1] == "m.nii.gz"
        assert gradients.rows[0][2].mark == "warning"
        assert effect.rows[0][-1].value == -2
        assert blocks([section], Text)[0].text == "Something was found."

    def test_nothing_beside_the_prediction_is_no_section(self, inputs: Inputs) -> None:
        assert explained_section(inputs.of_case(inputs.cases[1])) is None

    def test_maps_of_other_weights_are_marked(self, inputs: Inputs, tmp_path: Path) -> None:
        given = self.write(inputs, tmp_path)
        (tmp_path / "predictions" / "run.json").write_text('{"weights": {"sha256": "b"}}')
        assert "These maps are of other weights than the prediction." in [
            block.text for block in blocks([explained_section(given)], Text)
        ]

    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            ({"case": "i1"}, "explains case 'i1'"),
            ({"maps": 3}, "'maps' is 3"),
            ({"stage": "predict"}, "of another stage"),
        ],
        ids=["other-case", "damaged", "other-stage"],
    )
    def test_a_record_that_cannot_be_is_refused(self, inputs, tmp_path, fields, sentence) -> None:
        from mtl_med.errors import UsageError

        with pytest.raises(UsageError, match=sentence):
            explained_section(self.write(inputs, tmp_path, **fields))

    def test_damaged_files_are_gaps(self, inputs: Inputs, tmp_path: Path) -> None:
        given = self.write(inputs, tmp_path)
        folder = given.predictions[0].folder / "explain"
        (folder / "attention.png").write_bytes(b"no picture")
        (folder / "gradient_conflict.csv").write_text("part,cosine\nencoder,much\n")
        section = explained_section(given)
        gaps = [block.text for block in blocks([section], Text) if block.mark == "warning"]
        assert len(gaps) == 2
        assert "is no picture that can be read" in gaps[0]
        assert "cannot be read as a table" in gaps[1]
        assert len(blocks([section], Table)) == 1, "the effect is still there"
