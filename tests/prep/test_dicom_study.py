"""A clinic's export becomes a study by the command: what is written, told, hidden, resumed, and done in parts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtl_med import cli
from mtl_med.geometry import Grid
from mtl_med.io.nifti import read_nifti
from mtl_med.manifest import Manifest
from mtl_med.phantoms import make_pelvis
from mtl_med.phantoms.dicom import Truth, write_dicom_study
from mtl_med.phantoms.dicom_identity import Identity
from mtl_med.phantoms.dicom_style import VENDORS, DicomStyle

SHAPE = (48, 40, 32)
Prep = Callable[..., int]


@pytest.fixture(scope="module")
def phantom():
    return make_pelvis(5, shape=SHAPE)


@pytest.fixture(scope="module")
def clinic(phantom, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Truth]]:
    """One patient in the manner of each vendor."""
    folder = tmp_path_factory.mktemp("clinic") / "exports ü"
    return folder, {
        vendor: write_dicom_study(phantom, folder / vendor, options=DicomStyle.like(vendor), patient_id=f"P_{vendor}")
        for vendor in VENDORS
    }


@pytest.fixture
def prep(tmp_path: Path) -> Prep:
    """`prep(source, "--grid", 3)` gives the exit code; the study is `tmp_path / "study"`."""

    def run(source: Path, *words: object) -> int:
        options = [] if "--check" in words else ["--out", tmp_path / "study"]
        line = ["dicom_rt", "--source", source, *options, "--workers", 1, *words]
        return cli.main(["prep", *map(str, line)])

    return run


def truth_of(case_id: str, truths: dict[str, Truth]) -> Truth:
    return next(truth for truth in truths.values() if case_id.startswith(truth.patient_id))


def test_every_vendor_gives_the_same_patient(prep: Prep, clinic, tmp_path: Path, capsys) -> None:
    source, truths = clinic
    assert prep(source) == 0
    assert "5 converted, 0 skipped, 0 failed" in capsys.readouterr().out
    manifest = Manifest.read(tmp_path / "study")
    assert len(manifest) == len(truths) == 5
    for case in manifest:
        truth = truth_of(case.id, truths)
        assert {"Bladder", "Rectum", "Femur_Head_L", "Femur_Head_R", "CTV", "PTV"} <= set(case.structures), case.id
        assert case.prescription_gy == max(truth.prescriptions_gy.values())
        assert case.fractions == truth.fractions
        for name in ("Bladder", "Rectum", "Femur_Head_L", "Femur_Head_R"):
            mask, grid = read_nifti(case.path(f"structures/{name}"))
            assert grid.axis_codes == "RAS"
            away_mm = np.abs(grid.centroid_ras(mask) - truth.centroids[name])
            assert (away_mm < 0.6 * np.array(grid.spacing_mm)).all(), (case.id, name)
        dose, grid = read_nifti(case.path("dose"))
        inside = read_nifti(case.path("mask_dose"))[0] > 0
        assert inside.any() and dose[inside].max() == pytest.approx(truth.dose_gy.max(), rel=0.02)
    page = (tmp_path / "study" / "quality.html").read_text()
    assert all(case.id in page for case in manifest)
    assert all((case.folder / "overlay.png").read_bytes()[:4] == b"\x89PNG" for case in manifest)


def test_check_tells_and_writes_nothing(prep: Prep, clinic, tmp_path: Path, capsys) -> None:
    source, truths = clinic
    before = sorted(tmp_path.rglob("*"))
    assert prep(source, "--check") == 0
    told = capsys.readouterr().out
    assert all(truth.patient_id in told for truth in truths.values())
    assert "linked: RTDOSE" in told and "5 cases, 0 of which cannot be converted" in told
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "spacing_mm"), [(["--grid", "6"], (6.0, 6.0, 6.0)), (["--grid", "dose"], None)], ids=["spacing", "dose"]
)
def test_grid(prep: Prep, clinic, tmp_path: Path, words: list[str], spacing_mm) -> None:
    source, truths = clinic
    assert prep(source / "pinnacle", *words) == 0
    (case,) = Manifest.read(tmp_path / "study")
    truth = truths["pinnacle"]
    expected = spacing_mm or sorted(truth.dose_grid.spacing_mm)
    found = case.spacing_mm if spacing_mm else sorted(case.spacing_mm)
    assert found == pytest.approx(expected, abs=0.01)
    mask, grid = read_nifti(case.path("structures/Bladder"))
    assert np.abs(grid.centroid_ras(mask) - truth.centroids["Bladder"]).max() < 0.6 * max(grid.spacing_mm)


def test_a_name_that_is_not_known_goes_to_a_person_and_back(prep: Prep, phantom, tmp_path: Path, capsys) -> None:
    style = DicomStyle(names={"Rectum": "Enddarm neu 3"})
    write_dicom_study(phantom, tmp_path / "raw", options=style, patient_id="A")
    assert prep(tmp_path / "raw") == 0
    review = tmp_path / "study" / "names_review.csv"
    assert f"fill in the last column of {review}" in capsys.readouterr().out
    (case,) = Manifest.read(tmp_path / "study")
    unknown = [name for name, item in case.structures.items() if item.original == "Enddarm neu 3"]
    assert [case.structures[name].kind for name in unknown] == ["other"]
    lines = review.read_text(encoding="utf-8-sig").splitlines()
    review.write_text("\n".join(line + "Rectum" if line.startswith("Enddarm") else line for line in lines))
    assert prep(tmp_path / "raw", "--structures", review) == 0
    (case,) = Manifest.read(tmp_path / "study")
    assert case.structures["Rectum"].original == "Enddarm neu 3"
    assert case.structures["Rectum"].kind == "oar"


def test_a_list_that_is_filled_in_in_part_is_heeded_by_every_later_run(
    prep: Prep, phantom, tmp_path: Path, capsys
) -> None:
    """Each run writes the list again, where it was passed back from: decisions stay, and nothing is converted anew."""
    style = DicomStyle(names={"Rectum": "Enddarm neu 3", "Bladder": "Hb leer"})
    write_dicom_study(phantom, tmp_path / "raw", options=style, patient_id="A")
    assert prep(tmp_path / "raw") == 0
    review = tmp_path / "study" / "names_review.csv"
    lines = review.read_text(encoding="utf-8-sig").splitlines()
    review.write_text("\n".join(line + "Rectum" if line.startswith("Enddarm") else line for line in lines))
    for told in ("1 converted, 0 skipped", "0 converted, 1 skipped", "0 converted, 1 skipped"):
        capsys.readouterr()
        assert prep(tmp_path / "raw", "--structures", review) == 0
        assert told in capsys.readouterr().out
        (case,) = Manifest.read(tmp_path / "study")
        assert case.structures["Rectum"].original == "Enddarm neu 3"


def test_a_structure_without_a_name_is_nothing_to_ask_about(prep: Prep, phantom, tmp_path: Path, capsys) -> None:
    write_dicom_study(phantom, tmp_path / "raw", options=DicomStyle(names={"Rectum": ""}), patient_id="A")
    assert prep(tmp_path / "raw") == 0
    assert "not known" not in capsys.readouterr().out
    assert not (tmp_path / "study" / "names_review.csv").exists()
    (case,) = Manifest.read(tmp_path / "study")
    assert any("has no name" in note for note in case.notes)
    assert prep(tmp_path / "raw", "--check") == 0
    assert "not known" not in capsys.readouterr().out


class TestDeidentified:
    @pytest.fixture
    def planted(self, phantom, tmp_path: Path) -> tuple[Path, Truth]:
        """A patient whose texts are planted in every field, file name and structure; and a damaged file of hers."""
        style = DicomStyle(
            identity=Identity(), file_names="patient", extras=("text", "sr"), extra_rois=("Planted Plantedova note",)
        )
        source = tmp_path / "Plantedova_Hildegardis"
        truth = write_dicom_study(phantom, source / "PLID4711-0815", options=style)
        other = write_dicom_study(
            make_pelvis(6, shape=SHAPE), source / "again", options=replace(style, identity=Identity(patient_id="PLID9"))
        )
        dose = other.files["rtdose"][0]
        dose.write_bytes(dose.read_bytes()[:-5000])
        return source, truth

    def test_no_planted_text_is_left_anywhere(self, planted, tmp_path: Path, run_python) -> None:
        source, truth = planted
        study = tmp_path / "study"
        words = ["--source", source, "--out", study, "--deidentify", "--workers", 2]
        done = run_python("-m", "mtl_med.prep", "dicom_rt", *words, cwd=tmp_path)
        assert done.returncode in (0, 4), done.stderr
        assert len(Manifest.read(study)) >= 1
        written = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
        assert len(written) > 8
        planted_words = [text for text in (*truth.planted, *Identity().strings) if len(text) > 3]
        for path, content in written.items():
            plain = _unpacked(path, content)
            for text in planted_words:
                for form in (text.encode(), text.lower().encode(), text.encode("utf-16-le")):
                    assert form not in plain and form not in str(path.relative_to(study)).encode(), (path, text)
        said = done.stdout + done.stderr
        shown = [text for text in planted_words if text.lower() in said.lower().replace(str(study).lower(), "")]
        assert not shown, said
        key = tmp_path / "study.key"
        assert key.stat().st_mode & 0o077 == 0
        review = tmp_path / "study.names_review.csv"
        assert "Planted Plantedova note" in review.read_text(encoding="utf-8-sig")
        assert review.stat().st_mode & 0o077 == 0

    def test_the_same_key_gives_the_same_names(self, planted, prep: Prep, tmp_path: Path) -> None:
        source, _ = planted
        prep(source, "--deidentify")
        first = [case.id for case in Manifest.read(tmp_path / "study")]
        shutil.rmtree(tmp_path / "study")
        prep(source, "--key", tmp_path / "study.key")
        assert [case.id for case in Manifest.read(tmp_path / "study")] == first
        shutil.rmtree(tmp_path / "study")
        (tmp_path / "study.key").unlink()
        prep(source, "--deidentify")
        assert {case.id for case in Manifest.read(tmp_path / "study")}.isdisjoint(first)


def _unpacked(path: Path, content: bytes) -> bytes:
    import gzip

    return gzip.decompress(content) if path.suffix == ".gz" else content


POSITIONS = ("HFS", "HFP", "FFS", "FFP", "HFDL", "HFDR")


@pytest.mark.parametrize(
    "style",
    [
        *(DicomStyle(position=position) for position in POSITIONS),
        DicomStyle(oblique_deg=(7.0, -4.0, 5.0)),
        DicomStyle(pixel_spacing_mm=(4.0, 6.5)),
        DicomStyle(order="descending"),
        DicomStyle(order="shuffled"),
        DicomStyle(gantry_tilt_deg=9.0),
        DicomStyle(upper_pitch=1.5),
    ],
    ids=[*POSITIONS, "oblique", "non-square", "descending", "shuffled", "tilt", "uneven"],
)
def test_centroids_are_right_by_two_readers(prep: Prep, phantom, tmp_path: Path, style: DicomStyle) -> None:
    """Against the truth of analytic outlines, on fine voxels, by SimpleITK and by nibabel."""
    import nibabel
    import SimpleITK as sitk

    names = ("Bladder", "Femur_Head_L", "Femur_Head_R")
    pixels = (1.7, 2.3) if style.pixel_spacing_mm else (1.8, 1.8)
    fine = replace(style, structures=names, pixel_spacing_mm=pixels, slice_spacing_mm=1.6, dose="none", plan="absent")
    truth = write_dicom_study(phantom, tmp_path / "raw", options=fine, patient_id="A")
    uneven = style.upper_pitch != 1 or bool(style.gantry_tilt_deg)
    if style.upper_pitch != 1:
        assert prep(tmp_path / "raw") == 5, "uneven slices are refused unless --resample says otherwise"
    assert prep(tmp_path / "raw", *(["--resample"] if uneven else [])) == 0
    (case,) = Manifest.read(tmp_path / "study")
    for name in names:
        path = case.path(f"structures/{name}")
        mask, grid = read_nifti(path)
        by_nibabel = nibabel.affines.apply_affine(nibabel.load(path).affine, np.argwhere(mask)).mean(axis=0)
        image = sitk.ReadImage(str(path))
        itk_points = [image.TransformIndexToPhysicalPoint(list(map(int, v))) for v in np.argwhere(mask)[::7]]
        by_itk = np.array(itk_points) * [-1, -1, 1]
        ours = grid.points_ras(np.argwhere(mask)[::7])
        assert np.abs(by_itk - ours).max() < 1e-3
        assert np.abs(by_nibabel - truth.centroids[name]).max() < 0.1, (name, by_nibabel - truth.centroids[name])


class TestParts:
    def test_shards_and_merge_give_what_one_run_gives(self, prep: Prep, clinic, tmp_path: Path, tree) -> None:
        source, _ = clinic
        assert prep(source) == 0
        whole = tree(tmp_path / "study")
        shutil.rmtree(tmp_path / "study")
        for part in (2, 1, 3):
            assert prep(source, "--shard", f"{part}/3") == 0
        words = ["prep", "dicom_rt", "--out", str(tmp_path / "study"), "--merge"]
        assert cli.main(words) == 0
        parts = {
            name: data for name, data in tree(tmp_path / "study").items() if not name.startswith(("run-", ".prep"))
        }
        assert parts == {name: data for name, data in whole.items() if not name.startswith(".prep")}

    def test_killed_at_random_and_run_again(self, clinic, tmp_path: Path, tree) -> None:
        source, _ = clinic
        words = [sys.executable, "-m", "mtl_med.prep", "dicom_rt", "--source", str(source), "--workers", "2"]
        assert subprocess.run([*words, "--out", str(tmp_path / "whole")], check=False).returncode == 0
        for seed in range(2):
            out = tmp_path / f"killed{seed}"
            process = subprocess.Popen(
                [*words, "--out", str(out)],
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(random.Random(seed).uniform(0.5, 4.0))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done = {path: path.stat().st_mtime_ns for path in out.glob("cases/[!.]*/case.json")}
            assert subprocess.run([*words, "--out", str(out)], check=False).returncode == 0
            assert {path: path.stat().st_mtime_ns for path in done} == done, "finished cases are left alone"
            assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "3/2"], "'3/2' is no shard"),
        (["--merge", "--check"], "--check and --merge cannot be used together"),
        (["--grid", "fine"], "'fine' is neither ct nor dose nor a number of mm"),
        (["--doses", "ALL"], "invalid choice: 'ALL'"),
        (["--structures", "no.json"], "no.json"),
    ],
    ids=["shard", "two ways", "grid", "doses", "table"],
)
def test_what_cannot_be_meant_is_one_sentence(prep: Prep, clinic, capsys, words, message: str) -> None:
    try:
        code = prep(clinic[0], *words)
    except SystemExit as error:
        code = error.code
    assert code == 2
    said = capsys.readouterr().err.strip()
    assert message in said and len(said.splitlines()) == 1


def test_an_option_without_meaning_is_refused(tmp_path: Path, capsys) -> None:
    words = ["prep", "openkbp", "--source", tmp_path, "--out", tmp_path / "x", "--resample"]
    assert cli.main(list(map(str, words))) == 2
    assert "--resample has no meaning for openkbp. Leave it out." in capsys.readouterr().err


def test_nothing_there(prep: Prep, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    assert prep(tmp_path / "raw") == 3


def test_a_failing_case_stops_no_other(prep: Prep, phantom, tmp_path: Path, capsys) -> None:
    for patient in ("A", "B"):
        write_dicom_study(phantom, tmp_path / "raw" / patient, patient_id=patient)
    images = sorted((tmp_path / "raw" / "B").rglob("*CT*")) or sorted((tmp_path / "raw" / "B").rglob("*"))
    target = next(path for path in images if path.is_file())
    target.write_bytes(target.read_bytes()[:-300])
    assert prep(tmp_path / "raw") == 4
    said = capsys.readouterr()
    assert "1 converted, 0 skipped, 1 failed" in said.out
    assert "failed: " in said.err
    record = json.loads((tmp_path / "study" / "run.json").read_text())
    assert len(record["failed"]) == 1


def test_grid_of_a_case_is_said_in_the_manifest(prep: Prep, clinic, tmp_path: Path) -> None:
    assert prep(clinic[0] / "monaco") == 0
    (case,) = Manifest.read(tmp_path / "study")
    assert isinstance(case.grid, Grid) and case.grid.axis_codes == "RAS"
    assert case.path("ct").is_file() and "dose" in case.tasks and "oar" in case.tasks


def test_merged_shards_stay_without_names(prep: Prep, clinic, tmp_path: Path, capsys) -> None:
    """A merge needs no key, and still says that the study has no names; nothing with names gets in afterwards."""
    study = tmp_path / "study"
    assert prep(clinic[0] / "monaco", "--deidentify", "--shard", "1/1") == 0
    assert cli.main(["prep", "dicom_rt", "--out", str(study), "--merge"]) == 0
    record = json.loads((study / "run.json").read_text())
    assert record["deidentified"] is True and record["command"] == []
    assert not (study / "names_review.csv").exists()
    for words in ((), ("--shard", "1/1")):
        assert prep(clinic[0] / "monaco", *words) == 2
        assert "made with --deidentify" in capsys.readouterr().err


def test_names_and_pseudonyms_do_not_mix(prep: Prep, clinic, tmp_path: Path, capsys) -> None:
    assert prep(clinic[0] / "monaco") == 0
    assert prep(clinic[0] / "monaco", "--deidentify") == 2
    assert "made without --deidentify" in capsys.readouterr().err
    (tmp_path / "study" / "run.json").unlink()  # as a run leaves it that was stopped
    assert prep(clinic[0] / "monaco", "--deidentify") == 2
    assert "cases: holds 1 cases that were made without --deidentify" in capsys.readouterr().err


def test_shards_with_names_do_not_mix_with_pseudonyms(prep: Prep, clinic, tmp_path: Path, capsys) -> None:
    assert prep(clinic[0] / "monaco", "--shard", "1/1") == 0
    for words in (("--deidentify",), ("--deidentify", "--shard", "1/2")):
        assert prep(clinic[0] / "monaco", *words) == 2
        assert "made without --deidentify" in capsys.readouterr().err
