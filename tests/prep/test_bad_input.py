"""Bad input: one sentence that names file and fault, the right exit code, and the other patients go through."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mtl_med.errors import CaseError, OutputError
from mtl_med.files import read_json
from mtl_med.prep.engine import How, prepare
from mtl_med.prep.readers import openkbp
from mtl_med.prep.recipe import Recipe, load_recipe

Change = Callable[[Path], object]


def overwrite(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def append(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + content)


def cut(name: str, count: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-count])


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


BAD = {
    "no CT": (remove("ct.csv"), "ct.csv is missing"),
    "no dose": (remove("dose.csv"), "dose.csv is missing"),
    "no dose mask": (remove("possible_dose_mask.csv"), "possible_dose_mask.csv is missing"),
    "no voxel size": (remove("voxel_dimensions.csv"), "voxel_dimensions.csv is missing"),
    "two voxel sizes": (overwrite("voxel_dimensions.csv", "3.9\n3.9\n"), "expected three voxel sizes in mm"),
    "voxel size of zero": (overwrite("voxel_dimensions.csv", "3.9\n3.9\n0\n"), "expected three voxel sizes in mm"),
    "empty CT": (overwrite("ct.csv", ""), "ct.csv: is empty"),
    "empty structure": (overwrite("Larynx.csv", ""), "Larynx.csv: is empty"),
    "dose cut in a number": (cut("dose.csv", 3), "dose.csv: ends in the middle of a line: the file is truncated"),
    "mask cut before the last newline": (cut("possible_dose_mask.csv", 1), "truncated"),
    "structure cut in a number": (cut("PTV70.csv", 4), "PTV70.csv: ends in the middle of a line"),
    "words in the CT": (append("ct.csv", "2000000,dense\n"), "found 'dense', expected a finite number"),
    "NaN in the dose": (append("dose.csv", "2000000,nan\n"), "found 'nan', expected a finite number"),
    "infinite dose": (append("dose.csv", "2000000,inf\n"), "found 'inf', expected a finite number"),
    "no dose value": (append("dose.csv", "2000000,\n"), "found '', expected a finite number"),
    "index beyond the grid": (append("dose.csv", f"{128**3},1.0\n"), "voxel index 2097152 lies outside the grid"),
    "index below zero": (append("PTV70.csv", "-1,\n"), "found '-1', expected a whole number as voxel index"),
    "index twice": (append("PTV70.csv", f"{(50 * 128 + 56) * 128 + 62},\n"), "is listed twice"),
    "index that is no number": (append("Larynx.csv", "x12,\n"), "found 'x12'"),
    "no header": (overwrite("ct.csv", "5,1000.0\n"), "header is '5,1000.0', expected ',data'"),
    "compressed": (overwrite("ct.csv", b"\x1f\x8b\x08\xff" * 9 + b"\n"), "ct.csv: is no text table"),
    "a folder in place of a file": (
        lambda folder: ((folder / "ct.csv").unlink(), (folder / "ct.csv").mkdir()),
        "ct.csv: cannot be read: Is a directory",
    ),
    "a link that leads nowhere": (
        lambda folder: ((folder / "dose.csv").unlink(), (folder / "dose.csv").symlink_to("nowhere")),
        "dose.csv: cannot be read: No such file",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_one_sentence(cohort, recipe: Recipe, fault: str) -> None:
    source = cohort(1)
    change, said = BAD[fault]
    change(source / "train-pats" / "pt_1")
    (found,) = openkbp.scan(source, load_recipe("openkbp"))
    with pytest.raises(CaseError) as caught:
        openkbp.read(found, recipe)
    sentence = str(caught.value)
    assert said in sentence and "pt_1" in sentence
    assert "\n" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_other_patients_go_through(cohort, recipe: Recipe, tmp_path: Path, workers: int) -> None:
    source = cohort(train=4)
    faults = {"pt_1": "empty CT", "pt_3": "a link that leads nowhere", "pt_4": "NaN in the dose"}
    for name, fault in faults.items():
        BAD[fault][0](source / "train-pats" / name)
    report = prepare(recipe, source, tmp_path / "study", How(workers=workers))
    assert report.converted == ["pt_2"]
    assert {name: BAD[fault][1] in report.failed[name] for name, fault in faults.items()} == dict.fromkeys(faults, True)
    assert [case.id for case in report.manifest] == ["pt_2"]
    assert report.exit_code == 4
    assert [path.name for path in (tmp_path / "study" / "cases").iterdir()] == ["pt_2"]


def test_a_patient_in_two_groups_is_refused_and_named(cohort, recipe: Recipe, tmp_path: Path) -> None:
    """Else the same patient would be learned from and validated on."""
    source = cohort(train=2, validation=1)
    shutil.copytree(source / "train-pats" / "pt_1", source / "validation-pats" / "pt_1")
    report = prepare(recipe, source, tmp_path / "study")
    assert report.failed == {"pt_1": "pt_1: is in train-pats and in validation-pats: a patient belongs to one group."}
    assert sorted(report.converted) == ["pt_2", "pt_201"]


@pytest.mark.parametrize("name", ["pt_1 copy", "pt_ü"])
def test_a_name_that_is_no_case_id_is_refused(cohort, recipe: Recipe, tmp_path: Path, name: str) -> None:
    source = cohort(train=2)
    (source / "train-pats" / "pt_1").rename(source / "train-pats" / name)
    report = prepare(recipe, source, tmp_path / "study")
    assert "cannot have" in report.failed[name] and report.converted == ["pt_2"]


def test_an_output_that_is_a_file_is_refused(cohort, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        prepare(recipe, cohort(1), tmp_path / "file" / "study")


# Exit codes and messages of the command itself.


def prep(*words: str | Path, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m mtl_med.prep`, on request unable to write files larger than `limit_bytes`."""
    program = ["-m", "mtl_med.prep"]
    if limit_bytes:
        limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))"
        run = "sys.argv[0] = 'prep'; runpy.run_module('mtl_med.prep', run_name='__main__')"
        program = ["-c", f"import resource, runpy, sys; {limit}; {run}"]
    return subprocess.run([sys.executable, *program, *map(str, words)], capture_output=True, text=True, timeout=60)


def test_exit_codes_of_good_and_bad_patients(cohort, tmp_path: Path) -> None:
    source = cohort(train=2)
    words = ("openkbp", "--source", source, "--out", tmp_path / "study", "--workers", "1")
    BAD["no dose"][0](source / "train-pats" / "pt_1")
    some = prep(*words)
    assert some.returncode == 4
    assert some.stderr.startswith(f"failed: pt_1: {source}") and some.stderr.count("\n") == 1
    assert "1 converted, 0 skipped, 1 failed" in some.stdout
    BAD["no dose"][0](source / "train-pats" / "pt_2")
    every = prep(*words)
    assert every.returncode == 5 and "0 converted, 0 skipped, 2 failed" in every.stdout


def test_a_path_that_is_no_utf8_is_a_path(cohort, tmp_path: Path) -> None:
    """Of the source, of the study, and in what is printed and recorded."""
    odd = os.fsdecode(b"r\xe4w")
    try:
        (tmp_path / odd).mkdir()
    except OSError:
        pytest.skip("this file system knows UTF-8 alone")
    source = cohort(train=2).rename(tmp_path / odd / "data")
    BAD["no dose"][0](source / "train-pats" / "pt_1")
    (source / "train-pats" / "pt_2").rename(source / "train-pats" / os.fsdecode(b"pt_2\xff"))
    shutil.copytree(source / "train-pats" / "pt_1", source / "train-pats" / "pt_3", symlinks=True)
    (source / "train-pats" / "pt_3" / "dose.csv").write_text(",data\n1,1.0\n")
    study = tmp_path / odd / "study"
    done = prep("openkbp", "--source", source, "--out", study, "--workers", "1")
    assert done.returncode == 4 and "fault of mtl_med" not in done.stderr
    assert r"r\udce4w" in done.stdout and r"r\udce4w" in done.stderr and r"pt_2\udcff" in done.stderr
    record = read_json(study / "run.json")
    assert (record["source"], record["converted"]) == (str(source), ["pt_3"])
    assert sorted(record["failed"]) == ["pt_1", r"pt_2\udcff"]
    assert os.fsencode(source) == os.fsencode(record["source"])


def test_no_data_set_ends_with_3(tmp_path: Path) -> None:
    done = prep("openkbp", "--source", tmp_path, "--out", tmp_path / "study")
    assert done.returncode == 3
    assert done.stderr == (
        f"error: {tmp_path}: is no OpenKBP data: no train-pats/pt_* or the like. Give the folder 'provided-data' that "
        "holds train-pats, validation-pats, test-pats, or one of these.\n"
    )
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["openkpb", "--source", "a", "--out", "b"], "openkbp"),
        (["openkbp", "--source", "a"], "--out"),
        (["openkbp", "--source", "a", "--out", "b", "--workers", "0"], "0 is no number above 0"),
        (["openkbp", "--source", "a", "--out", "b", "--limit", "few"], "few is no number above 0"),
        (["openkbp", "--merge", "--out", "b", "--source", "a"], "--source has no meaning with --merge"),
        (["openkbp", "--merge", "--out", "b", "--limit", "2"], "--limit has no meaning with --merge"),
        (["openkbp", "--merge", "--out", "b", "--overwrite"], "--overwrite has no meaning with --merge"),
    ],
    ids=["misspelt data set", "no output", "no workers", "no number", "merge from", "merge some", "merge over"],
)
def test_usage_ends_with_2(words: list[str], said: str) -> None:
    done = prep(*words)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") <= 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_ends_with_6_and_leaves_no_half_case(cohort, tmp_path: Path, workers: int) -> None:
    source = cohort(train=3)
    words = ("openkbp", "--source", source, "--out", tmp_path / "study", "--workers", str(workers))
    done = prep(*words, limit_bytes=20_000)
    assert done.returncode == 6, done.stderr
    assert "cannot write: " in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "study" / "cases").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(cohort, recipe: Recipe, tmp_path: Path) -> None:
    source = cohort(train=1)
    (source / "train-pats" / "pt_1" / "ct.csv").chmod(0)
    report = prepare(recipe, source, tmp_path / "study")
    assert "ct.csv: cannot be read: Permission denied" in report.failed["pt_1"]
    assert report.exit_code == 5
