"""Made-up pelvises: repeatable, different from each other, a pelvis in outline, and a plan that a clinic would take."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import ndimage

from mtl_med.errors import UsageError
from mtl_med.phantoms import PelvisPhantom, make_pelvis
from mtl_med.phantoms.outlines import Plane, outlines
from mtl_med.phantoms.pelvis import SCHEDULES
from mtl_med.phantoms.solids import Ellipsoid, inside

TINY = (40, 40, 24)
VOLUMES_CC = {  # what patients have, generously
    "External": (9_000, 22_000),
    "Bladder": (60, 300),
    "Rectum": (50, 150),
    "Femur_Head_L": (40, 70),
    "Femur_Head_R": (40, 70),
    "CTV": (20, 80),
    "PTV": (70, 190),
}


def digest(phantom: PelvisPhantom) -> str:
    parts = [phantom.ct_hu, phantom.dose_gy, phantom.possible_dose_mask, phantom.grid.affine]
    parts += [phantom.structures[name] for name in sorted(phantom.structures)]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@pytest.fixture(scope="module")
def pelvis() -> PelvisPhantom:
    return make_pelvis(3, shape=(112, 112, 80))


@pytest.fixture(scope="module")
def pelvises() -> list[PelvisPhantom]:
    return [make_pelvis((1, seed), shape=TINY) for seed in range(12)]


def test_same_seed_same_bytes_also_in_another_process(run_python):
    program = (
        "import hashlib; from mtl_med.phantoms import make_pelvis; p = make_pelvis((3, 1), shape=(40, 40, 24));"
        "parts = [p.ct_hu, p.dose_gy, p.possible_dose_mask, p.grid.affine];"
        "parts += [p.structures[n] for n in sorted(p.structures)];"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in parts)).hexdigest())"
    )
    here = digest(make_pelvis((3, 1), shape=TINY))
    assert run_python("-c", program, env={"OMP_NUM_THREADS": "1"}).stdout.strip() == here


def test_seeds_give_different_patients(pelvises):
    assert len({digest(item) for item in pelvises}) == len(pelvises)
    assert len({item.fractions for item in pelvises}) >= 3
    volumes = np.array([item.structures["Bladder"].sum() for item in pelvises])
    assert volumes.std() / volumes.mean() > 0.1


def test_prescriptions_are_schedules_of_the_clinic(pelvises):
    for item in pelvises:
        assert (item.prescriptions_gy["PTV"], item.fractions) in SCHEDULES
        assert item.prescriptions_gy["CTV"] == item.prescriptions_gy["PTV"]


@pytest.mark.parametrize("name", VOLUMES_CC)
def test_structures_have_the_sizes_of_patients(pelvis, name):
    low, high = VOLUMES_CC[name]
    assert low < pelvis.structures[name].sum() * pelvis.grid.voxel_volume_mm3 / 1000 < high


def test_structures_lie_as_in_a_patient(pelvises):
    for item in pelvises:
        at = {name: item.grid.centroid_ras(mask) for name, mask in item.structures.items()}
        assert at["Femur_Head_L"][0] < -75 < 75 < at["Femur_Head_R"][0]
        assert at["Rectum"][1] < at["CTV"][1] < at["Bladder"][1]
        assert at["CTV"][2] < at["Bladder"][2]


def test_organs_do_not_overlap_and_lie_in_the_body(pelvises):
    organs = ("Bladder", "Rectum", "Femur_Head_L", "Femur_Head_R", "CTV")
    for item in pelvises:
        x, y, z = np.mgrid[-120:121:3, -70:75:3, -70:110:3].astype(float)
        held = {name: inside(item.solids[name], x, y, z) for name in (*organs, "PTV", "External")}
        assert max(sum(held[name].astype(int) for name in organs).ravel()) == 1
        assert not (held["CTV"] & ~held["PTV"]).any()
        assert all(not (mask & ~held["External"]).any() for mask in held.values())


def test_margin_around_the_ctv_is_smaller_towards_the_rectum(pelvis):
    outer, inner = (pelvis.solids[name].parts[0] for name in ("PTV", "CTV"))
    (_, back_outer, _), (_, back_inner, _) = outer.bounds[0], inner.bounds[0]
    (_, front_outer, top_outer), (_, front_inner, top_inner) = outer.bounds[1], inner.bounds[1]
    assert 3.9 < back_inner - back_outer < 6.1
    assert 5.9 < front_outer - front_inner < 8.1
    assert 5.9 < top_outer - top_inner < 8.1


def test_masks_are_the_solids_at_the_voxel_centres(pelvis):
    solid = pelvis.solids["Bladder"]
    assert isinstance(solid, Ellipsoid)
    counted = pelvis.structures["Bladder"].sum() * pelvis.grid.voxel_volume_mm3
    assert counted == pytest.approx(solid.volume_mm3, rel=0.02)
    assert pelvis.grid.centroid_ras(pelvis.structures["Bladder"]) == pytest.approx(solid.centre, abs=0.3)


def test_tissues_have_their_hounsfield_units(pelvis):
    hu, masks = pelvis.ct_hu, pelvis.structures
    assert np.median(hu[masks["Bladder"]]) == pytest.approx(6, abs=15)
    assert np.median(hu[masks["Femur_Head_L"]]) > 250
    assert 25 < np.median(hu[masks["CTV"]]) < 65
    assert (hu[masks["Rectum"]] < -500).mean() > 0.01  # gas
    skin = masks["External"] & ~ndimage.binary_erosion(masks["External"], iterations=3)
    assert -120 < np.median(hu[skin]) < -80  # fat below it
    assert np.median(hu[0]) == pytest.approx(-1000, abs=15)
    assert (hu[masks["External"]] > 700).sum() > 500  # cortical bone


def test_couch_is_no_part_of_the_body(pelvis):
    """The largest component above -300 HU is the body, as for files without a contour of it."""
    labels, _ = ndimage.label(pelvis.ct_hu > -300)
    largest = ndimage.binary_fill_holes(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
    body = pelvis.structures["External"]
    assert 2 * (largest & body).sum() / (largest.sum() + body.sum()) > 0.985
    assert ((pelvis.ct_hu > -950) & ~body).any()


def test_dose_is_a_plan_that_a_clinic_would_take(pelvis):
    dose, masks, gy = pelvis.dose_gy, pelvis.structures, pelvis.prescriptions_gy["PTV"]
    assert 0.95 * gy < np.percentile(dose[masks["PTV"]], 5) < 1.01 * gy
    assert 1.0 * gy < dose.max() <= 1.1 * gy + 1e-3
    assert 0.98 * gy < np.median(dose[masks["PTV"]]) < 1.05 * gy
    assert dose[masks["Rectum"]].mean() < 0.7 * gy
    assert dose[masks["Bladder"]].mean() < 0.7 * gy
    assert np.percentile(dose[masks["Femur_Head_L"]], 98) < 0.7 * gy
    assert dose[masks["Femur_Head_R"]].mean() > 0.02 * gy
    assert (dose >= 0.95 * gy).sum() < 2.2 * masks["PTV"].sum()
    assert not dose[~pelvis.possible_dose_mask].any()
    assert not (masks["PTV"] & ~pelvis.possible_dose_mask).any()


def test_dose_is_even_in_the_target_of_every_patient(pelvises):
    for item in pelvises:
        dose = item.dose_gy[item.structures["PTV"]] / item.prescriptions_gy["PTV"]
        assert np.percentile(dose, 98) - np.percentile(dose, 5) < 0.12
        assert (dose >= 1.0999).mean() < 0.02


def test_thighs_part_below_and_vesicles_above(pelvis):
    """Structures with two outlines in one slice are there to be read."""

    def at(name: str, z: float) -> int:
        plane = Plane(np.array([0.0, 0.0, z]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
        return len(outlines(pelvis.solids[name], plane))

    assert at("External", 50) == 1
    assert at("External", -110) == 2
    assert at("CTV", 4) == 2


def test_walls_are_hollow_and_come_on_request(pelvis):
    assert "Bladder_Wall" not in pelvis.solids
    walls = make_pelvis(3, shape=TINY, walls=True).solids
    for name in ("Bladder", "Rectum"):
        wall, whole = walls[f"{name}_Wall"], walls[name]
        middle = np.mean(whole.bounds, axis=0)
        if name == "Rectum":
            middle = np.array(whole.knots[3])[[1, 2, 0]]
        assert inside(whole, *middle)
        assert not inside(wall, *middle)


@pytest.mark.parametrize(
    ("seed", "shape"), [(-1, TINY), ((), TINY), (1, (40, 40)), (1, (40, 40, 8)), (1, (16, 40, 40))]
)
def test_what_cannot_be_made_is_refused(seed, shape):
    with pytest.raises(UsageError):
        make_pelvis(seed, shape=shape)
