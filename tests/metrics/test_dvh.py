"""DVH metrics by name, and against closed forms: sphere and cylinder in a linear gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics.dose import dose_at_volume, volume_at_dose
from mtl_med.metrics.dvh import DvhMetric, StructureDoses, dvh_curve


@pytest.mark.parametrize(
    ("text", "name", "unit"),
    [
        ("D95%", "D_95", "Gy"),
        ("D_95", "D_95", "Gy"),
        ("d95%[%]", "D_95", "%"),
        ("D0.1cc", "D_0.1cc", "Gy"),
        ("D2cc[%]", "D_2cc", "%"),
        ("V20Gy", "V_20Gy", "%"),
        ("V_20gy[cc]", "V_20Gy", "cc"),
        ("V95%", "V_95%", "%"),
        ("Dmean", "mean", "Gy"),
        ("max[%]", "max", "%"),
        ("min", "min", "Gy"),
        ("volume", "volume", "cc"),
    ],
)
def test_names_of_metrics(text, name, unit):
    metric = DvhMetric.parse(text)
    assert (metric.name, metric.unit) == (name, unit)
    assert DvhMetric.parse(f"{metric.name}[{metric.unit}]") == metric


@pytest.mark.parametrize(
    "text", ["V20", "D95Gy", "D95%[cc]", "V20Gy[Gy]", "volume[%]", "median", "D0%", "D101%", "", "D-5%"]
)
def test_what_is_no_metric_is_refused(text):
    with pytest.raises(UsageError):
        DvhMetric.parse(text)


def _value(doses: StructureDoses, text: str, convention: str = "cumulative") -> float:
    return doses.value(DvhMetric.parse(text), convention)


def test_every_unit_on_ten_voxels():
    doses = StructureDoses(np.arange(10.0, 20.0), voxel_mm3=500.0, prescription_gy=20.0)
    expected = {
        "volume": 5.0,
        "mean": 14.5,
        "min": 10.0,
        "max": 19.0,
        "max[%]": 95.0,
        "mean[%]": 72.5,
        "D50%": 15.0,
        "D50%[%]": 75.0,
        "D2cc": 16.0,
        "D100%": 10.0,
        "V15Gy": 50.0,
        "V15Gy[cc]": 2.5,
        "V75%": 50.0,
        "V75%[cc]": 2.5,
        "V19.5Gy": 0.0,
        "V10Gy": 100.0,
    }
    assert {text: _value(doses, text) for text in expected} == pytest.approx(expected)
    assert _value(doses, "D50%", "linear") == pytest.approx(14.5)


def test_gaps_are_told_and_unknown_voxels_do_not_count():
    partly = StructureDoses(np.array([10.0, 20.0]), 1000.0, voxels=4)
    assert (partly.volume_cc, partly.known_percent, _value(partly, "mean")) == (4.0, 50.0, 15.0)
    assert math.isnan(_value(partly, "V95%")) and partly.gap(DvhMetric.parse("V95%")) == "no prescription is known"
    assert StructureDoses(np.zeros(0), 1.0).gap(DvhMetric.parse("mean")) == "it is empty"
    unknown = StructureDoses(np.zeros(0), 1.0, voxels=3)
    assert unknown.gap(DvhMetric.parse("mean")) == "its dose is not known" and math.isnan(_value(unknown, "mean"))
    assert partly.is_smaller_than(DvhMetric.parse("D3cc")) and not partly.is_smaller_than(DvhMetric.parse("D2cc"))
    assert _value(partly, "D3cc") == 10.0


def test_the_curve_is_the_exact_one_asked_at_its_doses():
    doses = StructureDoses(np.array([0.1, 0.25, 0.3, 0.3]), 1.0)
    asked, share = dvh_curve(doses)
    assert asked == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4]) and share[[0, 2, 4]].tolist() == [100.0, 75.0, 0.0]
    assert [volume_at_dose(doses.doses_gy, dose) for dose in asked] == pytest.approx(share.tolist())
    assert len(dvh_curve(StructureDoses(np.zeros(0), 1.0))[0]) == 0


def test_volume_and_dose_are_each_others_inverse():
    doses = np.random.default_rng(3).gamma(4.0, 8.0, 777)
    for percent in (1, 5, 50, 95, 99):
        assert volume_at_dose(doses, dose_at_volume(doses, percent, "cumulative")) >= percent
        assert volume_at_dose(doses, dose_at_volume(doses, percent, "cumulative") + 1e-9) < percent
    assert math.isnan(volume_at_dose(np.zeros(0), 1.0))


# Closed forms: the share of a body of half length or radius 1 that lies above the height u along the gradient.
def sphere_above(u: np.ndarray) -> np.ndarray:
    return (2 - 3 * u + u**3) / 4


def across_cylinder_above(u: np.ndarray) -> np.ndarray:
    """A cylinder across the gradient: the share of its disc."""
    return (np.arccos(u) - u * np.sqrt(1 - u**2)) / np.pi


def along_cylinder_above(u: np.ndarray) -> np.ndarray:
    """A cylinder along the gradient."""
    return (1 - u) / 2


RADIUS_MM, CENTRE_GY, GRADIENT = 18.0, 40.0, 0.5
BODIES = {
    "sphere": (sphere_above, lambda x, y, z: x**2 + y**2 + z**2 <= 1, 4 / 3 * np.pi),
    "cylinder across": (across_cylinder_above, lambda x, y, z: (x**2 + z**2 <= 1) & (abs(y) <= 1), 2 * np.pi),
    "cylinder along": (along_cylinder_above, lambda x, y, z: (x**2 + y**2 <= 1) & (abs(z) <= 1), 2 * np.pi),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (2.0, 2.0, 2.0), (0.7, 0.9, 2.5)], ids=str)
def test_analytic_bodies_in_a_linear_gradient_are_within_a_voxel(body, spacing_mm):
    above, inside, volume = BODIES[body]
    # Centres that favour no symmetry: 0.3 of a voxel beside the middle.
    axes = [np.arange(-RADIUS_MM - 2, RADIUS_MM + 2, mm) + 0.3 * mm for mm in spacing_mm]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    mask = inside(x / RADIUS_MM, y / RADIUS_MM, z / RADIUS_MM)
    doses = StructureDoses((CENTRE_GY + GRADIENT * z)[mask], float(np.prod(spacing_mm)))
    bound = GRADIENT * spacing_mm[2]  # the change of dose over one voxel
    heights = np.linspace(-1, 1, 20001)
    shares = above(heights)

    for percent in (98, 95, 50, 5, 2):
        exact = CENTRE_GY + GRADIENT * RADIUS_MM * np.interp(-percent / 100, -shares, heights)
        for convention in ("cumulative", "linear"):
            assert _value(doses, f"D{percent}%", convention) == pytest.approx(exact, abs=bound)
    for dose in (33.0, 37.3, 40.0, 44.1):
        at = [(dose + step - CENTRE_GY) / GRADIENT / RADIUS_MM for step in (bound, -bound)]
        low, high = 100 * np.interp(at, heights, shares)
        assert low <= _value(doses, f"V{dose}Gy") <= high
    assert _value(doses, "mean") == pytest.approx(CENTRE_GY, abs=bound / 2)
    for text, sign in (("max", 1), ("min", -1)):
        assert _value(doses, text) == pytest.approx(CENTRE_GY + sign * GRADIENT * RADIUS_MM, abs=bound)
    # Half a voxel all around is the most that centres can be off; much less is left of it by chance.
    assert doses.volume_cc == pytest.approx(volume * RADIUS_MM**3 / 1000, rel=1.5 * max(spacing_mm) / RADIUS_MM)
