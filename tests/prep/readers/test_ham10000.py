"""HAM10000: both layouts, whole lesions in one split, and one sentence for each file that cannot be used."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mtl_med.errors import NothingFoundError, UsageError
from mtl_med.io.picture import encode_png, read_png
from mtl_med.manifest import Manifest
from mtl_med.phantoms.lesions import write_ham10000_cohort
from mtl_med.prep.check import check_sources
from mtl_med.prep.command import add_arguments, run
from mtl_med.prep.engine import How, merge_shards, prepare, prepare_shard
from mtl_med.prep.quality_rows import short_notes
from mtl_med.prep.readers import ham10000
from mtl_med.prep.recipe import Recipe, load_recipe
from mtl_med.prep.shards import Shard
from mtl_med.prep.splits import assign_splits

SIZE = (20, 16)  # width, height
SKIN = np.full((16, 20, 3), (220, 170, 150), dtype=np.uint8)
SPOT = np.zeros((16, 20), dtype=bool)
SPOT[5:11, 6:14] = True
ROW = {"dx": "nv", "dx_type": "histo", "age": "45.0", "sex": "male", "localization": "back"}


class Made:
    """A folder in the published layout, made picture by picture."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, str]] = []
        for name in ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_segmentations_lesion_tschandl"):
            (folder / name).mkdir(parents=True)

    def add(
        self,
        image_id: str,
        lesion: str = "",
        *,
        image: bool = True,
        mask: np.ndarray | None = SPOT,
        row: bool = True,
        shade: int | None = None,
        **fields: str,
    ) -> Path:
        """One case; `shade` sets the brightness of its lesion, by default another in each."""
        pixels = SKIN.copy()
        pixels[SPOT] = (30 + len(self.rows) % 90, 30 + len(self.rows) // 90 * 40, 40) if shade is None else shade
        path = self.folder / f"HAM10000_images_part_{1 + len(self.rows) % 2}" / f"{image_id}.jpg"
        if image:
            Image.fromarray(pixels).save(path, quality=95)
        if mask is not None:
            self.mask(image_id).write_bytes(encode_png(mask))
        if row:
            self.rows.append({"lesion_id": lesion or f"HAM_{image_id}", "image_id": image_id, **ROW, **fields})
        return path

    def mask(self, image_id: str) -> Path:
        return self.folder / "HAM10000_segmentations_lesion_tschandl" / f"{image_id}_segmentation.png"

    def done(self, name: str = "HAM10000_metadata.csv", delimiter: str = ",") -> Path:
        """Write the table."""
        with (self.folder / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["lesion_id", "image_id", *ROW], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(self.rows)
        return self.folder


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "raw")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The shipped one without the rule that every small picture here would break."""
    shipped = load_recipe("ham10000")
    return replace(shipped, rules=tuple(rule for rule in shipped.rules if rule.rule != "small_image"))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_ham10000_cohort(folder, lesions=40, seed=2, size=(40, 30))
    return folder


@pytest.fixture(scope="module")
def study(cohort: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return prepare(recipe, cohort, tmp_path_factory.mktemp("study") / "s").manifest


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.json", ".prep.lock"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_case_holds_picture_mask_labels_and_lesion(made, recipe, tmp_path):
    fine = np.kron(SPOT, np.ones((3, 3), dtype=bool))
    path = made.add("ISIC_a", "HAM_x", mask=fine, dx="mel", localization="lower extremity")
    manifest = prepare(recipe, made.done(), tmp_path / "study").manifest
    (case,) = manifest
    with Image.open(path) as picture:
        np.testing.assert_array_equal(read_png(case.path("image")), np.asarray(picture))
    np.testing.assert_array_equal(read_png(case.path("structures/Lesion")), np.where(SPOT, 255, 0))
    assert {key: item["path"] for key, item in case.files.items()} == {
        "image": "image.png",
        "structures/Lesion": "mask.png",
    }
    assert (case.grid, case.spacing_mm, case.group) == (None, (), "HAM_x")
    assert {task: manifest.classes[task][index] for task, index in case.labels.items()} == {
        "diagnosis": "mel",
        "localization": "lower extremity",
    }
    assert case.tasks == ("lesion", "diagnosis", "localization")
    assert case.structures["Lesion"].status == "contoured"
    assert Manifest.read(manifest.root) == manifest
    measures = json.loads((case.folder / "quality.json").read_text())["measures"]
    assert measures["Lesion.area_percent"] == pytest.approx(100 * 48 / 320)
    assert (measures["Lesion.parts"], measures["Lesion.edge_percent"]) == (1, 0)
    assert measures["Lesion.contrast_percent"] > 40
    assert case.notes == ()


def test_an_unknown_place_is_no_label(made, recipe, tmp_path):
    made.add("ISIC_a", localization="unknown")
    made.add("ISIC_b", localization="elbow")
    first, second = prepare(recipe, made.done(), tmp_path / "study").manifest
    assert list(first.labels) == list(second.labels) == ["diagnosis"]
    assert first.notes == ()
    assert second.notes == ("localization 'elbow' is none of the recipe's, and counts as unknown",)


def test_no_lesion_is_in_two_splits_and_diagnoses_are_divided_alike(made, recipe, tmp_path):
    for number in range(60):
        dx = "nv" if number < 40 else "mel"
        for part in "abc"[: 1 + number % 3]:
            made.add(f"ISIC_{number:02d}{part}", f"HAM_{number:02d}", dx=dx, shade=4 * number)
    manifest = prepare(recipe, made.done(), tmp_path / "study").manifest
    splits = {case.group: {other.split for other in manifest if other.group == case.group} for case in manifest}
    assert len(splits) == 60 and all(len(found) == 1 for found in splits.values())
    lesions = Counter(
        (case.labels["diagnosis"], case.split) for case in {item.group: item for item in manifest}.values()
    )
    assert lesions == {
        **{(5, "fit"): 28, (5, "tune"): 4, (5, "validation"): 8},
        **{(4, "fit"): 14, (4, "tune"): 2, (4, "validation"): 4},
    }
    sources = ham10000.scan(made.folder, recipe)
    assert assign_splits(sources, recipe.fractions) == {case.id: case.split for case in manifest}
    other = replace(recipe, facts={**recipe.facts, "split_seed": 1})
    assert assign_splits(sources, recipe.fractions, other.split_seed) != assign_splits(sources, recipe.fractions)


def bad_image(made: Made, image_id: str) -> None:
    path = made.add(image_id)
    path.write_bytes(path.read_bytes()[:300])


def two_rows(made: Made, image_id: str) -> None:
    made.add(image_id)
    made.rows.append({**made.rows[-1], "age": "50.0"})


def two_files(made: Made, image_id: str) -> None:
    path = made.add(image_id)
    other = next(folder for folder in made.folder.glob("HAM10000_images_part_*") if folder != path.parent)
    Image.fromarray(SKIN).save(other / path.name)


def four_channels(made: Made, image_id: str) -> None:
    path = made.add(image_id)
    path.unlink()
    pixels = np.concatenate([SKIN, np.zeros((16, 20, 1), dtype=np.uint8)], axis=2)
    Image.fromarray(pixels, "RGBA").save(path.with_suffix(".png"))


DEFECTS: dict[str, tuple[Callable[[Made, str], object], str]] = {
    "no-mask": (lambda made, name: made.add(name, mask=None), "has an image and a row in the table, but no mask"),
    "no-image": (lambda made, name: made.add(name, image=False), "has a mask and a row in the table, but no image"),
    "row-only": (
        lambda made, name: made.add(name, image=False, mask=None),
        "has a row in the table, but no image and no mask",
    ),
    "no-row": (lambda made, name: made.add(name, row=False), "has an image and a mask, but no row in the table"),
    "size": (
        lambda made, name: made.add(name, mask=np.ones((24, 30), dtype=bool)),
        "is a mask of 30 x 24 pixels for an image of 20 x 16",
    ),
    "turned": (
        lambda made, name: made.add(name, mask=SPOT.T),
        "is a mask of 16 x 20 pixels for an image of 20 x 16",
    ),
    "cut-off": (bad_image, r"(is cut off|cannot be read as JPEG or PNG) \("),
    "diagnosis": (
        lambda made, name: made.add(name, dx="mell"),
        r"diagnosis 'mell' is not known\. Did you mean mel",
    ),
    "two-rows": (two_rows, "has two rows in the table that differ: keep the right one"),
    "two-files": (two_files, "has 2 files that differ"),
    "no-lesion": (lambda made, name: made.add(name, lesion_id=""), "has no lesion_id in the table"),
    "transparent": (four_channels, "is transparent in 100 % of its pixels"),
    "name": (lambda made, name: made.add(f"{name} (1)"), "has characters in its name that a case id cannot have"),
}


def test_each_defect_is_one_sentence_and_the_rest_goes_on(made, recipe, tmp_path):
    for number, (spoil, _) in enumerate(DEFECTS.values()):
        spoil(made, f"ISIC_x{number:02d}")
    made.add("ISIC_y1", "HAM_y", dx="mel")
    made.add("ISIC_y2", "HAM_y", dx="bkl")
    for number in range(3):
        made.add(f"ISIC_good{number}")
    report = prepare(recipe, made.done(), tmp_path / "study")
    assert [case.id for case in report.manifest] == ["ISIC_good0", "ISIC_good1", "ISIC_good2"]
    assert report.exit_code == 4
    told = dict(report.failed)
    for name in ("ISIC_y1", "ISIC_y2"):
        assert told.pop(name) == f"{name}: lesion HAM_y has two diagnoses, bkl and mel: keep the right one."
    for (name, sentence), (_, expected) in zip(sorted(told.items()), DEFECTS.values(), strict=True):
        assert re.search(expected, sentence), f"{name}: {sentence}"
        assert "\n" not in sentence and sentence.endswith((".", "?"))
    page = (tmp_path / "study" / "quality.html").read_text(encoding="utf-8")
    assert "two diagnoses" in page
    found = check_sources(recipe, made.folder)
    assert found.exit_code == 4 and "lesion HAM_y has two diagnoses" in "\n".join(found.lines)


def test_odd_photographs_are_used_and_told(made, recipe, tmp_path):
    grey = made.add("ISIC_grey")
    Image.fromarray(SKIN[..., 0]).save(grey)
    turned = made.add("ISIC_turned")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(SKIN))).save(turned, exif=exif)
    notes = {case.id: case.notes for case in prepare(recipe, made.done(), tmp_path / "study").manifest}
    assert any("image is grey" in note for note in notes["ISIC_grey"])
    assert any("EXIF orientation 6" in note for note in notes["ISIC_turned"])


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_mask_that_fits_either_way_up_is_refused(made, recipe, tmp_path, orientation):
    """Drawn upright or on the photograph as it is stored: nobody knows. A mask that is to be turned alike says so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("ISIC_untold", "ISIC_alike"):
        Image.fromarray(SKIN).save(made.add(name), exif=exif)
    mask = next(made.folder.rglob("ISIC_alike_segmentation.png"))
    stored = Image.open(mask).copy()
    stored.save(mask, exif=exif)
    report = prepare(recipe, made.done(), tmp_path / "study")
    assert report.converted == ["ISIC_alike"]
    assert f"turned or mirrored by EXIF orientation {orientation}, and its mask fits" in report.failed["ISIC_untold"]
    (case,) = report.manifest
    turned = ImageOps.exif_transpose(Image.open(mask))
    np.testing.assert_array_equal(read_png(case.path("structures/Lesion")), np.asarray(turned.convert("L")))


def test_equal_photographs_are_told_and_their_lesions_stay_together(made, recipe, tmp_path):
    for number in range(40):
        made.add(f"ISIC_{number:02d}", shade=60 + number)
    twins = [made.add(f"ISIC_t{number}", f"HAM_t{number}", shade=20) for number in range(2)]
    made.add("ISIC_same", "HAM_t0", shade=20)
    assert len({path.read_bytes() for path in twins}) == 1
    other = next(folder for folder in made.folder.glob("HAM10000_images_part_*") if folder != twins[0].parent)
    shutil.copy(twins[0], other)
    made.rows.append(made.rows[-2])
    notes = {}
    for seed in range(6):
        seeded = replace(recipe, facts={**recipe.facts, "split_seed": seed})
        manifest = prepare(seeded, made.done(), tmp_path / f"study{seed}").manifest
        assert len({case.split for case in manifest if case.id in ("ISIC_t0", "ISIC_t1", "ISIC_same")}) == 1
        notes = {case.id: case.notes for case in manifest}
        groups = {case.id: case.group for case in manifest}
        assert groups["ISIC_t0"] == groups["ISIC_t1"] == groups["ISIC_same"] != groups["ISIC_01"]
    equal = "image equals that of {} byte by byte ({})"
    told = "lesion HAM_t1, diagnosis nv; both lesions go to one split"
    assert equal.format("ISIC_t1", told) in notes["ISIC_t0"]
    assert equal.format("ISIC_same", "the same lesion") in notes["ISIC_t0"]
    assert "image lies there 2 times" in notes["ISIC_t0"]
    assert "its row stands in the table twice" in notes["ISIC_t1"]


MASK_RULES = {
    "mask_whole": np.ones((16, 20), dtype=bool),
    "mask_small": np.zeros((16, 20), dtype=bool) | (np.arange(320).reshape(16, 20) == 170),
    "mask_parts": SPOT ^ (np.arange(320).reshape(16, 20) == 21),
    "mask_edge": ~SPOT,
}


@pytest.mark.parametrize("rule", MASK_RULES)
def test_rules_find_their_masks(made, recipe, tmp_path, rule):
    made.add("ISIC_a", mask=MASK_RULES[rule])
    made.add("ISIC_b")
    odd, good = prepare(recipe, made.done(), tmp_path / "study").manifest
    assert rule.replace("_", " ") in short_notes(odd.notes) and good.notes == ()


def test_rules_find_what_is_odd_about_photographs_and_rows(made, recipe, tmp_path):
    odd = {
        "brightness": np.full((120, 160, 3), 250, dtype=np.uint8),
        "flat_image": np.full((120, 160, 3), 150, dtype=np.uint8),
        "dark_frame": np.full((120, 160, 3), 200, dtype=np.uint8),
        "mask_lighter": np.full((120, 160, 3), 100, dtype=np.uint8),
    }
    odd["dark_frame"][:, :30] = 5
    odd["mask_lighter"][40:80, 48:112] = 220
    mask = np.kron(SPOT, np.ones((8, 8), dtype=bool))[:120, :160]
    for name, pixels in odd.items():
        Image.fromarray(pixels).save(made.add(f"ISIC_{name}", mask=mask), quality=95)
    made.add("ISIC_no_age", age="")
    made.add("ISIC_age_zero", age="0.0")
    for case in prepare(recipe, made.done(), tmp_path / "study").manifest:
        rule = case.id.removeprefix("ISIC_")
        assert rule.replace("_", " ") in short_notes(case.notes), case.notes


def test_an_age_that_nobody_has_is_told_and_unknown(made, recipe, tmp_path):
    for age in ("-5", "121", "old", "NaN", "120"):
        made.add(f"ISIC_{age}", age=age)
    notes = {case.id: "; ".join(case.notes) for case in prepare(recipe, made.done(), tmp_path / "study").manifest}
    for age in ("-5", "121", "old"):
        assert f"age '{age}' is no number from 0 to 120, and counts as unknown" in notes[f"ISIC_{age}"]
    assert "is no number" not in notes["ISIC_NaN"] + notes["ISIC_120"]
    assert [name for name, told in notes.items() if "no_age" in told] == ["ISIC_-5", "ISIC_121", "ISIC_NaN", "ISIC_old"]


def test_a_small_photograph_is_told(made, tmp_path):
    made.add("ISIC_a")
    (case,) = prepare(load_recipe("ham10000"), made.done(), tmp_path / "study").manifest
    assert [note.partition(": ")[2].partition(" (")[0] for note in case.notes] == [
        "image width is 20 pixels",
        "image height is 16 pixels",
    ]


@pytest.mark.parametrize(("name", "delimiter"), [("HAM10000_metadata", ","), ("HAM10000_metadata.tab", "\t")])
def test_the_table_under_its_other_names(made, recipe, tmp_path, name, delimiter):
    made.add("ISIC_a")
    assert len(ham10000.scan(made.done(name, delimiter), recipe)) == 1


def test_tables_that_cannot_be_meant(made, recipe):
    made.add("ISIC_a")
    made.done()
    made.rows[0]["dx"] = "mel"
    made.done("HAM10000_metadata.tab", "\t")
    with pytest.raises(UsageError, match="two tables differ"):
        ham10000.scan(made.folder, recipe)
    (made.folder / "HAM10000_metadata.tab").unlink()
    (made.folder / "HAM10000_metadata.csv").write_text("image_id,label\nISIC_a,nv\n")
    with pytest.raises(UsageError, match="lacks the columns lesion_id, dx; found image_id, label"):
        ham10000.scan(made.folder, recipe)
    (made.folder / "HAM10000_metadata.csv").write_bytes(b"\xff\xfe\x00 no text")
    with pytest.raises(UsageError, match="it is no UTF-8 text"):
        ham10000.scan(made.folder, recipe)
    (made.folder / "HAM10000_metadata.csv").unlink()
    with pytest.raises(NothingFoundError, match=r"holds no HAM10000_metadata\.csv"):
        ham10000.scan(made.folder, recipe)


def test_folders_without_photographs(tmp_path, recipe):
    with pytest.raises(NothingFoundError, match="there is no such folder"):
        ham10000.scan(tmp_path / "none", recipe)
    with pytest.raises(NothingFoundError, match="holds no photographs"):
        ham10000.scan(tmp_path, recipe)
    (tmp_path / "images.tar").write_bytes(b"")
    with pytest.raises(NothingFoundError, match=r"Unpack images\.tar first"):
        ham10000.scan(tmp_path, recipe)


def test_every_byte_is_the_same_with_any_number_of_workers_and_shards(cohort, study, recipe, tmp_path):
    prepare(recipe, cohort, tmp_path / "two", How(workers=2))
    assert digests(tmp_path / "two") == digests(study.root)
    for index in (1, 2):
        prepare_shard(recipe, cohort, tmp_path / "shards", Shard(index, 2))
    merged = merge_shards(recipe, tmp_path / "shards").manifest
    assert merged.fingerprint == study.fingerprint
    kept = {name: digest for name, digest in digests(tmp_path / "shards").items() if not name.startswith("run-")}
    assert kept == digests(study.root)


def test_a_second_run_converts_only_what_changed(cohort, recipe, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "study"
    shutil.copytree(cohort, raw)
    first = prepare(recipe, raw, out).manifest
    sheets = {path: path.stat().st_mtime_ns for path in (out / "mosaics").iterdir()}
    report = prepare(recipe, raw, out)
    assert report.converted == [] and len(report.skipped) == len(first)
    assert {path: path.stat().st_mtime_ns for path in (out / "mosaics").iterdir()} == sheets
    changed = first.cases[3]
    mask = next(raw.glob(f"*/{changed.id}_segmentation.png"))
    mask.write_bytes(encode_png(np.ones((90, 120), dtype=bool)))
    report = prepare(recipe, raw, out)
    assert report.converted == [changed.id]
    assert "mask whole" in short_notes(report.manifest.cases[3].notes)
    redrawn = {path for path in (out / "mosaics").iterdir() if path.stat().st_mtime_ns != sheets.get(path)}
    diagnosis = first.classes["diagnosis"][int(changed.labels["diagnosis"])]
    assert {path.name for path in redrawn} <= {f"{diagnosis}_01.jpg", "findings_01.jpg"}
    assert out / "mosaics" / f"{diagnosis}_01.jpg" in redrawn


def test_the_archives_unpack_to_a_source(root, cohort, recipe, tmp_path):
    """As the reduced copy (tar) and as published (zip); the order of folders makes no difference."""
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "images.tar", "w") as archive:
        for path in sorted(cohort.glob("HAM10000_images_part_*/*.jpg")):
            archive.add(path, f"images/{path.name}")
    shutil.make_archive(
        str(packed / "HAM10000_segmentations_lesion_tschandl"),
        "zip",
        cohort,
        "HAM10000_segmentations_lesion_tschandl",
    )
    (packed / "ISIC2018_Task3_Test_Images.zip").write_bytes(b"not to be looked at")
    shutil.copy(cohort / "HAM10000_metadata.csv", packed)
    script = root / "data_prep" / "ham10000" / "unpack.sh"
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    subprocess.run(["sh", script, packed, tmp_path / "out"], check=True, capture_output=True)
    assert (tmp_path / "out" / "images").is_dir()
    original, unpacked = ham10000.scan(cohort, recipe), ham10000.scan(tmp_path / "out", recipe)
    assert [(item.id, item.fault, item.row) for item in unpacked] == [
        (item.id, item.fault, item.row) for item in original
    ]


def test_what_has_no_meaning_here_is_refused(cohort, tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UsageError, match="--deface has no meaning for ham10000"):
        run(parser.parse_args(["ham10000", "--source", str(cohort), "--out", str(tmp_path / "s"), "--deface"]))


def test_real_photographs(shared_dir, recipe, tmp_path):
    """Every 100th one: masks three times larger, no fault, and outlines that are darker than the skin around."""
    raw = tmp_path / "raw"
    for name in ("images", "masks"):
        with tarfile.open(shared_dir / "data" / "ham10000" / f"{name}.tar") as archive:
            members = archive.getmembers()[::100]
            archive.extractall(raw, members, filter="data")
    with (shared_dir / "data" / "ham10000" / "HAM10000_metadata.csv").open() as stream:
        header, *rows = stream.readlines()
    names = {path.stem for path in (raw / "images").iterdir()}
    kept = [row for row in rows if row.split(",")[1] in names]
    (raw / "HAM10000_metadata.csv").write_text("".join([header, *kept]))
    report = prepare(recipe, raw, tmp_path / "study")
    assert not report.failed and len(report.manifest) == len(names) >= 69
    measures = [json.loads((case.folder / "quality.json").read_text())["measures"] for case in report.manifest]
    darker = [item["Lesion.contrast_percent"] > 0 for item in measures]
    assert np.mean(darker) > 0.9, "masks whose palette runs backwards would be exchanged"
