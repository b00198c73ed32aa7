"""Made-up photographs: the published layout, the same bytes each time, and looks that tell the diagnoses apart."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtl_med.errors import UsageError
from mtl_med.phantoms import NOTE_NAME
from mtl_med.phantoms.dermatoscopy import DIAGNOSES
from mtl_med.phantoms.lesions import make_lesions, write_ham10000_cohort

SMALL = (48, 36)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lesions")
    write_ham10000_cohort(folder, lesions=30, seed=3, size=SMALL)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "HAM10000_metadata.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_published_layout(cohort):
    names = {path.name for path in cohort.iterdir()}
    assert names == {
        *("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_segmentations_lesion_tschandl"),
        *("HAM10000_metadata.csv", NOTE_NAME),
    }
    rows = rows_of(cohort)
    assert list(rows[0]) == ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    images = {path.stem for path in cohort.glob("HAM10000_images_part_*/ISIC_*.jpg")}
    masks = {path.name for path in cohort.glob("HAM10000_segmentations_lesion_tschandl/*.png")}
    assert images == {row["image_id"] for row in rows} and len(rows) == len(images) > 30
    assert masks == {f"{name}_segmentation.png" for name in images}
    assert {row["dx"] for row in rows} == set(DIAGNOSES)
    assert "not patients" in (cohort / NOTE_NAME).read_text(encoding="utf-8")
    assert all("phantom" in row["image_id"] and "phantom" in row["lesion_id"] for row in rows)


def test_masks_are_larger_and_one_has_a_palette_backwards(cohort):
    modes = set()
    for path in (cohort / "HAM10000_segmentations_lesion_tschandl").iterdir():
        with Image.open(path) as picture:
            modes.add(picture.mode)
            assert picture.size == (3 * SMALL[0], 3 * SMALL[1])
            if picture.mode == "P":
                assert picture.getpalette()[:3] == [255, 255, 255]
    assert modes == {"L", "P"}


def test_every_byte_follows_from_the_seed(cohort, tmp_path):
    write_ham10000_cohort(tmp_path / "again", lesions=30, seed=3, size=SMALL, workers=2)
    assert digests(tmp_path / "again") == digests(cohort)
    write_ham10000_cohort(tmp_path / "again", lesions=4, seed=4, size=SMALL)
    assert len(digests(tmp_path / "again")) < len(digests(cohort)), "older phantoms are removed"


def test_the_mask_is_where_the_lesion_is():
    for diagnosis in DIAGNOSES:
        for phantom in make_lesions(1, 5, diagnosis, size=(80, 60)):
            luma = phantom.image.mean(axis=2)
            assert 0.01 < phantom.mask.mean() < 0.8
            assert luma[phantom.mask].mean() < luma[~phantom.mask].mean() + 5


def test_diagnoses_can_be_told_apart_by_their_looks():
    """The nearest mean colour and size of the lesion finds most of them, far more than one in seven."""

    def look(number: int, diagnosis: str) -> np.ndarray:
        phantom = make_lesions(9, number, diagnosis, size=(64, 48))[0]
        inside = phantom.image[phantom.mask].astype(float)
        return np.concatenate([inside.mean(axis=0), inside.std(axis=0)])

    known = {name: np.mean([look(number, name) for number in range(1, 9)], axis=0) for name in DIAGNOSES}
    found = [
        min(known, key=lambda name: float(np.linalg.norm(known[name] - look(number, truth)))) == truth
        for truth in DIAGNOSES
        for number in range(50, 56)
    ]
    assert np.mean(found) > 0.7


@pytest.mark.parametrize("options", [{"lesions": 0}, {"lesions": 10_000}, {"size": (8, 8)}, {"mask_factor": 0}])
def test_what_cannot_be_made_is_refused(tmp_path, options):
    with pytest.raises(UsageError, match=r"lesions must be|no photographs of"):
        write_ham10000_cohort(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_folders_of_others_are_not_touched(tmp_path):
    (tmp_path / "HAM10000_images_part_1").mkdir()
    with pytest.raises(UsageError, match="already holds HAM10000_images_part_1, which are not phantoms"):
        write_ham10000_cohort(tmp_path, lesions=1)
