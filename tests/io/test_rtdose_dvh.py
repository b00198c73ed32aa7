"""Stored dose-volume histograms: read from their data, never from attributes that may be percentages."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTDoseStorage

from mtl_med.io.rtdose_dvh import read_dvhs

# 10 cc: 2 cc below 10 Gy, 5 cc between 10 and 20, 3 cc between 20 and 30, nothing above.
CUMULATIVE = [10, 10, 10, 8, 10, 3, 10, 0]
DIFFERENTIAL = [10, 2, 10, 5, 10, 3, 10, 0]


def _item(roi: int = 1, data=CUMULATIVE, **changes) -> Dataset:
    item, structure = Dataset(), Dataset()
    structure.ReferencedROINumber, structure.DVHROIContributionType = roi, "INCLUDED"
    item.DVHReferencedROISequence = [structure]
    item.DVHType, item.DoseUnits, item.DVHVolumeUnits, item.DVHDoseScaling = "CUMULATIVE", "GY", "CM3", "1"
    item.DVHNumberOfBins, item.DVHData = len(data) // 2, [str(value) for value in data]
    item.DVHMaximumDose, item.DVHMeanDose = "101.3", "97.5"  # per cent, as real systems write them
    for keyword, value in changes.items():
        setattr(item, keyword, value)
    return item


def _read(tmp_path, *dvhs: Dataset):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.DVHSequence = RTDoseStorage, "2.25.1", list(dvhs)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = RTDoseStorage, "2.25.1"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(tmp_path / "rd.dcm", enforce_file_format=True)
    return read_dvhs(tmp_path / "rd.dcm")


@pytest.mark.parametrize(
    "item",
    [
        _item(),
        _item(data=DIFFERENTIAL, DVHType="DIFFERENTIAL"),
        _item(data=[1, 10, 1, 8, 1, 3, 1, 0], DVHDoseScaling="10"),
    ],
    ids=["cumulative", "differential", "scaled"],
)
def test_mean_and_maximum_come_from_the_data(tmp_path, item):
    found, notes = _read(tmp_path, item)
    assert notes == ()
    dvh = found[1]
    assert dvh.mean_gy == pytest.approx((2 * 5 + 5 * 15 + 3 * 25) / 10)
    assert dvh.max_gy == pytest.approx(30)
    assert dvh.volume_cc == pytest.approx(10)
    np.testing.assert_allclose(dvh.dose_gy, [0, 10, 20, 30, 40])
    np.testing.assert_allclose(dvh.share, [1, 0.8, 0.3, 0, 0])


def test_a_histogram_in_per_cent_has_no_volume(tmp_path):
    found, _ = _read(tmp_path, _item(data=[10, 100, 10, 80, 10, 30, 10, 0], DVHVolumeUnits="PERCENT"))
    assert found[1].volume_cc is None
    assert found[1].mean_gy == pytest.approx(16)


@pytest.mark.parametrize(
    "bad",
    [
        _item(2, DoseUnits="RELATIVE"),
        _item(2, DVHType="NATURAL"),
        _item(2, DVHVolumeUnits="PER_U"),
        _item(2, DVHNumberOfBins=7),
        _item(2, DVHNumberOfBins=10**9),
        _item(2, DVHDoseScaling="0"),
        _item(2, data=[10, 3, 10, 8]),
        _item(2, data=[10, 0, 10, 0]),
        _item(2, data=[10, 8, -10, 3]),
        _item(1),
    ],
    ids=["relative", "natural", "per u", "bins", "many bins", "scaling", "rising", "empty", "negative", "twice"],
)
def test_what_cannot_be_used_is_left_out_and_told(tmp_path, bad):
    found, notes = _read(tmp_path, _item(1), bad)
    assert list(found) == [1]
    assert len(notes) == 1
    assert "left out" in notes[0]


def test_a_dose_without_histograms_gives_none(dicom_rt_data):
    assert read_dvhs(dicom_rt_data / "eclipse_prostate" / "RD.dcm") == ({}, ())


@pytest.mark.parametrize(
    ("percent", "expected"), [(100, 0.0), (90, 5.0), (80, 10.0), (55, 15.0), (30, 20.0), (15, 25.0), (1, 29.667)]
)
def test_dose_at_volume_is_linear_within_a_bin(tmp_path, percent, expected):
    (dvh,) = _read(tmp_path, _item())[0].values()
    assert dvh.dose_at_volume(percent) == pytest.approx(expected, abs=1e-3)


def test_a_stored_dvh_of_one_dose_says_that_dose(tmp_path):
    """All 4 cc in the bin from 20 to 20.1 Gy."""
    (dvh,) = _read(tmp_path, _item(data=[20, 4, 0.1, 4, 1, 0]))[0].values()
    assert 20.0 <= dvh.dose_at_volume(98) <= dvh.dose_at_volume(2) <= 20.1
