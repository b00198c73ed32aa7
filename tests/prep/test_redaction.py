"""Messages of a run that de-identifies: none of the planted names, numbers and dates comes through, in any spelling."""

from __future__ import annotations

import io
import logging
import pickle
from pathlib import Path

import pytest

from mtl_med.errors import CaseError, GeometryError
from mtl_med.prep.redaction import REMOVED, RedactingFilter, Redactor

PLANTED = [
    "Müller-Lüdenscheidt^Hans Jörg^^Dr",
    "MRN0012345",
    "0004711",
    "19600131",
    "St. Marien Klinik",
    "1.2.840.99.1",
]


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(PLANTED)


@pytest.mark.parametrize(
    "spelling",
    [
        *("Müller-Lüdenscheidt^Hans Jörg", "MÜLLER-LÜDENSCHEIDT", "Mueller_Luedenscheidt", "Muller Ludenscheidt"),
        *("mu\u0308ller-lu\u0308denscheidt", "Hans Jörg", "hans_joerg", "HansJoerg", "PTVMuellerLuedenscheidt2"),
        *("MRN0012345", "mrn0012345", "MRN-0012345", "0004711", "00004711"),
        *(
            "19600131",
            "1960-01-31",
            "31.01.1960",
            "31.1.60",
            "1/31/1960",
            "31 Jan 1960",
            "January 31, 1960",
            "1960/1/31",
        ),
        *("St. Marien Klinik", "ST MARIEN KLINIK", "st_marien_klinik", "1.2.840.99.1"),
    ],
)
def test_every_spelling_is_removed(redactor: Redactor, spelling: str) -> None:
    text = redactor.redact(f"the file of {spelling} is empty (case 7, 31 slices)")
    assert REMOVED in text
    for part in ("ller", "scheidt", "ans", "rg", "0012345", "4711", "1960", "60-", "Marien", "MARIEN", "marien", "840"):
        assert part not in text
    assert text.startswith("the file of ") and text.endswith(" is empty (case 7, 31 slices)")


@pytest.mark.parametrize(
    "text",
    [
        "dose grid covers 61 % of PTV_7000 (expected 100 %): dose z -120..33 mm",
        "140 slices of 512 x 512, pitch 2.5 mm, slope 1.0, offset -1024",
        "1.2.840.10008.1.2.4.90 needs pylibjpeg",
        "voxel 47112 of 1.2.840.99.12",
        "",
    ],
)
def test_what_says_nothing_about_anybody_stays(redactor: Redactor, text: str) -> None:
    assert redactor.redact(text) == text
    assert Redactor().redact(text) == text


def test_short_values() -> None:
    """A short name is removed as a word of its own, a short number is any number."""
    redactor = Redactor(["Lee^Ann", "Ng^Wu", "王小明", "12", "CT", "", "^^", " \0"])
    assert redactor.redact("Lee sleeps, ann_1, NG, Wu") == f"{REMOVED} sleeps, {REMOVED}_1, {REMOVED}, {REMOVED}"
    assert redactor.redact("der Patient 王小明 hat 12 CT") == f"der Patient {REMOVED} hat 12 CT"
    assert redactor.redact("Annette, Wuppertal, ring") == "Annette, Wuppertal, ring"


def test_signs_are_no_patterns() -> None:
    assert Redactor(["a.*b(c[", "(((((", "\\d+"]).redact("axxb 12 a.*b(c[") == f"axxb 12 {REMOVED}["


def test_more_can_be_added(redactor: Redactor) -> None:
    assert "Schmidt" in redactor.redact("Schmidt")
    redactor.add(["Schmidt^Eva"])
    assert redactor.redact("Eva Schmidt, MRN0012345") == f"{REMOVED} {REMOVED}, {REMOVED}"


def test_paths_of_the_source_are_not_told(tmp_path: Path) -> None:
    source = tmp_path / "export"
    redactor = Redactor(folders=[source])
    file = source / "DOE JOHN, 1960" / "CT: 1.dcm"
    assert redactor.redact(f"{file}: is empty") == "[source file]: 1.dcm: is empty"
    assert redactor.redact(f"cannot open '{source}/DOE/x.dcm'") == "cannot open '[source file]'"
    for name in ("O'Brien Mary", 'Mary "May" Doe', "Smith: John", "a:b"):
        assert redactor.redact(f"{source}/{name}/ct.nii.gz: it differs") == "[source file]: it differs"
        assert redactor.redact(f"cannot open '{source}/{name}/ct.nii.gz'") == "cannot open '[source file]'"
    assert redactor.redact(f"see {source}") == "see [source file]"
    assert redactor.redact(f"{tmp_path}/export2/a") == f"{tmp_path}/export2/a"
    assert redactor.redact(f"{tmp_path}/study") == f"{tmp_path}/study"


def test_errors_keep_their_kind_and_lose_the_rest(tmp_path: Path) -> None:
    redactor = Redactor(["Doe^John"], [tmp_path])
    error = GeometryError("DOE has 3 slices", where=tmp_path / "Doe: x" / "1.dcm", why="john.", fix="Ask Doe")
    told = redactor.error(error)
    assert type(told) is GeometryError
    assert str(told) == f"[source file]: {REMOVED} has 3 slices. {REMOVED}. Ask {REMOVED}."
    assert str(pickle.loads(pickle.dumps(told))) == str(told)
    assert redactor.error(CaseError("is empty", where="case_1")).where == "case_1"


def test_logs_are_redacted_with_their_tracebacks() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    redactor = Redactor(["Doe^John"])
    handler.addFilter(RedactingFilter(redactor))
    log = logging.Logger("of_this_test")
    log.addHandler(handler)
    log.warning("the name %s, %d %%", "DOE", 5)
    redactor.add(["Roe^Jane"])
    try:
        raise ValueError("Jane Roe's file")
    except ValueError:
        log.exception("failed: %s", {"name": "John"})
    text = stream.getvalue()
    assert text.startswith(f"the name {REMOVED}, 5 %\nfailed: {{'name': '{REMOVED}'}}\nTraceback")
    assert not any(word in text.lower() for word in ("doe", "john", "roe'", "jane r"))
