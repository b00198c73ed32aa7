"""From a clinic's DICOM to DICOM again: prep, training, inference and export on phantom pelvises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mtl_med import cli
from mtl_med.io.nifti import read_nifti
from mtl_med.io.results import read_dose, read_structures
from mtl_med.io.rtdose import read_rtdose
from mtl_med.io.rtstruct import read_rtstruct
from mtl_med.manifest import Manifest
from mtl_med.phantoms import make_pelvis
from mtl_med.phantoms.dicom import Truth, write_dicom_study
from mtl_med.phantoms.dicom_style import VENDORS, DicomStyle
from tests.bundles.bundle_command import Run

CONFIGS = Path("bundles/prostate_dose_oar_segmentation/configs")
NAMES = ["Rectum", "Bladder", "Femur_Head_L", "Femur_Head_R", "CTV", "PTV"]
SMALL = {
    "patch_size": "[48,40,32]",
    "network_options#channels": "[4,8]",
    "network_options#bottleneck": 8,
}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    """Eight patients in the manner of different vendors; one has no plan, so that its dose has no percent."""
    folder = tmp_path_factory.mktemp("clinic")
    truths = []
    for number in range(8):
        style = DicomStyle.like(sorted(VENDORS)[number % len(VENDORS)])
        phantom = make_pelvis((1, number), shape=(48, 40, 32))
        truths.append(write_dicom_study(phantom, folder / f"p{number}", options=style, patient_id=f"PHANTOM{number}"))
    return folder, truths


@pytest.fixture(scope="module")
def study(clinic: tuple[Path, list[Truth]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "study"
    assert cli.main(["prep", "dicom_rt", "--source", str(clinic[0]), "--out", str(out), "--workers", "1"]) == 0
    return out


@pytest.fixture(scope="module")
def trained(study: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run("train", dataset_dir=study, output_dir=out, epochs=2, **SMALL)
    return out


def test_study_divides_the_patients_and_knows_their_prescriptions(study: Path, clinic) -> None:
    manifest = Manifest.read(study)
    assert len(manifest) == 8
    assert {case.split for case in manifest} == {"fit", "tune", "validation", "test"}
    for case in manifest:
        assert set(NAMES) <= {name for name, item in case.structures.items() if item.status == "contoured"}
        assert case.prescription_gy is not None and 55 < case.prescription_gy < 80


def test_training_is_in_percent_at_the_median_spacing(trained: Path, study: Path) -> None:
    settings = json.loads((trained / "model.json").read_text())
    assert settings["tasks"]["dose"]["unit"] == "percent"
    assert settings["tasks"]["oar"]["class_names"] == NAMES
    spacings = [case.spacing_mm for case in Manifest.read(study).split("fit")]
    assert settings["study"]["spacing_mm"] == pytest.approx(np.median(spacings, axis=0), abs=1e-3)


def test_as_published(study: Path, run: Run, tmp_path: Path) -> None:
    """With a smaller ResNet and smaller slices; all else as the file says."""
    options = {"encoder": "resnet18", "patch_size": "[64,32]", "repeats": 8, "epochs": 1}
    run("train", "as_published", dataset_dir=study, output_dir=tmp_path, **options)
    settings = json.loads((tmp_path / "model.json").read_text())
    assert (settings["batch_size"], settings["learning_rate"], settings["weight_decay"]) == (32, 1e-4, 1e-5)
    assert (settings["optimizer"], settings["weighting"], settings["inputs"]) == ("Adam", "dwa", "ct")
    told = run("train", "as_published", "evaluate", dataset_dir=study, output_dir=tmp_path)
    assert "dose score" in told


def test_ct_alone_gives_percent_unless_told(trained: Path, study: Path, run: Run, tmp_path: Path) -> None:
    options = {"dataset_dir": study, "weights": trained / "model.pt", "splits": "['validation']"}
    run("inference", output_dir=tmp_path / "percent", **options)
    run("inference", output_dir=tmp_path / "gy", prescription_gy=60, **options)
    for case in Manifest.read(study).split("validation"):
        percent, gy = (tmp_path / name / case.id for name in ("percent", "gy"))
        assert not (percent / "dose.nii.gz").exists() and not (gy / "dose_percent.nii.gz").exists()
        in_percent, grid = read_nifti(percent / "dose_percent.nii.gz")
        np.testing.assert_allclose(read_dose(gy)[0], in_percent * 0.6, atol=1e-4)
        assert grid.shape == case.grid.shape


def test_evaluation_compares_in_gy(trained: Path, study: Path, run: Run) -> None:
    told = run("train", "evaluate", dataset_dir=study, output_dir=trained)
    assert "dose score" in told and "Femur_Head_L" in told
    assert "dose_score" in (trained / "metrics.csv").read_text()


def test_targets_as_input_give_gy(study: Path, run: Run, tmp_path: Path) -> None:
    run("train", "targets_as_input", dataset_dir=study, output_dir=tmp_path / "run", epochs=1, **SMALL)
    weights = tmp_path / "run" / "model.pt"
    run("inference", dataset_dir=study, weights=weights, output_dir=tmp_path / "out", splits="['validation']")
    for case in Manifest.read(study).split("validation"):
        folder = tmp_path / "out" / case.id
        assert (folder / "dose.nii.gz").is_file()
        assert list(read_structures(folder).masks) == NAMES[:4]


def test_back_to_dicom(trained: Path, study: Path, clinic, run: Run, tmp_path: Path) -> None:
    """What leaves belongs to the patient's own CT, and says what it is."""
    options = {"dataset_dir": study, "weights": trained / "model.pt", "splits": "['test']", "prescription_gy": 60}
    run("inference", output_dir=tmp_path / "out", **options)
    (case, *_) = Manifest.read(study).split("test")
    truth = next(truth for truth in clinic[1] if case.id.startswith(truth.patient_id))
    words = ["export", tmp_path / "out" / case.id, "--to", "rtstruct", "rtdose", "--reference", truth.folder]
    assert cli.main([str(word) for word in [*words, "--out", tmp_path / "dicom"]]) == 0
    structures = read_rtstruct(tmp_path / "dicom" / "rtstruct.dcm")
    masks = read_structures(tmp_path / "out" / case.id).masks
    assert {roi.name for roi in structures.rois} >= {name for name in NAMES if masks[name].any()}
    dose = read_rtdose(tmp_path / "dicom" / "rtdose.dcm")
    predicted, _ = read_dose(tmp_path / "out" / case.id)
    assert dose.dose_gy.max() == pytest.approx(predicted.max(), abs=1e-4)
    for name in ("rtstruct", "rtdose", "rtplan"):
        written = pydicom.dcmread(tmp_path / "dicom" / f"{name}.dcm")
        assert written.PatientID == truth.patient_id
        assert written.FrameOfReferenceUID == truth.uids["frame"]
