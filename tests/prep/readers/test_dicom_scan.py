"""Folders of DICOM: what matters is found whatever lies beside it, and what is left out is counted with a reason."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from mtl_med.errors import NothingFoundError
from mtl_med.prep.dicom_headers import kind_of
from mtl_med.prep.dicom_scan import Scan, scan_folder
from mtl_med.prep.folders import walk

MadeStudy = Callable[..., "object"]


def kinds(scan: Scan) -> dict[str, int]:
    """How many files of each kind were found."""
    found = {"CT": sum(len(series.files) for series in scan.series.values())}
    for item in scan.objects:
        found[item.kind] = found.get(item.kind, 0) + 1
    return found


def test_a_study_is_found_with_what_refers_to_what(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct().rtplan().rtdose(plan=1, structures=1)
    scan = scan_folder(study.folder)
    assert kinds(scan) == {"CT": 6, "RTSTRUCT": 1, "RTPLAN": 1, "RTDOSE": 1} and scan.files == 9
    (series,) = scan.series.values()
    assert series.key == ("P1", study.uid(5), study.series_uid)
    assert series.sop_uids == set(study.image_uids) and series.frame_uids == {study.frame_uid}
    of = {item.kind: item for item in scan.objects}
    assert of["RTSTRUCT"].series_uids == {study.series_uid} and of["RTSTRUCT"].image_uids == set(study.image_uids)
    assert of["RTPLAN"].structure_sets == of["RTDOSE"].structure_sets == {of["RTSTRUCT"].sop_uid}
    assert of["RTDOSE"].plans == {of["RTPLAN"].sop_uid}


def test_structures_that_only_their_contours_link_are_read_further(made_study: MadeStudy) -> None:
    study = made_study().rtstruct(refer="contours")
    (item,) = scan_folder(study.folder).objects
    assert item.series_uids == frozenset() and item.image_uids == {study.image_uids[0]}


def test_contours_are_not_read_where_they_are_not_needed(
    made_study: MadeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtl_med.io import dicom

    study, asked = made_study().ct().rtstruct().rtdose(), []

    def read_header(path: Path, stop_before: str = "PixelData") -> object:
        asked.append((path.name[:2], stop_before))
        return real(path, stop_before=stop_before)

    real = dicom.read_header
    monkeypatch.setattr(dicom, "read_header", read_header)
    scan_folder(study.folder)
    assert ("RS", "PixelData") not in asked and ("CT", "PixelData") not in asked
    assert ("RD", "PixelData") in asked


def test_other_objects_are_counted_and_not_taken(made_study: MadeStudy) -> None:
    study = made_study(slices=2).ct()
    others = {"MR": "1.2.840.10008.5.1.4.1.1.4", "SR": "1.2.840.10008.5.1.4.1.1.88.11"}
    others |= {"REG": "1.2.840.10008.5.1.4.1.1.66.1", "PT": "1.2.840.10008.5.1.4.1.1.128"}
    for number, (modality, sop_class) in enumerate(others.items()):
        made = study.header("CT", study.uid(90, number))
        made.Modality, made.SOPClassUID = modality, sop_class
        study.save(f"{modality}.dcm", made)
    scout = study.header("CT", study.uid(91))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    study.save("scout.dcm", scout)
    capture = study.header("CT", study.uid(92))
    capture.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    study.save("capture.dcm", capture)
    (study.folder / "notes.txt").write_text("beam 3 twice\n")
    (study.folder / "plan.pinnacle").write_text("x")
    scan = scan_folder(study.folder)
    assert kinds(scan) == {"CT": 2} and scan.unusable == {study.folder: {"CT object of another kind": 1}}
    told = [*others, "CT localizer", ".txt file", "file that is no DICOM"]
    assert dict(scan.ignored[study.folder]) == dict.fromkeys(told, 1)


def test_dicomdir_is_no_case(made_study: MadeStudy) -> None:
    study = made_study(slices=1).ct()
    index = study.header("CT", "1.2.3")
    index.SOPClassUID = "1.2.840.10008.1.3.10"
    assert kind_of(index) == ("", "DICOMDIR", False)


def test_kind_goes_by_class_and_by_modality_where_there_is_none(made_study: MadeStudy) -> None:
    header = made_study().header("CT", "1.2.3")
    assert kind_of(header).kind == "CT"
    for sop_class in ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"):
        header.SOPClassUID = sop_class
        assert kind_of(header).kind == "CT"
    del header.SOPClassUID
    assert kind_of(header).kind == "CT"
    del header.SOPInstanceUID
    assert kind_of(header) == ("", "CT without SOPInstanceUID", True)


BROKEN = {
    "empty": (b"", "is empty"),
    "garbage": (bytes(range(7, 256)) * 16, "is no DICOM file"),
    "preamble-only": (bytes(128) + b"DICM", "beginning of a DICOM file"),
    "no-end": (None, "is truncated"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_counted_with_the_reason(made_study: MadeStudy, name: str) -> None:
    study = made_study(slices=2).ct()
    data, reason = BROKEN[name]
    whole = study.written[0].read_bytes()
    (study.folder / "broken.dcm").write_bytes(whole[:300] if data is None else data)
    scan = scan_folder(study.folder)
    assert kinds(scan) == {"CT": 2}
    ((told, count),) = scan.unusable[study.folder].items()
    assert reason in told and count == 1


def test_files_without_preamble_are_read(made_study: MadeStudy) -> None:
    study = made_study(slices=1)
    made = study.header("CT", study.image_uids[0])
    made.ImagePositionPatient = [0, 0, 0]
    study.pixels(made, study.hu()[0])
    study.save("plain", made, preamble=False)
    study.save("implicit", made, preamble=False, implicit=True)
    assert kinds(scan_folder(study.folder)) == {"CT": 2}


def test_links_that_loop_are_followed_once(made_study: MadeStudy) -> None:
    study = made_study(folder="a/b").ct()
    root = study.folder.parent.parent
    (study.folder / "up").symlink_to(root, target_is_directory=True)
    (root / "self").symlink_to(root / "self")
    (root / "again").symlink_to(study.folder, target_is_directory=True)
    (root / "nowhere").symlink_to(root / "missing")
    os.mkfifo(root / "pipe")  # would wait for ever if it were opened
    scan = scan_folder(root)
    assert kinds(scan) == {"CT": 6} and scan.files == 6
    assert sum(scan.ignored[root].values()) == 3


def test_names_with_spaces_and_other_scripts(made_study: MadeStudy) -> None:
    study = made_study(folder="Ward 7/Müller, Zoë — 検査").ct()
    odd = os.fsencode(study.folder) + b"/CT\xff\xfe.dcm"
    os.link(study.written[0], odd)
    assert kinds(scan_folder(study.folder)) == {"CT": 7}


def test_folders_that_cannot_be_read_are_counted(made_study: MadeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study = made_study().ct()
    (study.folder / "closed").mkdir()
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    scan = scan_folder(study.folder)
    assert kinds(scan) == {"CT": 6}
    assert scan.ignored[study.folder / "closed"] == {"folder that cannot be read (Permission denied)": 1}


def test_many_files_take_little_memory(made_study: MadeStudy) -> None:
    study = made_study(slices=1).ct()
    count = 1000
    for number in range(count):
        os.link(study.written[0], study.folder / f"{number}.dcm")
    scan_folder(study.folder)  # imports, and whatever is made once
    tracemalloc.start()
    scan = scan_folder(study.folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kinds(scan) == {"CT": count + 1} and scan.files == count + 1
    assert peak < count * 1000 + (256 << 10)  # so that 100,000 files take 100 MB at most


def test_walking_gives_files_by_name_and_only_one_folder_at_a_time(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/z", "c"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    names = [path.relative_to(tmp_path).as_posix() for path in walk(tmp_path)]
    assert names == ["c", "a/z", "b/1", "b/2"]


def test_a_folder_without_dicom_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1")
    (tmp_path / "b.dcm").write_bytes(b"")
    with pytest.raises(NothingFoundError, match=r"among 2 files.*1 x \.csv file, 1 x is empty"):
        scan_folder(tmp_path)
    with pytest.raises(NothingFoundError, match="no such folder"):
        scan_folder(tmp_path / "missing")
