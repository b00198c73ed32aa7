"""The list of unknown names: written for a person, read back however a spreadsheet saved it."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest

from mtl_med.errors import UsageError
from mtl_med.prep.name_review import read_review, write_review
from mtl_med.prep.names import NameTable

UNKNOWN = {
    "p1": ["Hüftpfanne", "SpinalCord~", "=1+1"],
    "p2": ["SpinalCord~", "SpinalCord~"],
    "p3": ["SpinalCord~"],
    "p4": ["SpinalCord~"],
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def fill(path: Path, names: dict[str, str], delimiter: str = ",", encoding: str = "utf-8-sig") -> None:
    """What a spreadsheet does: read all cells, fill some in, and save in its own way."""
    table = rows(path)
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, table[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(row | {"name": names.get(row["original"], row["name"])} for row in table)


def test_the_most_frequent_come_first(tmp_path: Path) -> None:
    path = tmp_path / "names_review.csv"
    assert write_review(path, UNKNOWN, NameTable.load().suggest) == 3
    assert rows(path) == [
        {"original": "SpinalCord~", "times": "5", "cases": "p1 p2 p3 ...", "suggestion": "SpinalCord", "name": ""},
        {"original": "'=1+1", "times": "1", "cases": "p1", "suggestion": "", "name": ""},
        {"original": "Hüftpfanne", "times": "1", "cases": "p1", "suggestion": "", "name": ""},
    ]
    assert read_review(path) == {}


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "cp1252"), ("\t", "utf-8-sig")])
def test_it_comes_back_however_it_was_saved(tmp_path: Path, delimiter: str, encoding: str) -> None:
    path = tmp_path / "names_review.csv"
    write_review(path, UNKNOWN, lambda name: [])
    fill(path, {"Hüftpfanne": "Acetabulum_L", "'=1+1": "PTV_6000"}, delimiter, encoding)
    assert read_review(path) == {"Hüftpfanne": "Acetabulum_L", "=1+1": "PTV_6000"}


def test_what_a_person_filled_in_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "names_review.csv"
    write_review(path, UNKNOWN | {"p5": ["boost vol", "Muskel"]}, lambda name: [])
    fill(path, {"Hüftpfanne": "Acetabulum_L", "boost vol": "PTV1_6000", "Muskel": "Musc_Psoas_L", "=1+1": "Femur_L"})
    fill(path, {"'=1+1": "Femur_L"})
    with caplog.at_level(logging.WARNING):
        table = NameTable.load(path)
    names = ("Hüftpfanne", "boost vol", "Muskel", "=1+1", "SpinalCord~")
    assert [(table.match(name).name, table.match(name).kind) for name in names] == [
        ("Acetabulum_L", "oar"),
        ("PTV1_6000", "target"),
        ("Musc_Psoas_L", "oar"),
        ("Femur_L", "oar"),
        ("SpinalCord_part", "other"),
    ]
    assert table.match("boost vol").prescription_gy == 60.0
    assert table.match("Lt Femur").name == "Femur_Head_L", "a spelling was decided about, not a word"
    assert [record.getMessage().split(": ", 1)[1][:14] for record in caplog.records] == [
        "'Femur_L' is n",
        "'Musc_Psoas_L'",
    ]
    assert "did you mean Femur" in caplog.text


def test_another_run_keeps_what_was_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "names_review.csv"
    write_review(path, UNKNOWN, lambda name: [])
    fill(path, {"Hüftpfanne": "Acetabulum_L"})
    write_review(path, UNKNOWN, lambda name: [])
    assert read_review(path) == {"Hüftpfanne": "Acetabulum_L"}


def test_decisions_that_were_passed_back_stay_in_the_list(tmp_path: Path) -> None:
    """The list that a run writes lies where the one with the decisions lay: it must not take them away."""
    path = tmp_path / "names_review.csv"
    write_review(path, UNKNOWN, lambda name: ["Heart"])
    fill(path, {"Hüftpfanne": "Acetabulum_L", "'=1+1": "Femur_L"})
    for _ in range(2):
        assert write_review(path, {"p1": ["SpinalCord~"]}, lambda name: []) == 1
        assert read_review(path) == {"Hüftpfanne": "Acetabulum_L", "=1+1": "Femur_L"}
        assert [row["original"] for row in rows(path)] == ["SpinalCord~", "'=1+1", "Hüftpfanne"]
        assert rows(path)[2] == {
            "original": "Hüftpfanne",
            "times": "1",
            "cases": "p1",
            "suggestion": "Heart",
            "name": "Acetabulum_L",
        }


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "has no columns"),
        (b"a,b\n1,2\n", "has no columns"),
        (b"original,name\nX,a/b\n", "row 2: 'a/b' cannot be a name"),
        (b"original,name\nX,A\nY,\nX,B\n", "row 4: 'X' has two names: A and B"),
        (b"original,name\n ,A\n", "row 2: 'A' is for no original name"),
        (b"original,name\nX," + b"y" * 200_000 + b"\n", "is no CSV file"),
    ],
)
def test_a_list_that_cannot_be_meant(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "names.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=what):
        NameTable.load(path)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        NameTable.load(tmp_path / "names.csv")
