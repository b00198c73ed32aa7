"""`mtl-med export`: a prediction as RTSTRUCT, RTDOSE and SEG that independent programs read, accept and give back."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RTIonPlanStorage

from mtl_med.errors import CaseError, GeometryError, NothingFoundError, UsageError
from mtl_med.export import add_arguments, export, run
from mtl_med.geometry import Grid, reorient
from mtl_med.io.ct_likeness import require_same_ct
from mtl_med.io.dicom_reference import find_ct_series
from mtl_med.io.dicom_series import read_ct_series
from mtl_med.io.nifti import read_grid, read_nifti, write_nifti
from mtl_med.io.results import write_prediction
from mtl_med.io.rtplan import read_rtplan
from mtl_med.phantoms.pelvis import PelvisPhantom, make_pelvis
from mtl_med.prep.target_grid import place_ct, spacing_grid
from tests.io.small_ct import SERIES_UID, SHAPE, dciodvfy_errors, plastimatch_masks, ras_affine, write_ct

WHEN = datetime(2026, 1, 2, 3, 4, 5)
SHAPE_OF_PELVIS = (80, 60, 16)


def content(shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """HU, structures and dose in the order of the CT's rows, columns and slices."""
    x, y, z = np.indices(shape)
    distance = np.hypot(x - 24, y - 20)
    middle = (z > 2) & (z < 9)
    structures = {
        "Rectum": middle & (distance < 15) & (distance > 6),
        "PTV60": middle & (distance < 10),
        "External": distance < 19,
    }
    hu = np.where(distance < 19, 10 * z - 3 * x, -1000)
    return hu, structures, (60 * np.exp(-(distance**2) / 200) * (1 + z / 40)).astype(np.float32)


@pytest.fixture
def ct_folder(tmp_path: Path) -> Path:
    write_ct(tmp_path / "ct", hu=content()[0])
    return tmp_path / "ct"


@pytest.fixture
def prediction(tmp_path: Path) -> Path:
    """As inference writes it: in RAS."""
    return predict(tmp_path, *content())


def predict(folder: Path, hu: np.ndarray, structures: dict[str, np.ndarray], dose: np.ndarray | None) -> Path:
    affine = write_ct(folder / "unused", hu=hu)
    own = Grid(SHAPE, ras_affine(affine))
    _, grid = reorient(hu, own)
    write_prediction(
        folder / "predictions",
        "c1",
        grid,
        ct=reorient(hu, own)[0].astype(np.int16),
        dose_gy=None if dose is None else reorient(dose, own)[0],
        structures={name: reorient(mask, own)[0] for name, mask in structures.items()},
    )
    return folder / "predictions" / "c1"


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_what_is_written_refers_to_each_other(prediction: Path, ct_folder: Path) -> None:
    written = export(prediction, ct_folder)
    assert [path.relative_to(prediction).as_posix() for path in written] == [
        "dicom/rtstruct.dcm",
        "dicom/rtplan.dcm",
        "dicom/rtdose.dcm",
    ]
    structures, plan, dose = (pydicom.dcmread(path) for path in written)
    assert plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == structures.SOPInstanceUID
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
    assert (plan.PlanIntent, plan.ApprovalStatus, dose.DoseSummationType) == ("RESEARCH", "UNAPPROVED", "PLAN")
    for made in (structures, plan, dose):
        assert (made.PatientID, made.StudyInstanceUID, made.FrameOfReferenceUID) == (
            "P1",
            "1.2.826.0.1.1",
            "1.2.826.0.1.3",
        )
    assert len({made.SeriesInstanceUID for made in (structures, plan, dose)} | {SERIES_UID}) == 4


def test_plastimatch_reads_what_was_predicted(require_judge, prediction: Path, ct_folder: Path, tmp_path: Path) -> None:
    """Every voxel of the structures, and the dose within 1e-4 Gy, at the same places."""
    import SimpleITK as sitk

    judge = require_judge("plastimatch")
    structures, _, dose = export(prediction, ct_folder)
    _, expected, expected_dose = content()
    found = plastimatch_masks(judge, ct_folder, structures, tmp_path / "masks")
    for name, mask in expected.items():
        assert np.array_equal(found[name], mask), name
    command = [judge, "convert", "--input", dose, "--output-dose-img", tmp_path / "dose.nii.gz"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)
    image = sitk.ReadImage(str(tmp_path / "dose.nii.gz"))
    ct = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(ct_folder)))
    assert np.allclose(image.GetOrigin(), ct.GetOrigin(), atol=1e-3)
    assert np.allclose(image.GetSpacing(), ct.GetSpacing(), atol=1e-4)
    assert np.abs(sitk.GetArrayFromImage(image).T - expected_dose).max() < 1e-4


def test_dciodvfy_finds_no_error(require_judge, prediction: Path, ct_folder: Path) -> None:
    judge = require_judge("dciodvfy")
    require_judge("highdicom")
    for path in export(prediction, ct_folder, kinds=["rtdose", "seg", "rtstruct"]):
        assert dciodvfy_errors(judge, path) == [], path.name


def test_the_dose_refers_to_the_plan_that_is_given(prediction: Path, ct_folder: Path, tmp_path: Path) -> None:
    plan = export(prediction, ct_folder, out=tmp_path / "first")[1]
    written = export(prediction, ct_folder, kinds=["rtdose"], plan=plan, out=tmp_path / "second")
    assert names(written) == ["rtdose.dcm"]
    uid = pydicom.dcmread(written[0]).ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID
    assert uid == pydicom.dcmread(plan).SOPInstanceUID


@pytest.mark.parametrize(
    ("keyword", "value", "what"),
    [("PatientID", "P2", "patient"), ("FrameOfReferenceUID", "1.2.3", "frame of reference")],
)
def test_a_plan_of_somebody_else(
    prediction: Path, ct_folder: Path, tmp_path: Path, keyword: str, value: str, what: str
) -> None:
    plan = export(prediction, ct_folder, out=tmp_path / "first")[1]
    other = pydicom.dcmread(plan)
    setattr(other, keyword, value)
    other.save_as(tmp_path / "plan.dcm")
    with pytest.raises(CaseError, match=f"belongs to another {what} than the CT"):
        export(prediction, ct_folder, plan=tmp_path / "plan.dcm", out=tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_the_ct_of_another_patient_is_refused(prediction: Path, tmp_path: Path) -> None:
    """Same grid, other anatomy: the predicted structures must not get this patient's name."""
    x, y, _ = np.indices(SHAPE)
    write_ct(tmp_path / "other", hu=np.where(np.hypot(x - 14, y - 26) < 12, 40, -1000))
    with pytest.raises(
        CaseError, match=r"is not the one that was predicted: \d\d % of the body differ by more than 5 HU"
    ):
        export(prediction, tmp_path / "other")
    assert not (prediction / "dicom").exists()
    assert len(export(prediction, tmp_path / "other", force=True)) == 3


@pytest.mark.parametrize("change", ["padded", "clipped", "defaced", "coarser"])
def test_the_ct_is_known_again(ct_folder: Path, tmp_path: Path, change: str) -> None:
    """What preparation may have done to the CT does not make it another one."""
    hu, structures, dose = content()
    made = predict(tmp_path, hu, structures, dose)
    ct, grid = read_nifti(made / "ct.nii.gz")
    if change == "coarser":
        coarse = spacing_grid(grid, 4.0)
        ct, grid = place_ct(ct, grid, coarse)[0], coarse
    elif change == "defaced":
        ct[:, -6:] = -1000
    else:
        ct = np.where(ct < -900, -3024, ct) if change == "padded" else np.clip(ct, -1000, 100)
    write_nifti(made / "ct.nii.gz", ct.astype(np.int16), grid)
    assert len(export(made, ct_folder)) == 3


@pytest.fixture(scope="module")
def pelvises() -> list[PelvisPhantom]:
    """Two men scanned alike: their CTs correlate by more than 0.9."""
    return [make_pelvis((0, number), shape=SHAPE_OF_PELVIS) for number in (3, 5)]


@pytest.mark.parametrize("spacing_mm", [None, 6.0], ids=["own grid", "6 mm"])
def test_another_mans_pelvis_is_refused(
    pelvises: list[PelvisPhantom], tmp_path: Path, spacing_mm: float | None
) -> None:
    """Of other men 75 % of the body and more differ, of one's own nothing: 10 % is far from both."""
    own, other = pelvises
    correlation = np.corrcoef(own.ct_hu.ravel(), other.ct_hu.ravel())[0, 1]
    assert correlation > 0.9
    affine = write_ct(tmp_path / "own", hu=own.ct_hu, shape=SHAPE_OF_PELVIS, spacing_mm=(5.0, 5.0, 5.0))
    write_ct(tmp_path / "other", hu=other.ct_hu, shape=SHAPE_OF_PELVIS, spacing_mm=(5.0, 5.0, 5.0))
    grid = Grid(SHAPE_OF_PELVIS, ras_affine(affine))
    target = grid if spacing_mm is None else spacing_grid(grid, spacing_mm)
    ct, _ = place_ct(own.ct_hu, grid, target)
    write_nifti(tmp_path / "ct.nii.gz", ct, target)
    series = {name: next(iter(find_ct_series(tmp_path / name).values())) for name in ("own", "other")}
    require_same_ct(tmp_path / "ct.nii.gz", series["own"])
    with pytest.raises(CaseError, match=r"[7-9]\d % of the body differ by more than 5 HU \(expected at most 10 %\)"):
        require_same_ct(tmp_path / "ct.nii.gz", series["other"])


def test_real_cts_are_known_again_and_told_apart(
    dicom_rt_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A scan of an even body, in which only its outline tells one place from another, on its own grid and a coarser."""
    folder = dicom_rt_data / "eclipse_prostate"
    files = sorted(folder.glob("CT*"))[:12]
    for path in files:
        shutil.copy(path, tmp_path)
    series = read_ct_series(files)
    reference = next(iter(find_ct_series(tmp_path).values()))
    for target in (series.grid, spacing_grid(series.grid, 3.0)):
        ct, _ = place_ct(series.hu, series.grid, target)
        write_nifti(tmp_path / "ct.nii.gz", ct, target)
        require_same_ct(tmp_path / "ct.nii.gz", reference)
    write_nifti(tmp_path / "ct.nii.gz", np.roll(ct, 10, axis=0), target)
    with pytest.raises(CaseError, match="is not the one that was predicted"):
        require_same_ct(tmp_path / "ct.nii.gz", reference)
    assert not caplog.records


@pytest.mark.parametrize("lacks", ["file", "body", "grid"])
def test_where_nothing_can_be_compared_force_is_needed(prediction: Path, ct_folder: Path, lacks: str) -> None:
    """Nobody's name gets onto structures because a file is missing."""
    ct = prediction / "ct.nii.gz"
    if lacks == "file":
        ct.unlink()
    elif lacks == "body":
        write_ct(ct_folder, hu=np.full(SHAPE, -1000))
        write_nifti(ct, np.full(SHAPE, -1000, dtype=np.int16), read_grid(ct))
    else:
        path = next(ct_folder.iterdir())
        image = pydicom.dcmread(path)
        image.ImagePositionPatient[0] += 5
        image.save_as(path)
    with pytest.raises(CaseError, match="nothing tells whether this CT is the one that was predicted.*pass --force"):
        export(prediction, ct_folder)
    assert not (prediction / "dicom").exists()
    assert len(export(prediction, ct_folder, force=True)) == 3


def test_structures_of_a_label_map_lack_their_overlaps(
    prediction: Path, ct_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (prediction / "structures.seg.nrrd").unlink()
    export(prediction, ct_folder)
    assert "structures.nii.gz: is a label map" in caplog.text and "where structures overlap, one lacks" in caplog.text


def test_a_clinics_file_of_the_same_name_stays(prediction: Path, ct_folder: Path, tmp_path: Path) -> None:
    original = pydicom.dcmread(export(prediction, ct_folder, out=tmp_path / "clinic")[0])
    original.Manufacturer = "Varian Medical Systems"
    path = tmp_path / "clinic" / "rtstruct.dcm"
    original.save_as(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=rf"{path}: is no file of an earlier export and would be lost"):
        export(prediction, ct_folder, out=tmp_path / "clinic")
    assert path.read_bytes() == before
    export(prediction, ct_folder, kinds=["rtdose"], out=tmp_path / "clinic")


def test_a_case_of_a_study_is_no_prediction(prediction: Path, ct_folder: Path) -> None:
    """Its planned dose would leave as a predicted one, and without the structures, which lie elsewhere."""
    (prediction / "case.json").write_text("{}")
    with pytest.raises(UsageError, match="is a case of a study and holds no prediction"):
        export(prediction, ct_folder)
    assert not (prediction / "dicom").exists()


def test_options_without_effect_are_refused(prediction: Path, ct_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"dose\.nii\.gz: is in Gy already, so that 60 Gy for 100 % would change nothing"
    ):
        export(prediction, ct_folder, prescription_gy=60)
    for option, value in (("plan", tmp_path / "plan.dcm"), ("prescription_gy", 60)):
        with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} belongs to a dose, and none is exported"):
            export(prediction, ct_folder, kinds=["rtstruct"], **{option: value})


def test_a_plan_of_ions_is_referred_to_as_one(prediction: Path, ct_folder: Path, tmp_path: Path) -> None:
    plan = pydicom.dcmread(export(prediction, ct_folder, out=tmp_path / "first")[1])
    plan.SOPClassUID = plan.file_meta.MediaStorageSOPClassUID = RTIonPlanStorage
    plan.save_as(tmp_path / "ions.dcm")
    written = export(prediction, ct_folder, kinds=["rtdose"], plan=tmp_path / "ions.dcm", out=tmp_path / "second")
    assert pydicom.dcmread(written[0]).ReferencedRTPlanSequence[0].ReferencedSOPClassUID == RTIonPlanStorage


def test_the_plan_of_an_earlier_export_is_told(
    prediction: Path, ct_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its structure set was written over, so that the folder no longer belongs together."""
    plan = export(prediction, ct_folder)[1]
    export(prediction, ct_folder, kinds=["seg", "rtdose"])
    assert not caplog.records
    export(prediction, ct_folder, kinds=["rtstruct"])
    assert f"{plan}: is of an earlier export and does not belong to the new rtstruct.dcm" in caplog.text


@pytest.mark.parametrize("earlier", [False, True])
def test_all_is_written_or_nothing(prediction: Path, ct_folder: Path, tmp_path: Path, earlier: bool) -> None:
    """A dose that cannot be written leaves no structure set without its plan, and what was there as it was."""
    out = tmp_path / "out"
    if earlier:
        export(prediction, ct_folder, out=out)
    before = {path.name: path.read_bytes() for path in out.glob("*")}
    dose, grid = read_nifti(prediction / "dose.nii.gz")
    write_nifti(prediction / "dose.nii.gz", dose + 5000, grid)
    with pytest.raises(CaseError, match=rf"^{re.escape(str(out / 'rtdose.dcm'))}: the dose is above"):
        export(prediction, ct_folder, out=out)
    assert {path.name: path.read_bytes() for path in out.glob("*")} == before
    assert out.exists() == earlier and not list(tmp_path.rglob(".tmp-*"))


def test_a_ct_elsewhere_is_refused(prediction: Path, tmp_path: Path) -> None:
    write_ct(tmp_path / "far", hu=content()[0], offsets_mm=[1000 + 3 * k for k in range(SHAPE[2])])
    with pytest.raises(GeometryError, match="do not overlap"):
        export(prediction, tmp_path / "far")


def test_a_ct_that_lacks_slices_is_told_from_another(prediction: Path, tmp_path: Path) -> None:
    write_ct(tmp_path / "part", hu=content()[0], offsets_mm=[3 * k for k in range(6)])
    with pytest.raises(CaseError, match=r"50 % of the body differ .* 50 % of whose body lie beyond this CT"):
        export(prediction, tmp_path / "part")


def test_the_series_on_the_predictions_voxels_is_taken(prediction: Path, ct_folder: Path) -> None:
    write_ct(ct_folder / "thick", SeriesInstanceUID="1.2.9", shape=(20, 20, 4))
    structures = pydicom.dcmread(export(prediction, ct_folder)[0])
    series = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == SERIES_UID


def test_two_series_on_the_same_voxels(prediction: Path, ct_folder: Path) -> None:
    write_ct(ct_folder / "copy", hu=content()[0], SeriesInstanceUID="1.2.9")
    with pytest.raises(UsageError, match=r"holds 2 CT series: .*1\.2\.9 \(12 slices\).*--series UID"):
        export(prediction, ct_folder)
    assert len(export(prediction, ct_folder, series_uid="1.2.9")) == 3
    with pytest.raises(UsageError, match=r"holds no CT series '1\.2\.7'"):
        export(prediction, ct_folder, series_uid="1.2.7")


def test_only_what_was_predicted(tmp_path: Path, ct_folder: Path) -> None:
    hu, structures, dose = content()
    assert names(export(predict(tmp_path / "a", hu, structures, None), ct_folder)) == ["rtstruct.dcm"]
    only_dose = predict(tmp_path / "b", hu, {}, dose)
    assert names(export(only_dose, ct_folder)) == ["rtplan.dcm", "rtdose.dcm"]
    with pytest.raises(UsageError, match=r"has no structures\.seg\.nrrd to make an RTSTRUCT of"):
        export(only_dose, ct_folder, kinds=["rtstruct"])


def test_a_dose_in_percent_needs_its_prescription(
    prediction: Path, ct_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prediction / "dose.nii.gz").rename(prediction / "dose_percent.nii.gz")
    with pytest.raises(UsageError, match="is in percent of a prescription.*--prescription-gy"):
        export(prediction, ct_folder)
    assert names(export(prediction, ct_folder, kinds=["rtstruct"], out=tmp_path / "a")) == ["rtstruct.dcm"]
    for wrong in (0.0, -1.0, 7000.0, float("nan")):
        with pytest.raises(UsageError, match="a prescription of"):
            export(prediction, ct_folder, prescription_gy=wrong)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = [prediction, "--to", "rtdose", "--reference", ct_folder, "--prescription-gy", "50"]
    run(parser.parse_args(list(map(str, words))))
    dose = pydicom.dcmread(capsys.readouterr().out.splitlines()[1])
    highest = dose.pixel_array.max() * float(dose.DoseGridScaling)
    assert highest == pytest.approx(content()[2].max() / 2, abs=1e-4)


def test_the_plan_knows_the_prescription_that_was_told(
    prediction: Path, ct_folder: Path, tmp_path: Path, require_judge, caplog: pytest.LogCaptureFixture
) -> None:
    """So that the planning system shows percent of it; of another plan's prescription a warning tells."""
    (prediction / "dose.nii.gz").rename(prediction / "dose_percent.nii.gz")
    plan = export(prediction, ct_folder, prescription_gy=50, out=tmp_path / "first")[1]
    assert [item.dose_gy for item in read_rtplan(plan).prescriptions] == [50.0]
    assert dciodvfy_errors(require_judge("dciodvfy"), plan) == []
    export(prediction, ct_folder, prescription_gy=50, plan=plan, out=tmp_path / "second")
    assert not caplog.records
    export(prediction, ct_folder, prescription_gy=60, plan=plan, out=tmp_path / "second")
    assert "plan.dcm: prescribes up to 50 Gy, but 60 Gy were taken as 100 %" in caplog.text


def test_folders_without_what_is_needed(prediction: Path, ct_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no prediction"):
        export(prediction.parent, ct_folder)
    with pytest.raises(UsageError, match="there is no such folder"):
        export(tmp_path / "nowhere", ct_folder)
    with pytest.raises(NothingFoundError, match="holds no CT images"):
        export(prediction, tmp_path / "predictions")
    with pytest.raises(NothingFoundError, match="there is no such folder"):
        export(prediction, tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"nothing can be exported to 'rtdos'. Did you mean rtdose"):
        export(prediction, ct_folder, kinds=["rtdos"])


def test_equal_seeds_give_equal_bytes(prediction: Path, ct_folder: Path, tmp_path: Path) -> None:
    first = export(prediction, ct_folder, out=tmp_path / "a", seed="s", when=WHEN)
    second = export(prediction, ct_folder, out=tmp_path / "b", seed="s", when=WHEN)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_command(prediction: Path, ct_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = [prediction, "--to", "rtstruct", "rtdose", "--reference", ct_folder, "--out", tmp_path / "out"]
    assert run(parser.parse_args(list(map(str, words)))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in lines[:3]] == ["rtstruct.dcm", "rtplan.dcm", "rtdose.dcm"]
    assert "research only" in lines[3]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(Path(line).name for line in lines[:3])


class Orthanc:
    """A DICOM server on loopback."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, data: bytes | None = None, **headers: str) -> bytes:
        """Body of the answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data=data, headers=named)
        with self.opener.open(request, timeout=30) as answer:
            return answer.read()


@pytest.fixture(scope="module")
def orthanc(require_judge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    program = require_judge("Orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": {"Enable": True},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([program, str(folder / "settings.json")], stdout=log, stderr=log, cwd=folder)
    server = Orthanc(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                server.ask("/system")
                break
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"Orthanc does not start: {(folder / 'log.txt').read_text()[-2000:]}")
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def test_orthanc_takes_everything_and_gives_it_back(
    orthanc: Orthanc, require_judge, prediction: Path, ct_folder: Path
) -> None:
    """Stored by DICOMweb (STOW-RS), found beside the CT (QIDO-RS) and retrieved (WADO-RS), byte for byte."""
    require_judge("highdicom")
    written = export(prediction, ct_folder, kinds=["rtstruct", "rtdose", "seg"])
    assert names(written) == ["rtstruct.dcm", "rtplan.dcm", "rtdose.dcm", "seg.dcm"]
    files = [path.read_bytes() for path in (*sorted(ct_folder.iterdir()), *written)]
    parts = [b"--border\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in files]
    answer = orthanc.ask(
        "/dicom-web/studies",
        b"".join([*parts, b"--border--"]),
        Content_Type='multipart/related; type="application/dicom"; boundary=border',
        Accept="application/dicom+json",
    )
    stored = json.loads(answer)
    assert len(stored["00081199"]["Value"]) == len(files)
    assert stored.get("00081198", {}).get("Value", []) == [], "nothing was refused"
    (study,) = json.loads(orthanc.ask("/dicom-web/studies?includefield=00080061", Accept="application/dicom+json"))
    assert set(study["00080061"]["Value"]) == {"CT", "RTSTRUCT", "RTPLAN", "RTDOSE", "SEG"}
    for path in written:
        read = pydicom.dcmread(path)
        place = f"studies/{read.StudyInstanceUID}/series/{read.SeriesInstanceUID}/instances/{read.SOPInstanceUID}"
        wanted = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        answer = orthanc.ask(f"/dicom-web/{place}", Accept=wanted)
        head, _, body = answer.partition(b"\r\n\r\n")
        border = re.search(rb"--(\S+)", head)
        assert border is not None
        assert body[: body.rindex(b"\r\n--" + border[1])] == path.read_bytes(), path.name
