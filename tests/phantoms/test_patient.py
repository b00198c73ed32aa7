"""Made-up patients: repeatable, different from each other, and anatomically where and what they should be."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.phantoms import Phantom, make_phantom

OARS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
SMALL = (48, 48, 48)
VOLUMES_CC = {  # what real patients have, a good deal wider than the phantoms' own spread
    "Brainstem": (18, 50),
    "SpinalCord": (15, 48),
    "RightParotid": (10, 45),
    "LeftParotid": (10, 45),
    "Esophagus": (4, 35),
    "Larynx": (10, 45),
    "Mandible": (40, 105),
    "PTV70": (80, 320),
}
TISSUE_HU = {  # mean inside the structure, eroded by nothing
    "Brainstem": (0, 60),
    "SpinalCord": (-10, 110),
    "RightParotid": (-60, 60),
    "LeftParotid": (-60, 60),
    "Esophagus": (-80, 80),
    "Mandible": (500, 1100),
}


def digest(phantom: Phantom) -> str:
    parts = [phantom.ct_hu, phantom.dose_gy, phantom.possible_dose_mask, phantom.grid.affine]
    parts += [phantom.structures[name] for name in sorted(phantom.structures)]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@pytest.fixture(scope="module", params=range(3), ids=lambda seed: f"seed{seed}")
def patient(request) -> Phantom:
    return make_phantom((5, request.param), all_contours=True)


def volume_cc(phantom: Phantom, name: str) -> float:
    return float(phantom.structures[name].sum() * phantom.grid.voxel_volume_mm3 / 1000)


def test_same_seed_same_bytes_also_in_another_process(run_python):
    program = (
        "import hashlib; from mtl_med.phantoms import make_phantom; p = make_phantom((3, 1), shape=(48, 48, 48));"
        "parts = [p.ct_hu, p.dose_gy, p.possible_dose_mask, p.grid.affine];"
        "parts += [p.structures[n] for n in sorted(p.structures)];"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in parts)).hexdigest())"
    )
    here = digest(make_phantom((3, 1), shape=SMALL))
    assert digest(make_phantom((3, 1), shape=SMALL)) == here
    assert run_python("-c", program, env={"OMP_NUM_THREADS": "1"}).stdout.strip() == here


def test_global_random_state_plays_no_part():
    np.random.seed(1)
    first = digest(make_phantom(3, shape=SMALL))
    np.random.seed(2)
    assert digest(make_phantom(3, shape=SMALL)) == first


@pytest.fixture(scope="module")
def patients() -> list[Phantom]:
    """Twelve coarse patients with the contours that they happen to have."""
    return [make_phantom((0, seed), shape=SMALL) for seed in range(12)]


def test_seeds_give_different_patients(patients):
    assert len({digest(item) for item in patients}) == 12
    assert len({item.grid.spacing_mm for item in patients}) >= 4
    assert len({tuple(item.prescriptions_gy) for item in patients}) >= 2
    volumes = np.array([volume_cc(item, "Mandible") for item in patients if "Mandible" in item.structures])
    assert volumes.std() / volumes.mean() > 0.05
    sides = {np.sign(item.grid.centroid_ras(item.structures["PTV70"])[0]) for item in patients}
    assert sides == {-1.0, 1.0}


def test_some_patients_lack_contours_as_in_real_data_but_not_when_all_are_asked_for(patients):
    lacking = [item for item in patients if not set(OARS) <= item.structures.keys()]
    assert 0 < len(lacking) < len(patients)
    assert all("PTV70" in item.structures for item in patients)
    assert set(OARS) <= make_phantom(lacking[0].seed, shape=SMALL, all_contours=True).structures.keys()


def test_fewer_voxels_show_the_same_patient():
    full, coarse = (make_phantom((0, 1), shape=(size,) * 3, all_contours=True) for size in (128, 64))
    assert coarse.prescriptions_gy == full.prescriptions_gy
    np.testing.assert_allclose(np.multiply(full.grid.spacing_mm, 2), coarse.grid.spacing_mm)
    for name in ("RightParotid", "LeftParotid", "Brainstem", "PTV70", "PTV56"):
        distance = full.grid.centroid_ras(full.structures[name]) - coarse.grid.centroid_ras(coarse.structures[name])
        assert np.abs(distance).max() < 3, name
        assert volume_cc(coarse, name) == pytest.approx(volume_cc(full, name), rel=0.15), name
        means = [item.dose_gy[item.structures[name]].mean() for item in (full, coarse)]
        assert means[0] == pytest.approx(means[1], abs=5), name


def test_volumes_are_plausible(patient):
    for name, (low, high) in VOLUMES_CC.items():
        assert low < volume_cc(patient, name) < high, name


def test_tissues_have_their_hounsfield_units(patient):
    for name, (low, high) in TISSUE_HU.items():
        assert low < patient.ct_hu[patient.structures[name]].mean() < high, name
    parotid = patient.ct_hu[patient.structures["LeftParotid"]]
    muscle_like = patient.ct_hu[(patient.ct_hu > 20) & (patient.ct_hu < 90)]
    assert np.median(parotid) < np.median(muscle_like) - 25
    assert (patient.ct_hu[patient.structures["Larynx"]] < -500).any()  # its airway
    assert patient.ct_hu.min() == -1024 and patient.ct_hu.max() > 800


def test_grid_is_the_published_one_in_ras(patient):
    assert patient.grid.shape == (128, 128, 128)
    assert patient.grid.axis_codes == "RAS"
    spacing = np.array(patient.grid.spacing_mm)
    np.testing.assert_allclose(patient.grid.affine[:3, 3], -63.5 * spacing)
    assert 3 <= spacing[0] <= 4.6 and spacing[0] == spacing[1] and 2 <= spacing[2] <= 3


def test_organs_lie_where_they_belong(patient):
    at = {name: patient.grid.centroid_ras(mask) for name, mask in patient.structures.items()}
    assert at["LeftParotid"][0] < 0 < at["RightParotid"][0]
    assert at["Mandible"][1] > max(at["SpinalCord"][1], 0)
    assert at["Brainstem"][2] > at["SpinalCord"][2]
    assert at["Larynx"][2] < at["Mandible"][2]
    assert at["Esophagus"][2] < at["Larynx"][2]
    assert at["SpinalCord"][1] < at["Esophagus"][1] < at["Larynx"][1]


def test_cord_continues_the_brainstem_without_sharing_a_voxel(patient):
    stem, cord = patient.structures["Brainstem"], patient.structures["SpinalCord"]
    assert not (stem & cord).any()
    lowest = np.flatnonzero(stem.any(axis=(0, 1)))[0]
    highest = np.flatnonzero(cord.any(axis=(0, 1)))[-1]
    assert abs(highest - lowest) <= 4


def test_structures_lie_in_the_body_and_targets_are_exclusive(patient):
    body = patient.ct_hu > -1024
    for name, mask in patient.structures.items():
        assert mask.dtype == bool and not (mask & ~body).any(), name
    assert sum(patient.structures[name].astype(int) for name in patient.prescriptions_gy).max() == 1


def test_targets_keep_away_from_cord_and_brainstem(patient):
    for target in patient.prescriptions_gy:
        for organ in ("SpinalCord", "Brainstem"):
            shared = (patient.structures[target] & patient.structures[organ]).sum()
            assert shared <= 0.02 * patient.structures[organ].sum(), (target, organ)


def test_targets_overlap_parotids_in_many_patients(patients):
    def overlaps(item: Phantom) -> bool:
        targets = np.logical_or.reduce([item.structures[name] for name in item.prescriptions_gy])
        return any(
            (targets & item.structures[name]).any()
            for name in ("LeftParotid", "RightParotid")
            if name in item.structures
        )

    assert sum(map(overlaps, patients)) >= 6


def test_tumour_is_brighter_than_its_surroundings(patient):
    inside = patient.ct_hu[patient.structures["PTV70"]]
    tissue = patient.ct_hu[(patient.ct_hu > -200) & (patient.ct_hu < 200)]
    bright = (inside > 75).mean() / (tissue > 75).mean()
    assert bright > 2


@pytest.mark.parametrize(
    ("seed", "shape"),
    [(-1, SMALL), ((), SMALL), (0, (16, 48, 48)), (0, (48, 48))],
    ids=["negative", "no-seed", "too-small", "two-axes"],
)
def test_impossible_requests_are_refused(seed, shape):
    with pytest.raises(UsageError):
        make_phantom(seed, shape=shape)
