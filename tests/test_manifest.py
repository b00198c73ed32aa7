"""The study folder: what is written is read back, and what does not belong is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.geometry import Grid
from mtl_med.manifest import Case, Manifest, Structure

STRUCTURES = {
    "SpinalCord": Structure("SpinalCord", "oar", "contoured", 24.5),
    "Larynx": Structure("Larynx", "oar", "not_contoured"),
    "Esophagus": Structure("Esophagus", "oar", "empty", 0.0),
    "PTV70": Structure("PTV70", "target", "contoured", 286.0),
}


def make_case(root: Path, name: str = "a", split: str = "fit", **changes) -> Case:
    fields = {
        "id": name,
        "split": split,
        "folder": root / "cases" / name,
        "grid": Grid((4, 5, 6), np.diag([2.0, 2.5, 3.0, 1.0])),
        "files": {
            "ct": {"path": "ct.nii.gz", "sha256": "00"},
            "structures/SpinalCord": {"path": "structures/SpinalCord.nii.gz", "sha256": "11"},
        },
        "tasks": ("oar", "dose"),
        "structures": STRUCTURES,
        "prescriptions_gy": {"PTV70": 70.0},
        "fractions": 35,
        "spacing_mm": (2.0, 2.5, 3.0),
        "source_hash": "abc",
        "notes": ("an oddity",),
        "labels": {"diagnosis": 3},
    }
    return Case(**(fields | changes))


def write_study(root: Path, *cases: Case) -> Manifest:
    for case in cases:
        case.write()
    manifest = Manifest.build("openkbp", root, cases)
    manifest.write()
    return manifest


def plain(case: Case) -> dict:
    return case.to_dict() | {"folder": case.folder.resolve()}


def test_written_and_read_back(tmp_path: Path) -> None:
    cases = [make_case(tmp_path, "b"), make_case(tmp_path, "a", "tune", grid=None, fractions=None)]
    written = write_study(tmp_path, *cases)
    read = Manifest.read(tmp_path)
    assert [case.id for case in read] == ["a", "b"]
    assert [plain(case) for case in read] == [plain(cases[1]), plain(cases[0])]
    assert (read.dataset, len(read), read.fingerprint) == ("openkbp", 2, written.fingerprint)


def test_paths_in_the_manifest_are_relative(tmp_path: Path) -> None:
    """A study can be moved."""
    (tmp_path / "old").mkdir()
    write_study(tmp_path / "old", make_case(tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    (case,) = Manifest.read(tmp_path / "new")
    assert case.path("ct") == (tmp_path / "new" / "cases" / "a" / "ct.nii.gz").resolve()
    assert str(tmp_path) not in (tmp_path / "new" / "manifest.json").read_text()


def test_names_by_kind_and_status(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    assert case.names("oar") == ["SpinalCord", "Esophagus"]
    assert case.names("oar", contoured_only=False) == ["SpinalCord", "Larynx", "Esophagus"]
    assert case.names("target") == ["PTV70"]
    assert case.names("external") == []


def test_files_of_a_case(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    assert case.has("ct") and not case.has("dose")
    with pytest.raises(UsageError, match=r"a: has no 'dose'\. Check the study's quality\.csv"):
        case.path("dose")
    escaping = make_case(tmp_path, files={"ct": {"path": "../../x.nii.gz", "sha256": ""}})
    with pytest.raises(UsageError, match="leads outside"):
        escaping.path("ct")


def test_splits(tmp_path: Path) -> None:
    cases = [make_case(tmp_path, name, split) for name, split in [("a", "fit"), ("b", "tune"), ("c", "fit")]]
    manifest = Manifest.build("openkbp", tmp_path, cases)
    assert [case.id for case in manifest.split("fit")] == ["a", "c"]
    assert [case.id for case in manifest.split("tune", "fit")] == ["a", "b", "c"]
    with pytest.raises(UsageError, match=r"no case is in split 'test'\. Splits here: fit, tune"):
        manifest.split("test")


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({}, True),
        ({"notes": ()}, True),
        ({"split": "tune"}, False),
        ({"id": "b"}, False),
        ({"files": {"ct": {"path": "ct.nii.gz", "sha256": "01"}}}, False),
        ({"prescriptions_gy": {"PTV70": 60.0}}, False),
        ({"labels": {"severity": 3}}, False),
    ],
    ids=["same", "notes", "split", "id", "bytes", "prescription", "label"],
)
def test_fingerprint_follows_the_data(tmp_path: Path, changes: dict, equal: bool) -> None:
    first = Manifest.build("x", tmp_path, [make_case(tmp_path)])
    second = Manifest.build("x", tmp_path, [dataclasses.replace(make_case(tmp_path), **changes)])
    assert (first.fingerprint == second.fingerprint) == equal


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_that_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no study folder.*python -m mtl_med\.prep"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("manifest.json", {"schema": "mtl_med/manifest/0"}, "no manifest of this version"),
        ("manifest.json", {"cases": [{"id": "a", "folder": "../a"}]}, "leads outside"),
        ("cases/a/case.json", {"schema": "other"}, "schema is 'other', expected 'mtl_med/case/1'"),
        ("cases/a/case.json", {"structures": {"x": {"colour": 1}}}, r"'structures\.x\.original' is missing"),
        ("cases/a/case.json", {"grid": {"shape": [1, 1, 1]}}, "affine_ras"),
        ("manifest.json", {"cases": {"a": 1}}, r"'cases' is \{'a': 1\}\. Remove it and prepare the study again"),
        ("manifest.json", {"cases": ["a"]}, r"'cases\[0\]' is 'a'"),
        ("manifest.json", {"cases": [{"folder": "cases/a"}] * 2}, "it lists cases/a 2 times"),
        ("manifest.json", {"dataset": None}, "'dataset' is None"),
        ("manifest.json", {"classes": {"diagnosis": "melanoma"}}, r"'classes\.diagnosis' is 'melanoma'"),
        (
            "cases/a/case.json",
            {"files": ["ct"]},
            r"case\.json: is damaged: 'files' is \['ct'\]\. Prepare the study again",
        ),
        ("cases/a/case.json", {"files": {"ct": {"path": 3, "sha256": ""}}}, r"'files\.ct\.path' is 3"),
        ("cases/a/case.json", {"prescriptions_gy": {"PTV70": "70"}}, r"'prescriptions_gy\.PTV70' is '70'"),
        ("cases/a/case.json", {"notes": "odd"}, "'notes' is 'odd'"),
        ("cases/a/case.json", {"split": "train"}, "'split' is 'train', expected fit, tune, validation, test"),
        ("manifest.json", {"cases": [{"folder": "cases/\0"}]}, "is no path"),
        ("cases/a/case.json", {"fractions": "x" * 99}, r"'fractions' is 'x{59}\.\.\."),
        ("cases/a/case.json", {"grid": {"shape": "abc", "affine_ras": 1}}, "is damaged: grid"),
        ("cases/a/case.json", {"grid": 3}, "is damaged: grid"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(".json") else "",
)
def test_spoilt_studies_are_refused(tmp_path: Path, file: str, changes: dict, message: str) -> None:
    write_study(tmp_path, make_case(tmp_path))
    edit(tmp_path / file, **changes)
    with pytest.raises(UsageError, match=message):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("file", ["manifest.json", "cases/a/case.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b'{"schema": "mtl_med', b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"9" * 5000],
    ids=["empty", "truncated", "a list", "nothing", "no text", "deep", "a long number"],
)
def test_nonsense_is_refused_with_its_path(tmp_path: Path, file: str, content: bytes) -> None:
    write_study(tmp_path, make_case(tmp_path))
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UsageError, match=file) as caught:
        Manifest.read(tmp_path)
    assert caught.value.fix


def test_a_missing_case_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, make_case(tmp_path))
    (tmp_path / "cases" / "a" / "case.json").unlink()
    with pytest.raises(UsageError, match=r"cases/a/case\.json: cannot be read"):
        Manifest.read(tmp_path)
