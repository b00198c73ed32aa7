"""The Eclipse prostate study against the tables of three programs; docs/dvh.md holds what the code gives."""

from __future__ import annotations

import pytest

from mtl_med.dosimetry.inputs import DoseCase
from tests.dosimetry import dvh_tables
from tests.dosimetry.dvh_tables import CERR_BIN_GY, NAMES, Values


@pytest.fixture(scope="module")
def folder(dicom_rt_data):
    return dicom_rt_data / "eclipse_prostate"


@pytest.fixture(scope="module")
def case(folder, tmp_path_factory) -> DoseCase:
    """The study as prep writes it."""
    return dvh_tables.study_case(folder, tmp_path_factory.mktemp("eclipse"))


@pytest.fixture(scope="module")
def doses(case):
    return dict(dvh_tables.structure_doses(case))


@pytest.fixture(scope="module")
def ours(doses) -> dict[str, Values]:
    return dvh_tables.values_of(doses)


def _curves(folder, program):
    return dvh_tables.read_table(folder / f"EclipseProstate_DvhTable_{program}.csv")[0]


def test_slicerrt_agrees_in_everything(folder, ours):
    curves = _curves(folder, "SlicerRT")
    assert [name for name in NAMES.values() if not dvh_tables.within(ours[name], curves[name].values())] == []


def test_eclipse_agrees_in_everything_but_the_body(folder, ours):
    curves = _curves(folder, "Eclipse")
    assert [name for name in NAMES.values() if not dvh_tables.within(ours[name], curves[name].values())] == ["Body"]


def test_the_body_of_eclipse_has_half_a_slice_less_at_each_end(folder, case):
    theirs, half = _curves(folder, "Eclipse")["Body"].values(), dvh_tables.half_end_slices(case, "Body")
    assert half.mean == pytest.approx(theirs.mean, abs=0.01)
    assert half.d95 == pytest.approx(theirs.d95, rel=2e-3)
    assert half.volume == pytest.approx(theirs.volume, rel=1e-3)


def test_cerr_agrees_at_the_upper_edges_of_its_bins(folder, doses, ours):
    curves = _curves(folder, "CERR")
    for name in NAMES.values():
        assert dvh_tables.within(ours[name], curves[name].values(CERR_BIN_GY / 2)), name
        assert dvh_tables.share_difference(doses[name], curves[name], CERR_BIN_GY / 2) < 0.05
        assert dvh_tables.share_difference(doses[name], curves[name], 0.0) > 2


def test_no_structure_is_smaller_than_one_cc(ours):
    """Such would have to be listed apart."""
    assert min(item.volume for item in ours.values()) > 30


def test_the_document_holds_what_the_code_gives(folder, case, doses):
    text = dvh_tables.DOCUMENT.read_text(encoding="utf-8")
    assert dvh_tables.between_marks(text) == dvh_tables.tables(folder, case, doses).strip()
    assert "0.00035604" in (folder / "EclipseProstate_DvhTable_Eclipse.csv").read_text()
