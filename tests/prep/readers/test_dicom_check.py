"""`--check` says what a run would refuse, as far as headers tell, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mtl_med import cli

MadeStudy = Callable[..., "object"]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`check(folder, "--force")` gives exit code and output."""

    def run(folder: Path, *words: object) -> tuple[int, str]:
        line = ["prep", "dicom_rt", "--source", folder, "--check", "--workers", 1, *words]
        return cli.main(list(map(str, line))), capsys.readouterr().out

    return run


def other_patient(study: object) -> None:
    study.variant(patient="P2").rtstruct()


def dose_of_another_frame(study: object) -> None:
    study.rtstruct().rtdose(structures=1, edit=lambda made: setattr(made, "FrameOfReferenceUID", "1.2.9"))


def structures_of_another_frame(study: object) -> None:
    study.variant(frame=2).rtstruct()


def dose_of_an_absent_plan_in_another_frame(study: object) -> None:
    study.rtstruct().rtdose(plan=9, edit=lambda made: setattr(made, "FrameOfReferenceUID", "1.2.9"))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (other_patient, "RTSTRUCT RS1.dcm and its CT have different PatientIDs"),
        (dose_of_another_frame, "the dose belongs to another frame of reference than the CT"),
        (structures_of_another_frame, "the structures belong to another frame of reference than the CT"),
        (dose_of_an_absent_plan_in_another_frame, "RTDOSE RD1.dcm belongs to another frame of reference than the CT"),
    ],
)
def test_what_needs_the_users_word_is_a_fault_until_it_is_given(
    made_study: MadeStudy, check: Callable[..., tuple[int, str]], tmp_path: Path, build: Callable, says: str
) -> None:
    study = made_study().ct()
    build(study)
    code, told = check(study.folder)
    assert code == 5 and f"cannot be converted: {says}" in told.replace(f"{study.folder}/RD1.dcm: ", "").replace(
        f"{study.folder}/RS1.dcm: ", ""
    )
    assert "--force" in told and "1 cases, 1 of which cannot be converted" in told
    code, told = check(study.folder, "--force")
    assert code == 0 and "1 cases, 0 of which cannot be converted" in told
    words = ["prep", "dicom_rt", "--source", study.folder, "--out", tmp_path / "study", "--workers", 1]
    assert cli.main(list(map(str, words))) == 5, "as the run does"


def test_doses_that_no_run_would_choose_from_are_a_fault(
    made_study: MadeStudy, check: Callable[..., tuple[int, str]]
) -> None:
    study = made_study().ct().rtstruct().rtplan(label=1).rtdose(50.0, plan=1).rtdose(20.0, plan=2, label=2)
    code, told = check(study.folder)
    assert code == 5 and "2 PLAN doses, expected one" in told and "--doses PLAN_SUM" in told
    assert check(study.folder, "--doses", "PLAN_SUM")[0] == 0


def test_the_grid_of_a_dose_that_is_not_there_is_a_fault_of_that_case_alone(
    made_study: MadeStudy, check: Callable[..., tuple[int, str]]
) -> None:
    made_study(folder="a", patient="A").ct().rtstruct()
    study = made_study(folder="b", patient="B", number=2).ct().rtstruct().rtdose()
    assert check(study.folder.parent)[0] == 0
    code, told = check(study.folder.parent, "--grid", "dose")
    assert code == 4 and "cannot be converted: has no dose whose grid could be taken. Use --grid ct" in told
    assert "2 cases, 1 of which cannot be converted" in told


def test_a_fault_of_a_deidentified_check_tells_nobody(
    made_study: MadeStudy, check: Callable[..., tuple[int, str]], key: Path
) -> None:
    study = made_study(folder="Doe John", patient="MRN4711").ct().rtstruct()
    study.rtdose(structures=1, edit=lambda made: setattr(made, "FrameOfReferenceUID", "1.2.9"))
    code, told = check(study.folder.parent, "--key", key)
    assert code == 5 and "another frame of reference" in told
    assert not [secret for secret in ("Doe", "John", "MRN4711", "RD1", str(study.folder.parent)) if secret in told]
