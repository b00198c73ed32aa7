"""Optional attributes: readable ones come back, all others as nothing, without a word of what stood in them."""

from __future__ import annotations

import logging
import warnings

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from mtl_med.io.dicom_items import items, term, text, whole


def _raw(keyword: str, vr: str, value: bytes) -> Dataset:
    tag = Tag(keyword)
    return Dataset({tag: RawDataElement(tag, vr, len(value), value, 0, False, True)})


def test_values_are_read():
    ds = Dataset()
    ds.RTPlanLabel, ds.DoseUnits, ds.NumberOfFrames, ds.ReferencedRTPlanSequence = "a b", "GY", 3, [Dataset()]
    assert (text(ds, "RTPlanLabel"), term(ds, "DoseUnits"), whole(ds, "NumberOfFrames")) == ("a b", "GY", 3)
    assert len(items(ds, "ReferencedRTPlanSequence")) == 1


def test_what_is_absent_is_empty():
    ds = Dataset()
    assert (text(ds, "RTPlanLabel"), term(ds, "DoseUnits"), whole(ds, "NumberOfFrames")) == ("", "", None)
    assert items(ds, "ReferencedRTPlanSequence") == []


@pytest.mark.parametrize(
    "value", [b"Doe^Planted born 1970", b"\xff\xfe", b"A\\B", b"x" * 300], ids=["text", "bytes", "two", "long"]
)
@pytest.mark.parametrize("vr", ["CS", "IS", "UI", "DS", "SH", "US", "DA"])
def test_damaged_values_are_empty_and_nobody_hears_of_them(vr, value, caplog):
    ds = _raw("DoseUnits", vr, value)
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        assert term(ds, "DoseUnits") == ""
        assert whole(ds, "DoseUnits") is None or vr == "US"
        assert items(ds, "DoseUnits") == []
    assert "Planted" not in caplog.text


@pytest.mark.parametrize(
    ("value", "expected"), [(b"12", 12), (b" 7 ", 7), (b"1.5", None), (b"1\\2", None), (b"", None)]
)
def test_whole_numbers_are_whole(value, expected):
    assert whole(_raw("NumberOfFrames", "IS", value), "NumberOfFrames") == expected
